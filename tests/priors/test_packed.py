"""Packed weights: size, error and damage."""

import numpy as np
import pytest

from temdiff_jax.priors import packed


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    spread = np.geomspace(0.01, 10, 16)  # channels of very different size
    return {
        "a/kernel": (spread * rng.standard_normal((3, 3, 24, 16))).astype(np.float32),
        "a/bias": rng.standard_normal(16).astype(np.float32),
        "b/kernel": np.zeros((64, 32), np.float32),
    }


def unpacked(step: float) -> dict[str, np.ndarray]:
    return packed.unpack(packed.pack(weights(), step))


@pytest.mark.parametrize("step", [0.05, 0.15, 0.3])
def test_error_of_every_channel_is_that_of_uniform_quantisation(step):
    error = unpacked(step)["a/kernel"] - weights()["a/kernel"]
    spread = np.sqrt(np.mean(weights()["a/kernel"] ** 2, axis=(0, 1, 2)))
    found = np.sqrt(np.mean(error**2, axis=(0, 1, 2))) / spread
    np.testing.assert_allclose(found, step / np.sqrt(12), rtol=0.1)


def test_names_shapes_and_small_tensors_are_kept():
    found = unpacked(0.15)
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in weights().items()
    }
    np.testing.assert_allclose(found["a/bias"], weights()["a/bias"], rtol=1e-3)
    assert not found["b/kernel"].any()


def test_a_weight_takes_about_as_many_bits_as_its_entropy():
    rng = np.random.default_rng(1)
    tensors = {"kernel": rng.standard_normal((3, 3, 128, 128)).astype(np.float32)}
    size = packed.pack(tensors, 0.2)["xz"].size
    entropy = np.log2(np.sqrt(2 * np.pi * np.e) / 0.2)
    assert 8 * size / tensors["kernel"].size == pytest.approx(entropy, rel=0.05)


def test_one_large_weight_is_not_cut_off():
    tensors = {"kernel": np.ones((64, 32), np.float32)}
    tensors["kernel"][0, 0] = 1000.0
    found = packed.unpack(packed.pack(tensors, 0.1))["kernel"]
    assert found[0, 0] == pytest.approx(1000.0, rel=1e-4)


def test_other_files_pass_as_they_are():
    tensors = weights()
    assert packed.unpack(tensors) is tensors


@pytest.mark.parametrize("cut", [slice(0, 200), slice(100, None)])
def test_damaged_bytes_are_refused(cut):
    data = packed.pack(weights(), 0.15)["xz"]
    with pytest.raises(ValueError, match="packed weights"):
        packed.unpack({"xz": data[cut]})
