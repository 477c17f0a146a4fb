"""Noiseless tilts of a smooth specimen give the specimen back."""

import numpy as np
import pytest

from temdiff_jax import baselines

# Each of these compiles for seconds.
pytestmark = pytest.mark.slow


def psnr(volume, truth) -> float:
    return float(10 * np.log10(np.ptp(truth) ** 2 / np.mean((volume - truth) ** 2)))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sirt", {"iterations": 100}),
        ("sart", {"lam": 0.5, "sweeps": 10}),
        ("tikhonov", {}),
        ("tv", {"lam": 0.01}),
    ],
)
def test_full_range(method, options, full):
    function = getattr(baselines, method)
    volume = function(full.tilts, full.angles, lateral_margin=0, **options)
    assert psnr(volume, full.volume) > 35.0


def test_fbp_has_the_right_scale(full):
    volume = baselines.fbp(full.tilts, full.angles, lateral_margin=0)
    gain, offset = np.polyfit(full.volume.ravel(), volume.ravel(), 1)
    # The window lowers blobs of 2 voxels by some per cent.
    assert gain == pytest.approx(0.98, abs=0.03)
    assert abs(offset) < 0.03
    assert psnr(volume, full.volume) > 28.0


@pytest.mark.parametrize("method", ["fbp", "sirt"])
def test_axes_and_signs(method, narrow):
    # Every axis and sense of the file layout has its own answer: mirrored along z or
    # x, or with y reversed, the specimen is another one.
    volume = getattr(baselines, method)(narrow.tilts, narrow.angles, lateral_margin=0)

    def agreement(truth):
        return np.corrcoef(volume.ravel(), truth.ravel())[0, 1]

    right = agreement(narrow.volume)
    assert right > 0.55
    assert right > agreement(narrow.volume[::-1]) + 0.01
    assert right > agreement(narrow.volume[:, :, ::-1]) + 0.01
    rows = volume.mean(axis=(0, 2))
    assert np.all(np.diff(rows) > 0)


@pytest.mark.slow
def test_the_slab_goes_on_outside_the_field_of_view():
    # A slab wider than the detector: without the margin its tilted views, which see
    # more of it, cannot be explained and the sides of the result rise.
    from temdiff_jax import layout, projector
    from temdiff_jax.geometry import TiltGeometry

    angles = np.linspace(-30.0, 30.0, 7)
    wide = TiltGeometry.from_degrees(angles, thickness=20, width=20, height=4)
    x = np.arange(wide.volume_shape[1]) - (wide.volume_shape[1] - 1) / 2
    core = np.broadcast_to(2 + np.sin(x)[None, :, None], wide.volume_shape)
    core = core.astype(np.float32)
    tilts = np.asarray(layout.tilts_from_core(projector.project(core, wide)))
    truth = np.asarray(layout.volume_from_core(wide.crop(core)))
    errors = [
        np.abs(baselines.sirt(tilts, angles, lateral_margin=m) - truth).mean()
        for m in ("auto", 0)
    ]
    assert errors[0] < 0.9 * errors[1]
