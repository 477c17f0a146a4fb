"""Raw images are brought into the aligned frame by the files of other programs."""

import numpy as np
import pytest

from temdiff_jax import io
from temdiff_jax.errors import InputError
from temdiff_jax.io.alignment import inplane

ANGLES = [-30.0, -10.0, 15.0, 40.0]
AXIS_DEG = np.array([7.0, 7.0, -5.0, 12.0])
SHIFTS = np.array([[2.5, -1.0], [0.0, 0.0], [-3.25, 1.5], [1.0, 4.0]])
BLOBS = np.array([[9.0, 6.0], [-8.0, 3.0], [4.0, -10.0]])  # x, y when aligned
SHAPE = (48, 56)


def picture(points):
    """Gaussian blobs at points (x, y) from the centre."""
    rows, columns = np.indices(SHAPE, np.float64)
    image = np.zeros(SHAPE)
    for x, y in points:
        at_x, at_y = x + (SHAPE[1] - 1) / 2, y + (SHAPE[0] - 1) / 2
        image += np.exp(-((columns - at_x) ** 2 + (rows - at_y) ** 2) / 6.0)
    return image.astype(np.float32)


def rotation(angle_deg):
    angle = np.deg2rad(angle_deg)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.fixture
def raw():
    """p = R(psi) q + s for every blob, drawn where it lies and not resampled."""
    return np.stack(
        [
            picture(BLOBS @ rotation(angle).T + shift)
            for angle, shift in zip(AXIS_DEG, SHIFTS, strict=True)
        ]
    )


@pytest.fixture
def aligned():
    return np.stack([picture(BLOBS)] * len(ANGLES))


def write_xf(path, matrices, shifts):
    rows = (
        " ".join(f"{number:.8f}" for number in [*matrix.ravel(), *shift])
        for matrix, shift in zip(matrices, shifts, strict=True)
    )
    path.write_text("\n".join(rows) + "\n")
    return path


def transforms():
    """IMOD's direction: q = R(-psi) p - R(-psi) s."""
    matrices = np.stack([rotation(-angle) for angle in AXIS_DEG])
    return matrices, -np.einsum("nij,nj->ni", matrices, SHIFTS)


def write_aln(path, dark=()):
    """Rows sorted by tilt; sections count from 1; dark sections have no row."""
    count = len(ANGLES) + len(dark)
    sections = [n for n in range(1, count + 1) if n not in dark]
    text = f"# RawSize = {SHAPE[1]} {SHAPE[0]} {count}\n"
    text += "".join(f"# DarkFrame = 0 {n} 50.0\n" for n in dark)
    text += "# SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT\n"
    for row in zip(sections, AXIS_DEG, SHIFTS, ANGLES, strict=True):
        section, angle, (x, y), tilt = row
        text += f"{section} {angle} 1 {x} {y} 1 1 1 0 {tilt}\n"
    path.write_text(text)
    return path


def worst(series, aligned):
    """Largest difference away from the border, of blobs one high."""
    return np.abs(series.tilts - aligned)[:, 8:-8, 8:-8].max()


def test_transforms_of_imod_align_the_images(tmp_path, make_mrc, raw, aligned):
    path = write_xf(tmp_path / "a.xf", *transforms())
    series = io.load_tilt_series(make_mrc(raw), ANGLES, alignment=path, resample=True)
    assert (
        worst(series, aligned)
        < 0.02
        < worst(io.load_tilt_series(make_mrc(raw), ANGLES), aligned)
    )
    assert any("shifts and rotations applied" in note for note in series.warnings)


def test_transforms_in_the_other_direction_do_not(tmp_path, make_mrc, raw, aligned):
    matrices = np.stack([rotation(angle) for angle in AXIS_DEG])
    path = write_xf(tmp_path / "a.xf", matrices, SHIFTS)
    series = io.load_tilt_series(make_mrc(raw), ANGLES, alignment=path, resample=True)
    assert worst(series, aligned) > 0.5


