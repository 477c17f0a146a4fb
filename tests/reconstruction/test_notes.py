"""What is said about a run: alarms where there is cause, and the right cause."""

import numpy as np
import pytest

from temdiff_jax import geometry, projector, reconstruct
from temdiff_jax.errors import InputError
from temdiff_jax.reconstruction import notes
from temdiff_jax.series.weighting import measured_shifts
from temdiff_jax.series.weighting.derivatives import Spread
from temdiff_jax.series.weighting.robust import unreliable

ANGLES = np.linspace(-30, 30, 13)


def weighed(shift_px=0.0, bad=(), count=5):
    return {
        "misalignment_px": 2.0 if shift_px is not None else 0.0,
        "shift_px": shift_px or 0.0,
        "factors": [1.0] * count,
        "unreliable": [{"tilt": k, "angle_deg": k, "factor": 0.1} for k in bad],
    }


def test_an_aligned_series_raises_no_alarm():
    assert notes.doubts(weighed(0.05)) == []
    (line,) = notes.doubts(weighed(1.3))
    assert line.startswith("tilts are off by some 1.3 pixels")


def test_one_bad_tilt_is_named_and_if_all_are_the_model_is():
    (line,) = notes.doubts(weighed(bad=[3]))
    assert line.startswith("tilt at 3 degrees disagrees")
    (line,) = notes.doubts(weighed(bad=range(5)))
    assert line.startswith("all 5 tilts") and "thickness" in line
    (line,) = notes.doubts(weighed(bad=[0, 1, 4]))
    assert line.startswith("3 of 5 tilts")


def test_a_tilt_that_is_shown_well_does_not_disagree():
    found = unreliable([0.1, 0.2, 1.0], [0, 1, 2], [50.0, 1.1, 1.0])
    assert [tilt["tilt"] for tilt in found] == [0]


def test_a_position_of_the_specimen_is_no_shift():
    angles = np.deg2rad(ANGLES)
    rng = np.random.default_rng(0)
    own = rng.normal(size=(13, 2))
    place = np.stack([2 * np.cos(angles) - np.sin(angles), np.full(13, 3.0)], axis=1)
    alone, moved = (
        measured_shifts(np.pad(s, ((0, 0), (0, 5))), Spread(), angles)
        for s in (own, own + place)
    )
    np.testing.assert_allclose(moved, alone, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("off", [0.0, 1.5])
def test_the_shifts_of_a_series_are_measured(off):
    """Grains of two voxels in a slab, noise of a tenth; shifts within a third."""
    rng = np.random.default_rng(1)
    geometry_ = geometry.TiltGeometry.from_degrees(
        ANGLES, thickness=16, width=48, height=40
    )
    volume = rng.normal(size=geometry_.volume_shape)
    from scipy import ndimage

    volume = ndimage.gaussian_filter(volume, 1.5) * 10
    moved = off * rng.normal(size=(13, 2))
    motion = projector.motion_from_degrees(13, shifts_px=moved)
    tilts = np.asarray(
        projector.project_moving(volume.astype(np.float32), geometry_, motion, border=2)
    )
    tilts = np.swapaxes(tilts, 1, 2)
    tilts = tilts + 0.1 * tilts.std() * rng.normal(size=tilts.shape)
    found = reconstruct(
        tilts, ANGLES, thickness=16, method="tikhonov", contrast="bright"
    ).provenance["weighting"]
    place = np.stack([np.cos(np.deg2rad(ANGLES)), np.sin(np.deg2rad(ANGLES))], 1)
    u = moved[:, 0] - place @ np.linalg.lstsq(place, moved[:, 0], rcond=None)[0]
    v = moved[:, 1] - moved[:, 1].mean()
    right = np.sqrt(0.5 * np.mean(u**2 + v**2))
    assert abs(found["shift_px"] - right) < max(right / 3, 0.15)


def test_a_result_saves_what_the_command_writes(tmp_path):
    import json

    tilts = np.random.default_rng(0).normal(5, 1, (5, 12, 14)).astype(np.float32)
    result = reconstruct(
        tilts, np.linspace(-4, 4, 5), thickness=6, method="fbp", weighting="off"
    )
    paths = result.save(tmp_path / "out", "grid")
    reports = ["grid_report.png", "grid_report.html"]
    names = ["grid_temdiff.mrc", *reports, "grid.temdiff.json"]
    assert [path.name for path in paths] == names
    record = json.loads(paths[-1].read_text())
    assert record["run"] == result.provenance["run"]
    assert record["volume_shape"] == [6, 12, 14] and "chi2" in record
    from temdiff_jax.io.formats import mrc

    np.testing.assert_array_equal(mrc.read_mrc(paths[0]).data, result.mean)
    with pytest.raises(InputError, match="exists"):
        result.save(tmp_path / "out", "grid")
