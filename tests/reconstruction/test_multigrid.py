"""Coarse to fine on a series: extents, grids, pulls, and the methods that use it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.projector import project
from temdiff_jax.reconstruction import methods, multigrid
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.reconstruction.watch import Watch
from temdiff_jax.series import inputs
from temdiff_jax.series.grids import grids_of

DEGREES = np.linspace(-20.0, 20.0, 5)
SETTINGS = Settings(
    num_samples=2, num_steps=2, cg_iters=0, mean_cg_iters=2, mirrors=False
)


@functools.cache
def series(shape):
    """A problem with inputs, of a random specimen on extents ``(nz, nu, ny)``."""
    nz, nu, ny = shape
    geometry = TiltGeometry.from_degrees(DEGREES, thickness=nz, width=nu, height=ny)
    rng = np.random.default_rng(0)
    volume = rng.random(geometry.volume_shape).astype(np.float32)
    tilts = project(jnp.asarray(volume), geometry)
    prepare = jax.jit(inputs.prepare, static_argnums=2)
    return prepare(tilts, geometry, settings_for(DEGREES))


def test_grown_problem_holds_the_same_rays():
    problem = series((14, 18, 11))
    grown = problem.grown(4)
    assert grown.field_of_view == (16, 20, 12)
    rng = np.random.default_rng(1)
    inner = rng.random(problem.geometry.volume_shape).astype(np.float32)
    outer = np.pad(inner, ((1, 1), (1, 1), (0, 1)))
    seen = np.asarray(jnp.broadcast_to(grown.precision.seen(), grown.tilts.shape))
    assert not seen[:, [0, -1]].any() and not seen[:, :, -1].any()
    ours = np.asarray(project(jnp.asarray(outer), grown.geometry))[:, 1:-1, :-1]
    theirs = np.asarray(project(jnp.asarray(inner), problem.geometry))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_array_equal(grown.tilts[:, 1:-1, :-1], problem.tilts)
    nz, nx, ny = problem.geometry.volume_shape
    odd = dataclasses.replace(problem.geometry, volume_shape=(nz + 1, nx, ny))
    with pytest.raises(ValueError, match="odd change"):
        dataclasses.replace(problem, geometry=odd).grown(4)


def test_grids_follow_voxels_and_extents():
    problem = series((14, 18, 11))
    assert multigrid.steps_for(problem, SETTINGS).factors == (1,)
    wide = dataclasses.replace(problem.geometry, volume_shape=(66, 90, 64), num_u=70)
    big = dataclasses.replace(problem, geometry=wide)
    assert multigrid.steps_for(big, SETTINGS) == ((4, 2, 1), (2, 4, 4), 80.0)
    coarse = dataclasses.replace(big, voxel_nm=20.0)
    assert multigrid.steps_for(coarse, SETTINGS).factors == (2, 1)
    odd = dataclasses.replace(wide, volume_shape=(65, 90, 64))
    assert multigrid.steps_for(
        dataclasses.replace(big, geometry=odd), SETTINGS
    ).factors == (1,)


def test_scalars_of_the_finest_grid_are_those_of_the_series():
    problem = series((16, 20, 16))
    shown = problem.shown
    known = dataclasses.replace(
        problem, inputs=shown._replace(features=shown.features + 0.5)
    )
    coarse, fine = grids_of(known, settings_for(DEGREES), (2, 1))
    bare, _ = grids_of(
        dataclasses.replace(problem, inputs=None), settings_for(DEGREES), (2, 1)
    )
    np.testing.assert_allclose(fine.shown.features, known.shown.features, atol=1e-5)
    change = coarse.shown.features - bare.shown.features
    np.testing.assert_allclose(change, 0.5, atol=0.05)


@pytest.mark.slow
def test_methods_sample_coarse_to_fine_and_pulls_bring_samples_to_the_tilts(
    linear_prior,
):
    problem = series((18, 22, 16))
    assert multigrid.steps_for(problem, SETTINGS).factors == (2, 1)
    told = []

    def run(**change):
        settings = dataclasses.replace(SETTINGS, **change)
        row = methods.table()["default"]
        return row.run(
            jax.random.key(3),
            problem,
            linear_prior,
            settings,
            Watch(lambda n, text: told.append(n)),
        )

    free, pulled = run(), run(cg_iters=8)
    assert free.samples.shape == (2, 18, 22, 16) and free.volume.shape == (18, 22, 16)
    assert told[-1] == methods.table()["default"].steps(SETTINGS)
    np.testing.assert_array_equal(free.samples, run().samples)

    def misfit(volume):
        normalised = (volume - problem.units.mean) / problem.units.contrast
        inside = problem.geometry.crop(problem.shown.tikhonov)
        wide = problem.shown.tikhonov + problem.geometry.pad_lateral(
            normalised - inside
        )
        error = project(wide, problem.geometry) - problem.tilts
        return float(jnp.mean(error**2))

    # White specimens: most of the misfit is detail that five tilts cannot fix.
    assert misfit(pulled.samples[0]) < 0.9 * misfit(free.samples[0])
