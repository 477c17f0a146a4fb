"""The forecast grows as it should, and follows the plans of the compiler."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax import parallel
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.io.alignment.record import Alignment
from temdiff_jax.reconstruction import forecast, plan
from temdiff_jax.reconstruction.forecast import Size
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.series import preparation
from temdiff_jax.series.preparation import SeriesOptions

ANGLES = np.linspace(-20.0, 20.0, 11)
TILTS = np.random.default_rng(0).normal(8.0, 1.0, (11, 32, 48)).astype(np.float32)


@pytest.fixture
def choice(prior):
    return plan.choose("default", prior, Settings(window=32))


def predicted(choice, size, weighting="adaptive"):
    return forecast.predict(size, choice, weighting, ANGLES)


def test_sizes_are_those_of_the_geometry(choice):
    planned = plan.make_plan(TILTS, ANGLES, choice, SeriesOptions(24))
    size, geometry = Size.of(planned), planned.job.geometry
    assert size.wide == 4 * np.prod(geometry.volume_shape)
    assert size.tilts == TILTS.nbytes
    assert size.field == 4 * 24 * 48 * 32
    half = size.binned(2, ANGLES)
    assert (half.thickness, half.height, half.width) == (12, 16, 24)


def test_tilts_that_lie_elsewhere_cost_more(choice):
    shifts, ones = np.ones((11, 2)), np.ones(11)
    lying = [Alignment(ANGLES, shifts, turn * ones, ones) for turn in (0.0, 2.0)]
    sizes = [
        Size.of(plan.make_plan(TILTS, ANGLES, choice, SeriesOptions(24, alignment=own)))
        for own in (None, *lying)
    ]
    assert [s.motion for s in sizes] == [1.0, forecast.SHIFTED, forecast.TURNED]
    found = [predicted(choice, size) for size in sizes]
    assert found[0].seconds < found[1].seconds < found[2].seconds
    assert found[0].device_bytes < found[1].device_bytes == found[2].device_bytes
    assert sizes[2].binned(2, ANGLES).motion == forecast.TURNED


def test_steps_are_those_that_a_run_tells_of(choice, prior):
    size = Size(11, 32, 48, 24, 8)
    planned = plan.make_plan(TILTS, ANGLES, choice, SeriesOptions(24))
    found = predicted(choice, size)
    assert len(found.steps()) == planned.total
    assert sum(found.steps()) == pytest.approx(found.seconds)
    for method in ("mean", "posterior", "dps", "fbp", "tv", "tikhonov"):
        other = plan.choose(method, prior if method not in ("fbp", "tv") else "default")
        planned = plan.make_plan(TILTS, ANGLES, other, SeriesOptions(24))
        assert len(predicted(other, size).steps()) == planned.total, method


def test_on_a_mesh_it_is_that_of_one_device(choice, monkeypatch):
    devices = np.array([jax.devices()[0]] * 8, object).reshape(4, 2)
    mesh = jax.sharding.Mesh(devices, (parallel.SAMPLE, parallel.ROWS))
    alone = plan.make_plan(TILTS, ANGLES, choice, SeriesOptions(24))
    shared = plan.make_plan(TILTS, ANGLES, choice, SeriesOptions(24), mesh=mesh)
    # Virtual devices share the memory of the host.
    assert forecast.of_plan(shared) == predicted(choice, Size.of(shared))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    one, part = forecast.of_plan(alone), forecast.of_plan(shared)
    assert part.device_bytes < one.device_bytes and part.seconds < one.seconds
    assert part.host == one.host and len(part.steps()) == shared.total


def test_more_of_anything_needs_more(choice):
    size = Size(11, 32, 48, 24, 8)
    base = predicted(choice, size)
    for change in ({"num_tilts": 41}, {"height": 128}, {"thickness": 96}):
        more = predicted(choice, dataclasses.replace(size, **change))
        assert more.added() > base.added() and more.seconds > base.seconds, change
    many = dataclasses.replace(
        choice, settings=dataclasses.replace(choice.settings, num_samples=64)
    )
    assert predicted(many, size).host > base.host
    assert predicted(many, size).calls > base.calls
    assert predicted(choice, size, "off").device_bytes <= base.device_bytes
    assert base.windows == (24, 32, 32) and base.num_windows == 2


def test_a_binning_that_fits_is_found(choice):
    planned = plan.make_plan(TILTS, ANGLES, choice, SeriesOptions(24))
    size = Size(41, 2048, 2048, 256, 64)
    whole = predicted(choice, size).added()
    limit = whole / 5
    factor = forecast.fitting(size, planned, lambda found: found.added() < limit)
    assert factor in (2, 3)
    assert forecast.fitting(size, planned, lambda found: False) is None


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("thickness", [24, 48])
def test_the_quadratic_estimate_needs_what_the_compiler_plans(choice, thickness):
    """Arguments, results and temporaries of the compiled program, within a fifth."""
    planned = plan.make_plan(
        TILTS, ANGLES, choice, SeriesOptions(thickness, weighting="off")
    )
    geometry = planned.job.geometry
    iterations = settings_for(ANGLES).num_iters
    number = jnp.float32(1.0)
    program = functools.partial(preparation._prepare_series, num_iters=iterations)
    tilts = jax.ShapeDtypeStruct(geometry.tilts_shape, jnp.float32)
    trust = jnp.asarray(planned.job.trust)
    metric = Metric(number, number)
    arguments = (tilts, geometry, metric, trust, number, None)
    compiled = jax.jit(program).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    size = Size.of(planned)
    expected = forecast.SOLVE_VOLUMES * size.wide + forecast.SOLVE_TILTS * size.tilts
    assert memory.temp_size_in_bytes == pytest.approx(expected, rel=0.2)
