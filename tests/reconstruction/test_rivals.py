"""Rivals from tilts to volumes, with small networks of random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra
from temdiff_jax.diffusion.consistency import Measurement
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.model import NUM_FEATURES, NetworkConfig, make_network
from temdiff_jax.priors import Prior
from temdiff_jax.projector import project
from temdiff_jax.reconstruction import rivals
from temdiff_jax.series import inputs

# Each of these compiles for seconds.

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
WEIGHTS = {
    "dolce": DOLCE,
    "dolce_fast": DOLCE,
    "diffusion_mbir": MBIR,
    "diffusion_mbir_fast": MBIR,
    "dds": OURS,
    "dds_tuned": OURS,
    "dds_3d": MBIR,
}


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


def run(name, tilts, seed=0, **changes):
    settings = rivals.RIVALS[name]._replace(num_steps=3, num_samples=1)
    settings = settings._replace(**changes)
    return rivals.reconstruct(
        tilts,
        ANGLES,
        thickness=SHAPE[0],
        settings=settings,
        prior=WEIGHTS[name],
        seed=seed,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["dolce", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dds", "dds_3d"))],
)
def test_a_rival_reconstructs_in_the_units_of_the_tilts(name, tilts):
    volume = run(name, tilts)
    assert volume.shape == SHAPE and volume.dtype == np.float32
    assert np.all(np.isfinite(volume))
    np.testing.assert_array_equal(run(name, tilts), volume)
    assert np.max(np.abs(run(name, tilts, seed=1) - volume)) > 1e-4
    np.testing.assert_allclose(
        run(name, 4.0 * tilts), 4.0 * volume, rtol=1e-2, atol=1e-2
    )
    inside = volume[2:5, 1:4, 6:10].mean()
    assert inside > volume.mean() + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusion_mbir", "dds", "dds_tuned", "dds_3d"])
@pytest.mark.parametrize("changes", [{}, {"num_iters": 2}])
def test_pairs_are_those_that_a_run_takes(name, changes):
    """Projections counted while a sampler runs; power iterations are in both runs."""

    def projections(num_steps):
        settings = rivals.RIVALS[name]
        counts = dict(settings.counts) | changes
        settings = settings._replace(num_steps=num_steps, counts=tuple(counts.items()))
        seen = []

        def forward(x):
            jax.debug.callback(lambda: seen.append(1))
            return x[:2]

        problem = Measurement(
            forward, lambda r: jnp.pad(r, [(0, 2), (0, 0)]), jnp.ones((2, 3)), 1.0
        )
        sampler = settings.make(
            lambda x, sigma: 0.9 * x,
            problem,
            sigmas=settings.grid(num_steps),
            **counts,
            **dict(settings.numbers),
        )
        algebra.draw(sampler, jax.random.key(0), (1, 4, 3))
        jax.effects_barrier()
        return len(seen), rivals.solver_pairs(settings)

    (few, few_pairs), (more, more_pairs) = projections(3), projections(7)
    assert more - few == more_pairs - few_pairs > 0
    norms = 0 if name in ("dds", "dds_tuned") else 20
    assert few - few_pairs == norms


def test_pairs_of_a_solver_that_ends_by_itself_are_not_known():
    assert rivals.solver_pairs(rivals.DOLCE) is None


@pytest.mark.slow
def test_diffusion_mbir_in_chunks_finds_the_block(tilts):
    reports = []
    settings = rivals.DIFFUSION_MBIR._replace(num_steps=60)
    volume = rivals.reconstruct(
        tilts,
        ANGLES,
        thickness=SHAPE[0],
        settings=settings,
        prior=MBIR,
        on_progress=lambda *steps: reports.append(steps),
    )
    assert reports == [(50, 60), (60, 60)]
    assert np.all(np.isfinite(volume))
    assert volume[2:5, 1:4, 6:10].mean() > volume.mean() + 0.2


@pytest.mark.slow
def test_the_estimate_is_the_mean_of_the_samples(tilts):
    """Sample i does not depend on how many follow."""
    one, two = (run("dolce", tilts, num_samples=n) for n in (1, 2))
    assert np.max(np.abs(two - one)) > 1e-4
    second = 2.0 * two - one
    assert np.std(second - one) < 4 * np.std(one)
    compiled = rivals._advance._cache_size()
    run("dolce", tilts, num_samples=2, numbers=(("strength", 0.7),))
    run("dolce", tilts, num_samples=2, numbers=(("strength", 0.2),))
    # Naming a number is another program; its value is not.
    assert rivals._advance._cache_size() == compiled + 1


@pytest.mark.slow
def test_volume_frame_is_empty_in_the_field_of_view_and_tikhonov_beside_it(tilts):
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=SHAPE[0], width=SHAPE[2], height=SHAPE[1]
    )
    settings = rivals.settings_for(ANGLES)
    ready = rivals._prepare(
        jnp.asarray(tilts.swapaxes(1, 2)),
        geometry,
        jnp.float32(settings.smoothness),
        jnp.float32(settings.ridge),
        num_iters=settings.num_iters,
    )
    frame = rivals.volume_frame(ready, SCALE, geometry)
    assert geometry.margin > 0
    assert not np.any(geometry.crop(frame.base))
    edge = geometry.margin
    np.testing.assert_array_equal(frame.base[:, :edge], ready.tikhonov[:, :edge])
    spread = float(ready.level) * np.sqrt(1 + np.exp(-0.6))
    np.testing.assert_allclose(frame.unit, spread, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "prior", "message"),
    [
        ("dolce", MBIR, "expected a conditional network of volumes for dolce"),
        ("dolce", OURS, "got a conditional one of the residual in 'random'"),
        ("diffusion_mbir", DOLCE, "expected an unconditional.*got a conditional"),
    ],
)
def test_weights_of_another_kind_are_refused(name, prior, message, tilts):
    with pytest.raises(InputError, match=message) as caught:
        rivals.reconstruct(
            tilts,
            ANGLES,
            thickness=SHAPE[0],
            settings=rivals.RIVALS[name],
            prior=prior,
        )
    assert "\n" not in str(caught.value)


def test_published_numbers_are_the_defaults():
    assert (rivals.DOLCE.num_steps, rivals.DOLCE.num_samples) == (40, 8)
    mbir = rivals.DIFFUSION_MBIR
    assert (mbir.num_steps, mbir.calls, mbir.numbers, mbir.counts) == (2000, 2, (), ())
    assert rivals.DDS.num_steps == rivals.DDS_3D.num_steps == 50
    for short, full in rivals.SHARED_WEIGHTS.items():
        assert rivals.RIVALS[short].conditional == rivals.RIVALS[full].conditional
