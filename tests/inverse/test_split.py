"""What the tilts fix and what they do not: planted contents are told apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse import split
from temdiff_jax.projector import project
from temdiff_jax.series import inputs

SHAPE = (16, 24, 24)


@pytest.fixture(scope="module")
def problem():
    geometry = TiltGeometry.from_degrees(
        np.linspace(-10.0, 10.0, 11), thickness=16, width=24, height=24
    )
    volume = smooth(0, geometry.volume_shape)
    return inputs.normalise(project(volume, geometry), geometry)


def smooth(seed, shape=SHAPE):
    """Structures of some voxels."""
    noise = jax.random.normal(jax.random.key(seed), shape)
    return split._local_mean(noise) * 10.0


def test_the_parts_add_up_and_the_share_is_a_share(problem):
    volume = problem.geometry.pad_lateral(smooth(1))
    found = split.split(problem, volume)
    inside = smooth(1) - jnp.mean(smooth(1))
    np.testing.assert_allclose(found.data + found.prior, inside, atol=1e-5)
    assert 0.0 <= float(found.share.min()) and float(found.share.max()) <= 1.0
    assert 0.05 < float(found.total) < 0.95


def test_columns_along_the_beam_are_fixed_and_layers_across_it_are_not(problem):
    """At 10 degrees the tilts see every column, and no layer that has no edge."""
    flat = jnp.broadcast_to(smooth(2).mean(axis=0), SHAPE)
    layers = jnp.broadcast_to(smooth(3).mean(axis=(1, 2))[:, None, None], SHAPE)
    pad = problem.geometry.pad_lateral
    columns = split.split(problem, pad(flat / flat.std()))
    across = split.split(problem, pad(layers / layers.std()))
    assert float(columns.total) < 0.2 < 0.6 < float(across.total)


def area_under_curve(score, planted):
    """Chance that a planted voxel has the larger score (Mann-Whitney)."""
    order = np.argsort(np.argsort(np.concatenate([score[planted], score[~planted]])))
    count, rest = planted.sum(), (~planted).sum()
    return (order[:count].sum() - count * (count - 1) / 2) / (count * rest)


def test_what_is_planted_where_no_tilt_sees_it_is_found(problem):
    """Half of the field holds content of the null space, all of it what is measured."""
    pad, crop = problem.geometry.pad_lateral, problem.geometry.crop
    measured = split.split(problem, pad(smooth(4))).data
    # The mask comes first and the projection last: masking would make it visible.
    unseen = smooth(5) * (jnp.arange(24) < 12)[None, :, None]
    for _ in range(12):
        unseen = split.split(problem, pad(unseen)).prior
    planted = np.broadcast_to((np.arange(24) < 12)[None, :, None], SHAPE)
    whole = measured / measured.std() + 1.5 * unseen / unseen.std()
    before = crop(pad(measured / measured.std()))
    found = split.split(problem, pad(whole))
    auc = area_under_curve(np.asarray(found.share).ravel(), planted.ravel())
    assert auc > 0.9
    # It changes hardly anything that is measured.
    changes = project(pad(whole - before), problem.geometry)
    assert float(jnp.std(changes)) < 0.1 * float(
        jnp.std(project(pad(before), problem.geometry))
    )
    alone = split.split(problem, pad(measured))
    assert float(jnp.median(alone.share)) < 0.5
