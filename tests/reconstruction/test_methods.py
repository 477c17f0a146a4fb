"""The table of methods on tilts, with small networks of random weights."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, chunked
from temdiff_jax.diffusion import methods as published
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import Measurement
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.model import NUM_FEATURES, NetworkConfig, make_network
from temdiff_jax.priors import Prior
from temdiff_jax.projector import project
from temdiff_jax.reconstruction import methods, reconstruct
from temdiff_jax.reconstruction.denoiser import frame_of
from temdiff_jax.reconstruction.settings import Settings
from temdiff_jax.series import inputs

ANGLES = np.linspace(-20.0, 20.0, 5)
SHAPE = (8, 6, 16)  # z, y, x
SCALE = inputs.ResidualScale(jnp.float32(-0.3), jnp.zeros(NUM_FEATURES))
METRIC = Metric(jnp.float32(1.0), jnp.float32(1.0))


def make_prior(**kind) -> Prior:
    config = NetworkConfig(channels=(8,), blocks=(1,), groups=4, **kind)
    network = make_network(config)
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.05 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract,
    )
    card = {"name": "random"}
    return Prior(network, params, SCALE, METRIC, METRIC, card, "")


DOLCE = make_prior(planar=True, target="volume")
MBIR = make_prior(planar=True, target="volume", conditional=False)
OURS = make_prior()


@pytest.fixture(scope="module")
def tilts():
    """Tilts [n, y, x] of a bright block in a slab."""
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=SHAPE[0], width=SHAPE[2], height=SHAPE[1]
    )
    nz, nx, ny = geometry.volume_shape
    volume = np.full((nz, nx, ny), 1.0, np.float32)
    volume[2:5, nx // 2 - 3 : nx // 2 + 2, 1:4] = 3.0
    noise = np.random.default_rng(0).normal(size=(5, geometry.num_u, ny))
    core = np.asarray(project(jnp.asarray(volume), geometry)) + 0.05 * noise
    return np.float32(core.swapaxes(1, 2))


WEIGHTS = {"dolce": DOLCE, "diffusion_mbir": MBIR, "prior": OURS}
TABLE = methods.table()
SAMPLERS = [name for name, row in TABLE.items() if row.sampling is not None]
# Numbers under which every sampler is cheap.
CHEAP = {"num_iters": 2, "inner_steps": 2, "ode_steps": 2, "every": 2, "average": 2}


def cheap(name):
    row = TABLE[name]
    known = inspect.signature(row.sampling.make).parameters
    return row.with_numbers(**{k: v for k, v in CHEAP.items() if k in known})


def run(name, tilts, seed=0, *, row=None, **options):
    row = cheap(name) if row is None else row
    settings = {"num_samples": 1, "num_steps": 3, "weighting": "off"} | options
    return reconstruct(
        tilts,
        ANGLES,
        thickness=SHAPE[0],
        method=row,
        prior=WEIGHTS[row.needs],
        contrast="bright",
        key=seed,
        keep_samples=True,
        **settings,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_published_sampler_runs_on_a_series_of_tilts(name, tilts):
    found = run(name, tilts)
    assert found.mean.shape == SHAPE and found.mean.dtype == np.float32
    assert np.all(np.isfinite(found.mean))
    assert found.samples.shape == (1, *SHAPE)
    assert found.provenance["method"] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dolce", "dds", "dds-3d"])
def test_a_sampler_reconstructs_in_the_units_of_the_tilts(name, tilts):
    volume = run(name, tilts).mean
    np.testing.assert_array_equal(run(name, tilts).mean, volume)
    assert np.max(np.abs(run(name, tilts, seed=1).mean - volume)) > 1e-4
    scaled = run(name, 4.0 * tilts).mean
    np.testing.assert_allclose(scaled, 4.0 * volume, rtol=1e-2, atol=1e-2)
    inside = volume[2:5, 1:4, 6:10].mean()
    assert inside > volume.mean() + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dps", "ddnm", "daps"])
def test_published_samplers_take_coherent_errors(name, tilts):
    found = run(name, tilts, weighting="low-rank")
    assert np.all(np.isfinite(found.mean))
    assert np.max(np.abs(found.mean - run(name, tilts).mean)) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusion-mbir", "dds", "dds-tuned", "dds-3d"])
@pytest.mark.parametrize("changes", [{}, {"num_iters": 2}])
def test_pairs_are_those_that_a_run_takes(name, changes):
    """Projections counted while a sampler runs; power iterations are in both runs."""
    row = TABLE[name].with_numbers(**changes)

    def projections(num_steps):
        seen = []

        def forward(x):
            jax.debug.callback(lambda: seen.append(1))
            return x[:2]

        problem = Measurement(
            forward, lambda r: jnp.pad(r, [(0, 2), (0, 0)]), jnp.ones((2, 3)), 1.0
        )
        sampling = row.sampling
        sampler = sampling.make(
            lambda x, sigma: 0.9 * x,
            problem,
            sigmas=sampling.schedule(num_steps),
            **dict(sampling.counts),
            **dict(sampling.numbers),
        )
        algebra.draw(sampler, jax.random.key(0), (1, 4, 3))
        jax.effects_barrier()
        settings = Settings(num_samples=1, num_steps=num_steps)
        return len(seen), row.pairs(settings, ANGLES)

    (few, few_pairs), (more, more_pairs) = projections(3), projections(7)
    assert more - few == more_pairs - few_pairs > 0
    norms = 0 if name in ("dds", "dds-tuned") else 20
    assert few - few_pairs == norms


@pytest.mark.slow
def test_the_estimate_is_the_mean_of_the_samples_and_numbers_compile_nothing(tilts):
    """Sample i does not depend on how many follow."""
    one, two = (run("dolce", tilts, num_samples=n) for n in (1, 2))
    np.testing.assert_allclose(one.samples[0], two.samples[0], atol=1e-5)
    np.testing.assert_allclose(two.mean, two.samples.mean(axis=0), atol=1e-5)
    row = cheap("dolce").with_numbers(strength=0.7)
    run("dolce", tilts, row=row)
    compiled = chunked._chunk._cache_size()
    run("dolce", tilts, row=row.with_numbers(strength=0.2))
    assert chunked._chunk._cache_size() == compiled


@pytest.mark.slow
def test_volume_frame_is_empty_in_the_field_of_view_and_tikhonov_beside_it(tilts):
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=SHAPE[0], width=SHAPE[2], height=SHAPE[1]
    )
    core = jnp.asarray(tilts.swapaxes(1, 2))
    problem = inputs.prepare(core, geometry, settings_for(ANGLES))
    frame = frame_of(problem, DOLCE)
    assert geometry.margin > 0
    assert not np.any(geometry.crop(frame.base))
    edge, shown = geometry.margin, problem.shown
    np.testing.assert_array_equal(frame.base[:, :edge], shown.tikhonov[:, :edge])
    spread = float(shown.level) * np.sqrt(1 + np.exp(-0.6))
    np.testing.assert_allclose(frame.unit, spread, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "prior", "message"),
    [
        ("dolce", MBIR, "expected a conditional network of volumes for dolce"),
        ("dolce", OURS, "got a conditional one of the residual in 'random'"),
        ("diffusion-mbir", DOLCE, "expected an unconditional.*got a conditional"),
        ("diffusion-mbir", "default", "weights of its own for diffusion-mbir, got"),
        ("mean", DOLCE, "expected a conditional network of the residual for mean"),
    ],
)
def test_weights_of_another_kind_are_refused(name, prior, message, tilts):
    with pytest.raises(InputError, match=message) as caught:
        reconstruct(tilts, ANGLES, thickness=SHAPE[0], method=name, prior=prior)
    assert "\n" not in str(caught.value)


def test_published_numbers_are_the_defaults():
    assert TABLE["dolce"].settings.num_steps == 40
    assert TABLE["dolce"].settings.num_samples == 8
    mbir = TABLE["diffusion-mbir"]
    assert (mbir.settings.num_steps, mbir.calls(mbir.settings)) == (2000, 4000)
    assert mbir.sampling.numbers == mbir.sampling.counts == ()
    assert TABLE["dds"].settings.num_steps == TABLE["dds-3d"].settings.num_steps == 50
    assert TABLE["dolce"].pairs(TABLE["dolce"].settings, ANGLES) is None


def test_every_row_says_what_it_is_and_where_it_comes_from():
    for name, row in TABLE.items():
        assert row.name == name and row.summary and len(row.summary) < 110
        assert row.paper or name in ("proximal-ddim", "tikhonov"), name
        assert row.calls(row.settings) >= bool(row.needs)


@pytest.mark.parametrize(
    ("name", "near"), [("dsp", "dps"), ("fpb", "fbp"), ("diffusion_mbri", "mbir")]
)
def test_an_unknown_method_names_the_nearest(name, near):
    with pytest.raises(InputError, match=f"did you mean '.*{near}"):
        methods.method_of(name)


def test_numbers_that_a_sampler_does_not_have_are_refused():
    with pytest.raises(InputError, match="numbers of dps: expected one of scale, got"):
        TABLE["dps"].with_numbers(scal=0.1)
    with pytest.raises(InputError, match="expected a published sampler, got fbp"):
        TABLE["fbp"].with_numbers(lam=0.1)
    for change, wanted in (
        ({"num_iters": 2.5}, "expected num_iters as a whole number of at least 1"),
        ({"num_iters": 0}, "got 0; 5 is its own value"),
        ({"eta": "much"}, "expected eta as a finite number, got 'much'"),
        ({"eta": float("nan")}, "expected eta as a finite number, got nan"),
    ):
        with pytest.raises(InputError, match=wanted):
            TABLE["dds"].with_numbers(**change)


def test_numbers_of_a_sampler_are_shown_and_taken_in_their_own_kind():
    assert TABLE["dps"].numbers == {"scale": 0.05}
    assert TABLE["dds-tuned"].numbers == {"eta": 0.0, "num_iters": 1}
    assert TABLE["fbp"].numbers == {}
    changed = TABLE["dds"].with_numbers(eta=1, num_iters=2.0)
    assert changed.numbers == {"eta": 1.0, "num_iters": 2}
    # A whole number is compiled in, another one is an argument.
    assert changed.sampling.numbers == (("eta", 1.0),)
    assert changed.sampling.counts == (("num_iters", 2),)


def test_a_sampler_under_another_number_gives_another_volume(tilts):
    own = run("dps", tilts)
    changed = run("dps", tilts, row=cheap("dps").with_numbers(scale=0.5))
    assert np.max(np.abs(changed.mean - own.mean)) > 1e-4
    assert own.provenance["numbers"] == {"scale": 0.05}
    assert changed.provenance["numbers"] == {"scale": 0.5}


@pytest.mark.parametrize("name", published.SAMPLERS)
def test_a_sampler_runs_on_the_grid_of_its_paper(name):
    data = Measurement(lambda x: x, lambda r: r, jnp.ones((2, 3)), 1.0)
    own = published.SAMPLERS[name](lambda x, sigma: x, data).sigmas
    row = TABLE[name]
    assert row.settings.num_steps == len(own) - 1
    found = row.sampling.schedule(row.settings.num_steps)
    np.testing.assert_allclose(found, own, rtol=1e-6)