def test_transforms_may_stretch(tmp_path, make_mrc, aligned):
    """q = A p + d with a magnification of 1.1 along x."""
    matrix = np.array([[1.1, 0.0], [0.0, 1.0]])
    stretched = np.stack([picture(BLOBS)] * len(ANGLES))
    path = write_xf(tmp_path / "a.xf", [matrix] * 4, np.zeros((4, 2)))
    series = io.load_tilt_series(
        make_mrc(stretched), ANGLES, alignment=path, resample=True
    )
    columns = np.arange(SHAPE[1]) - (SHAPE[1] - 1) / 2
    row = int(BLOBS[0, 1] + (SHAPE[0] - 1) / 2)
    profile = np.interp(columns / 1.1, columns, aligned[0, row])
    np.testing.assert_allclose(series.tilts[0, row], profile, atol=0.03)


def test_aretomo_gives_angles_and_alignment(tmp_path, make_mrc, raw, aligned):
    path = write_aln(tmp_path / "a.aln")
    series = io.load_tilt_series(make_mrc(raw), alignment=path, resample=True)
    np.testing.assert_array_equal(series.angles_deg, ANGLES)
    assert worst(series, aligned) < 0.02
    both = io.load_tilt_series(make_mrc(raw), path, alignment=path, resample=True)
    np.testing.assert_array_equal(both.tilts, series.tilts)
    assert not any("only the angles" in note for note in series.warnings)


def test_aretomo_skips_its_dark_views(tmp_path, make_mrc, raw, aligned):
    path = write_aln(tmp_path / "a.aln", dark=(2,))
    whole = np.insert(raw, 1, 0.0, axis=0)
    series = io.load_tilt_series(make_mrc(whole), alignment=path, resample=True)
    assert series.num_tilts == 4 and worst(series, aligned) < 0.02


def test_both_programs_agree(tmp_path, make_mrc, raw):
    xf = write_xf(tmp_path / "a.xf", *transforms())
    aln = write_aln(tmp_path / "a.aln")
    first = io.load_tilt_series(make_mrc(raw), ANGLES, alignment=xf, resample=True)
    second = io.load_tilt_series(make_mrc(raw), ANGLES, alignment=aln, resample=True)
    np.testing.assert_allclose(first.tilts, second.tilts, atol=1e-5)


def test_pixels_without_data_are_counted(tmp_path, make_mrc, raw):
    path = write_xf(tmp_path / "a.xf", [np.eye(2)] * 4, [[5.0, 0.0]] * 4)
    series = io.load_tilt_series(make_mrc(raw), ANGLES, alignment=path, resample=True)
    lost = 100 * 5 / SHAPE[1]
    assert any(f"{lost:.1f} % of the pixels" in note for note in series.warnings)


def test_views_without_a_transform_are_named(tmp_path, make_mrc, raw):
    matrices, shifts = transforms()
    matrices[2], shifts[2] = np.eye(2), 0.0
    path = write_xf(tmp_path / "a.xf", matrices, shifts)
    series = io.load_tilt_series(make_mrc(raw), ANGLES, alignment=path, resample=True)
    assert any("no transform for views [2]" in note for note in series.warnings)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xf", "1 0 0 1 0 0\n", "one transform per tilt, 4, got 1"),
        ("a.xf", "1 0 1 0 0 0\n" * 4, "a matrix that can be inverted"),
        ("a.txt", "1 0 0 1 0 0\n", "ending in .xf or .aln"),
    ],
)
def test_bad_alignment_is_refused(tmp_path, make_mrc, raw, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        io.load_tilt_series(make_mrc(raw), ANGLES, alignment=path, resample=True)
    assert "\n" not in str(error.value)


def test_maps_of_a_rotation_are_those_of_the_angle(raw):
    matrices, shifts = inplane.rotations(AXIS_DEG, SHIFTS, 4)
    by_angle = inplane.apply_inplane(raw, axis_angle_deg=AXIS_DEG, shifts_px=SHIFTS)
    np.testing.assert_array_equal(by_angle, inplane.apply_maps(raw, matrices, shifts))
    back, moved = inplane.inverted(*inplane.inverted(matrices, shifts))
    np.testing.assert_allclose(back, matrices, atol=1e-12)
    np.testing.assert_allclose(moved, shifts, atol=1e-12)
