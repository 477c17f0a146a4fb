import jax
import numpy as np
import pytest

from temdiff_jax import layout


def test_volume_to_core_moves_y_last():
    volume = np.arange(2 * 3 * 5.0, dtype=np.float32).reshape(2, 3, 5)  # [z, y, x]
    core = layout.volume_to_core(volume)
    assert isinstance(core, jax.Array)
    assert core.shape == (2, 5, 3)
    assert core[1, 4, 2] == volume[1, 2, 4]
    assert core[0, 3, 1] == volume[0, 1, 3]


def test_tilts_to_core_moves_y_last():
    tilts = np.arange(4 * 3 * 5.0, dtype=np.float32).reshape(4, 3, 5)  # [n, y, x]
    core = layout.tilts_to_core(tilts)
    assert core.shape == (4, 5, 3)
    assert core[3, 4, 2] == tilts[3, 2, 4]


@pytest.mark.parametrize(
    ("inward", "outward"),
    [
        (layout.volume_to_core, layout.volume_from_core),
        (layout.tilts_to_core, layout.tilts_from_core),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_round_trip_keeps_values_dtype_and_batches(inward, outward, dtype):
    array = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7).astype(dtype)
    again = outward(inward(array))
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, array)
    assert inward(array).shape == (2, 3, 7, 5)
