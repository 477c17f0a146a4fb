"""A series as a value: views of it, and the same specimen on a coarser grid."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse import precision
from temdiff_jax.inverse.precision import Precision
from temdiff_jax.inverse.problem import Measurement, Problem, Units, bin_tilts
from temdiff_jax.projector import project

ANGLES = (-30.0, -10.0, 0.0, 20.0, 50.0)
UNITS = Units(jnp.float32(2.0), jnp.float32(0.5))


def blobs(shape, centres, width):
    """Smooth blobs ``[z, x, y]``; centres from the middle, voxels."""
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    grid = np.meshgrid(*axes, indexing="ij")
    total = np.zeros(shape, np.float32)
    for height, centre in enumerate(centres, 1):
        square = sum((g - c) ** 2 for g, c in zip(grid, centre))
        total += height * np.exp(-0.5 * square / width**2)
    return jnp.asarray(total)


def mean_of_blocks(volume, factor):
    nz, nx, ny = (n // factor for n in volume.shape)
    blocks = volume.reshape(nz, factor, nx, factor, ny, factor)
    return blocks.mean(axis=(1, 3, 5))


@pytest.mark.parametrize("factor", [2, 4])
def test_projecting_a_binned_volume_is_binning_its_projection(factor):
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=32, width=48, height=16, lateral_margin=16
    )
    volume = blobs(geometry.volume_shape, [(5, -9, 1), (-4, 7, -2)], 5.0)
    weight = jnp.full((len(ANGLES), 1, 1), 4.0)
    fine = Problem(geometry, project(volume, geometry), weight, UNITS)
    coarse = jax.jit(Problem.binned, static_argnums=1)(fine, factor)
    assert coarse.geometry.volume_shape == tuple(
        n // factor for n in geometry.volume_shape
    )
    expected = project(mean_of_blocks(volume, factor), coarse.geometry)
    error = np.abs(expected - coarse.tilts).max() / np.abs(expected).max()
    assert error < (0.01 if factor == 2 else 0.05)
    assert coarse.units is not None and coarse.inputs is None
    np.testing.assert_array_equal(coarse.units, fine.units)
    # Variance of a mean of f^2 pixels, divided by f for the larger voxels.
    np.testing.assert_allclose(coarse.precision.weight, 4.0 * factor**4, rtol=1e-6)


def test_extents_that_do_not_divide_grow_on_either_side():
    geometry = TiltGeometry.from_degrees(
        ANGLES, thickness=22, width=30, height=14, lateral_margin=6
    )
    volume = blobs(geometry.volume_shape, [(0, 0, 0)], 4.0)
    tilts = project(volume, geometry)
    weight = jnp.ones((len(ANGLES), 1, 1))
    coarse = Problem(geometry, tilts, weight, UNITS).binned(4)
    assert coarse.geometry.volume_shape == (6, 8 + 2 * 2, 4)
    assert coarse.tilts.shape == coarse.geometry.tilts_shape == (len(ANGLES), 8, 4)
    # What was in the middle stays there: the blob is symmetric on the coarse grid.
    upright = coarse.tilts[2]
    np.testing.assert_allclose(upright, upright[::-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(upright, upright[:, ::-1], rtol=1e-4, atol=1e-4)
    # A corner pixel is the mean of the pixels that exist, and less sure.
    np.testing.assert_allclose(upright[0, 0], tilts[2, :3, :3].mean() / 4, rtol=1e-5)
    assert coarse.precision.weight[2, 0, 0] == pytest.approx(9 * 16)
    assert coarse.precision.weight[2, 4, 2] == pytest.approx(16 * 16)


def test_binning_by_one_leaves_everything_but_the_inputs():
    geometry = TiltGeometry.from_degrees([0.0], thickness=3, width=4, height=5)
    problem = Problem(geometry, jnp.zeros(geometry.tilts_shape), 1.0, UNITS)
    assert problem.binned(1).tilts is problem.tilts


@pytest.mark.usefixtures("x64")
def test_precision_of_means_is_that_of_the_binned_covariance():
    """Against B Sigma B^T, with the masked pixels left out of the means."""
    rng = np.random.default_rng(0)
    shape, factor = (2, 4, 6), 2
    weight = rng.uniform(0.5, 2.0, shape)
    weight[0, 1, 1] = weight[1, 2, 3] = 0.0
    columns = rng.normal(size=(2, 3, 4, 6))
    built = precision.low_rank(jnp.asarray(weight), jnp.asarray(columns))
    tilts = jnp.asarray(rng.normal(size=shape))
    means, found = bin_tilts(tilts, built, factor)
    assert means.shape == (2, 2, 3)
    for tilt in range(2):
        seen = (weight[tilt] > 0).ravel()
        operator = np.zeros((6, 24))
        for index in range(24):
            u, y = divmod(index, 6)
            operator[(u // factor) * 3 + y // factor, index] = seen[index]
        operator /= factor * operator.sum(axis=1, keepdims=True)
        spread = columns[tilt].reshape(3, -1)
        variance = np.where(seen, 1 / np.where(seen, weight[tilt].ravel(), 1), 0)
        covariance = np.diag(variance) + spread.T @ spread
        expected = np.linalg.inv(operator @ covariance @ operator.T)
        basis = jnp.zeros((6, 2, 2, 3)).at[:, tilt].set(jnp.eye(6).reshape(6, 2, 3))
        got = jax.vmap(lambda r: found * r)(basis)[:, tilt].reshape(6, 6)
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)
        exact = operator @ np.asarray(tilts[tilt]).ravel()
        np.testing.assert_allclose(means[tilt].ravel(), exact, rtol=1e-12)
    # The amplitudes are still those of the columns that were given.
    drawn = jnp.asarray([[0.4, -0.2, 0.1]] * 2)
    coherent = jnp.einsum("kmuy,km->kuy", jnp.asarray(columns), drawn)
    sure = dataclasses.replace(built, weight=jnp.asarray(weight))
    moved, shown = bin_tilts(coherent, sure, factor)
    assert shown.amplitudes(moved).shape == (2, 3)


def test_an_array_of_weights_becomes_a_precision():
    geometry = TiltGeometry.from_degrees([0.0], thickness=3, width=4, height=5)
    problem = Problem(geometry, jnp.zeros(geometry.tilts_shape), 2.0, UNITS)
    assert isinstance(problem.precision, Precision)
    data = Measurement(lambda x: x, lambda r: r, jnp.zeros(3), jnp.ones(3))
    assert isinstance(data.precision, Precision)
    leaves, tree = jax.tree.flatten(problem)
    again = jax.tree.unflatten(tree, leaves)
    assert isinstance(again.precision, Precision) and again.geometry.num_u == 4
    assert jax.tree.structure(jax.jit(lambda p: p)(problem)) == tree


def test_units_lead_back_to_the_input():
    geometry = TiltGeometry.from_degrees(
        [0.0], thickness=3, width=4, height=5, lateral_margin=2
    )
    problem = Problem(geometry, jnp.zeros(geometry.tilts_shape), 2.0, UNITS)
    volume = jnp.ones(geometry.volume_shape)
    inside = problem.to_input_units(volume)
    assert inside.shape == problem.field_of_view == (3, 4, 5)
    np.testing.assert_allclose(inside, 2.5)
    np.testing.assert_allclose(problem.background(), 2.0 * 3 / 0.5, rtol=1e-6)
