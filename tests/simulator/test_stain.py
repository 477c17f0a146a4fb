import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.simulator import stain

SHAPE = (6, 5, 7)

# No change of grey levels: what is sampled is what the block holds.
PLAIN = stain.StainConfig(gamma=(1.0, 1.0), grain=(0.0, 0.0))
EXACT = dataclasses.replace(PLAIN, exact_fraction=1.0)
TURNED = dataclasses.replace(PLAIN, exact_fraction=0.0)


def numbered_block(shape=(7, 8, 4)):
    """Every voxel has a grey level of its own, 0 to 223."""
    return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)


def full_range(volume):
    """The bank of one block whose grey levels 0-255 map to stain 1-0."""
    bank = stain.make_bank([volume])
    return bank._replace(dark=jnp.asarray([0.0]), bright=jnp.asarray([255.0]))


def grey_levels(sampled):
    return 255 * (1 - np.asarray(sampled, np.float64))


def symmetries():
    """The 48 signed permutation matrices."""
    for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
        for bits in range(8):
            signs = [1 - 2 * (bits >> a & 1) for a in range(3)]
            yield np.eye(3, dtype=int)[order] * np.array(signs)[:, None]


def mirrored_crop(volume, turn, centre, shape):
    """A crop by explicit mirrors: the block continued by its reflections."""
    pad = 12
    wide = np.pad(volume, pad, mode="symmetric")
    half = np.array(shape)[:, None] // 2
    offsets = np.indices(shape).reshape(3, -1) - half
    return wide[tuple(turn @ offsets + centre[:, None] + pad)].reshape(shape)


@pytest.mark.slow
def test_exact_crops_are_turned_pieces_of_the_block_continued_by_mirrors():
    block = numbered_block()
    seen = set()
    for seed in range(6):
        crop = stain.sample_stain(jax.random.key(seed), full_range(block), SHAPE, EXACT)
        grey = grey_levels(crop)
        whole = np.rint(grey)
        np.testing.assert_allclose(grey, whole, atol=2e-5)
        middle = int(whole[tuple(n // 2 for n in SHAPE)])
        centre = np.array(np.unravel_index(middle, block.shape))
        matches = [
            i
            for i, turn in enumerate(symmetries())
            if np.array_equal(mirrored_crop(block, turn, centre, SHAPE), whole)
        ]
        assert matches
        seen.add((matches[0], middle))
    assert len(seen) > 3  # orientation and place do vary


@pytest.mark.slow
def test_octahedral_rotations_are_signed_permutations_and_all_occur():
    keys = jax.random.split(jax.random.key(0), 600)
    turns = np.asarray(jax.vmap(stain.octahedral_rotation)(keys)).astype(int)
    found = {tuple(turn.ravel()) for turn in turns}
    assert found == {tuple(turn.ravel()) for turn in symmetries()}


@pytest.mark.slow
def test_random_rotations_are_proper_and_uniform():
    keys = jax.random.split(jax.random.key(1), 4000)
    turns = np.asarray(jax.vmap(stain.random_rotation)(keys), np.float64)
    products = turns @ np.swapaxes(turns, 1, 2)
    np.testing.assert_allclose(products, np.eye(3) * np.ones((4000, 1, 1)), atol=2e-6)
    np.testing.assert_allclose(np.linalg.det(turns), 1.0, atol=2e-6)
    # Of a uniform rotation every entry has mean 0 and variance 1/3.
    np.testing.assert_allclose(turns.mean(axis=0), 0.0, atol=5 * 0.577 / 4000**0.5)
    np.testing.assert_allclose((turns**2).mean(axis=0), 1 / 3, atol=0.025)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_reflection_equals_numpy_symmetric_padding(size):
    index = jnp.arange(-3 * size, 4 * size)
    expected = np.pad(np.arange(size), 3 * size, mode="symmetric")
    np.testing.assert_array_equal(stain._reflect(index, size), expected)


@pytest.mark.slow
def test_interpolation_is_exact_on_a_ramp():
    ramp = np.add.outer(np.add.outer(9 * np.arange(8), 5 * np.arange(9)), np.arange(6))
    bank = full_range(ramp.astype(np.uint8))
    where = jnp.asarray([[0.25, 3.5, 6.0], [1.75, 0.0, 7.5], [2.5, 4.0, 0.125]])
    extent = bank.shapes[0]
    grey = stain._trilinear(bank, 0, extent, where[:, :, None, None])
    expected = jnp.asarray([9.0, 5.0, 1.0]) @ where
    np.testing.assert_allclose(grey[:, 0, 0], expected, rtol=1e-6)


@pytest.mark.slow
def test_rotated_crops_stay_between_the_grey_levels_of_the_block():
    block = np.full((9, 9, 9), 100, np.uint8)
    crop = stain.sample_stain(jax.random.key(2), full_range(block), SHAPE, TURNED)
    np.testing.assert_allclose(grey_levels(crop), 100, atol=1e-3)


@pytest.mark.slow
def test_warp_has_the_asked_size_and_folds_nothing():
    shape, size = (40, 96, 64), 2.0
    fields = np.stack(
        [stain._warp(jax.random.key(seed), shape, size) for seed in range(12)]
    )
    assert fields.shape == (12, 3, *shape)
    # 12 x 3 fields of about 15 independent values each.
    assert np.sqrt(np.mean(fields**2)) == pytest.approx(size, rel=0.1)
    slopes = np.stack([np.gradient(fields, axis=axis) for axis in (2, 3, 4)], axis=2)
    jacobian = np.moveaxis(slopes, (1, 2), (-2, -1)) + np.eye(3)
    assert np.linalg.det(jacobian).min() > 0.2


@pytest.mark.slow
def test_warp_moves_turned_crops_alone():
    bank = full_range(numbered_block())
    warped = [dataclasses.replace(c, warp=1.0) for c in (EXACT, TURNED)]
    for plain, other in zip((EXACT, TURNED), warped, strict=True):
        key = jax.random.key(5)
        same = np.array_equal(
            stain.sample_stain(key, bank, SHAPE, plain),
            stain.sample_stain(key, bank, SHAPE, other),
        )
        assert same == (plain is EXACT)


def test_a_key_decides_everything():
    bank = stain.make_bank([numbered_block(), numbered_block((5, 9, 4))])
    draw = functools.partial(stain.sample_stain, bank=bank, shape=SHAPE)
    first, again = draw(jax.random.key(3)), draw(jax.random.key(3))
    np.testing.assert_array_equal(first, again)
    assert first.shape == SHAPE and first.dtype == jnp.float32
    others = [draw(jax.random.key(seed)) for seed in (4, 5)]
    assert all(np.max(np.abs(first - other)) > 0.05 for other in others)


@pytest.mark.slow
def test_blocks_are_drawn_by_their_number_of_voxels():
    small, large = np.full((4, 4, 4), 10, np.uint8), np.full((8, 8, 6), 200, np.uint8)
    bank = stain.make_bank([small, large])
    bank = bank._replace(dark=jnp.zeros(2), bright=jnp.full(2, 255.0))
    keys = jax.random.split(jax.random.key(7), 400)
    draw = functools.partial(
        stain.sample_stain, bank=bank, shape=(1, 1, 1), config=PLAIN
    )
    grey = grey_levels(jax.jit(jax.vmap(draw))(keys)).ravel()
    assert set(np.rint(grey)) == {10, 200}
    share = np.mean(grey > 100)
    expected = 384 / 448
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5


@pytest.mark.slow
def test_grain_has_the_asked_strength():
    block = np.full((8, 8, 8), 128, np.uint8)
    strong = stain.StainConfig(gamma=(1.0, 1.0), grain=(0.05, 0.05))
    crop = stain.sample_stain(
        jax.random.key(8), full_range(block), (24, 24, 24), strong
    )
    assert float(jnp.std(crop)) == pytest.approx(0.05, rel=0.1)
    assert float(jnp.mean(crop)) == pytest.approx(1 - 128 / 255, abs=0.01)


@pytest.mark.parametrize("stain_is_dark", [True, False])
def test_grey_to_stain_is_the_map_of_the_crops(stain_is_dark):
    block = np.random.default_rng(0).integers(0, 256, (8, 9, 10)).astype(np.uint8)
    whole = stain.grey_to_stain(block, stain_is_dark=stain_is_dark)
    assert whole.dtype == np.float32 and whole.shape == block.shape
    assert whole.min() == 0 and whole.max() == 1
    heaviest = block.min() if stain_is_dark else block.max()
    assert np.all(whole[block == heaviest] == 1)
    bank = stain.make_bank([block], stain_is_dark=[stain_is_dark])
    crop = stain.sample_stain(jax.random.key(9), bank, SHAPE, EXACT)
    nearest = np.min(np.abs(np.asarray(crop)[..., None] - np.unique(whole)), axis=-1)
    np.testing.assert_allclose(nearest, 0.0, atol=1e-5)


def test_grey_to_stain_of_a_constant_block_is_finite():
    assert np.all(np.isfinite(stain.grey_to_stain(np.full((3, 3, 3), 7, np.uint8))))


def test_bank_packs_blocks_of_different_extents():
    blocks = [numbered_block((2, 3, 4)), numbered_block((5, 2, 2))]
    bank = stain.make_bank(blocks)
    assert bank.values.dtype == jnp.uint8 and bank.values.shape == (44,)
    np.testing.assert_array_equal(bank.offsets, [0, 24])
    np.testing.assert_array_equal(bank.shapes, [[2, 3, 4], [5, 2, 2]])
    np.testing.assert_allclose(bank.cumulative, [24 / 44, 1.0])
    np.testing.assert_array_equal(bank.values[24:], blocks[1].ravel())
