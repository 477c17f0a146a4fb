"""Hand and sign: raw images of beads, drawn by each package's own formula, come back as
the beads at their voxels, whatever project they lie in."""

import json

import numpy as np
import pytest

from temdiff_jax import baselines, io, reconstruct
from temdiff_jax.cli.main import main
from temdiff_jax.cli.request import binned
from temdiff_jax.io import write
from temdiff_jax.io.alignment import aln, imod, relion, warp
from temdiff_jax.io.alignment.record import Alignment, positions
from temdiff_jax.io.formats import mrc
from tests.io.formulas import (
    aretomo_pixels,
    imod_pixels,
    relion_pixels,
    turn,
    warp_pixels,
)

slow = pytest.mark.slow
ANGLES = np.arange(-35.0, 66.0, 5.0)
COUNT = len(ANGLES)
RAW = (40, 52)  # y, x
DEPTH = 24
PIXEL = 2.5
# Index (x, y, z) in the volume, width, weight; no symmetry of any kind.
BEADS = [
    (10.0, 12.0, 16.0, 1.8, 1.0),
    (27.0, 37.0, 7.0, 2.0, 0.8),
    (22.0, 20.0, 18.0, 1.6, 1.2),
    (14.0, 31.0, 10.0, 1.7, 0.9),
    (31.0, 17.0, 12.0, 1.9, 0.7),
]
TURNED = 84.0  # as microscopes have it; the volume is 52 high and 40 wide
UPRIGHT = -4.0
SHIFTS = np.stack(
    [3 * np.sin(np.arange(COUNT)), 2 * np.cos(1.7 * np.arange(COUNT))], axis=-1
)


def volume_shape(psi):
    height, width = RAW if abs(psi) < 45 else RAW[::-1]
    return DEPTH, height, width


def points(psi):
    """Beads as voxel indices (x, y, z); in an upright frame they lie elsewhere."""
    beads = np.array([bead[:3] for bead in BEADS])
    return beads if abs(psi) > 45 else beads + np.array([5.0, -8.0, 0.0])


def truth(psi):
    shape = volume_shape(psi)
    z, y, x = np.indices(shape, np.float64)
    volume = np.zeros(shape)
    for (bx, by, bz), (*_, s, w) in zip(points(psi), BEADS, strict=True):
        r2 = (x - bx) ** 2 + (y - by) ** 2 + (z - bz) ** 2
        volume += w * np.exp(-r2 / (2 * s * s))
    return volume


def drawn(at):
    """Images of beads at pixel indices (x, y), [n_tilts, k, 2]; not resampled."""
    y, x = np.indices(RAW, np.float64)
    stack = np.zeros((COUNT, *RAW))
    for view in range(COUNT):
        for (px, py), (*_, s, w) in zip(at[view], BEADS, strict=True):
            r2 = (x - px) ** 2 + (y - py) ** 2
            stack[view] += w * np.sqrt(2 * np.pi) * s * np.exp(-r2 / (2 * s * s))
    rng = np.random.default_rng(0)
    return (stack + 0.02 * rng.standard_normal(stack.shape)).astype(np.float32)


def stack_file(path, images):
    write.write_mrc(path, images, PIXEL, is_stack=True)
    return path


def imod_folder(folder, psi, chi=0.0):
    """Raw stack, .xf, .tlt, tilt.com with OFFSET and SHIFT, and an .edf.

    An x-tilt chi is written half as XAXISTILT and half as .xtilt.
    """
    matrices = np.repeat(turn("z", -psi)[None, :2, :2], COUNT, axis=0) * 1.02
    record = imod.ImodAlignment(
        matrices,
        SHIFTS,
        ANGLES - 1.5,
        x_axis_tilt_deg=-chi / 2,
        x_tilts_deg=np.full(COUNT, chi / 2),
        offset_deg=1.5,
        shift_px=(2.0, -3.0),
    )
    shape = volume_shape(psi)
    at = imod_pixels(record, shape, RAW, points(psi), shape[1:])
    stack_file(folder / "TS_01.st", drawn(at))
    write.write_tlt(folder / "TS_01.tlt", ANGLES - 1.5)
    rows = [[*m.ravel(), *d] for m, d in zip(matrices, SHIFTS, strict=True)]
    text = "\n".join(" ".join(f"{n:.8f}" for n in row) for row in rows)
    (folder / "TS_01.xf").write_text(text)
    (folder / "TS_01.edf").write_text("Setup.DatasetName=TS_01\nVersion=1.12\n")
    (folder / "tilt.com").write_text(
        "# Command file\n$setenv IMOD_OUTPUT_FORMAT MRC\n$tilt -StandardInput\n"
        f"InputProjections TS_01.ali\nTHICKNESS {DEPTH}\nOFFSET 1.5 0.0\n"
        f"XAXISTILT {-chi / 2}\n"
        "SHIFT 2.0 -3.0\nRADIAL 0.35 0.035\n$if (-e ./savework) ./savework\n"
    )
    if chi:
        (folder / "TS_01.xtilt").write_text(f"{chi / 2}\n" * COUNT)
    return folder


def aretomo_folder(folder, psi):
    """Raw stack with one dark view, and an .aln whose sections count from 1."""
    record = aln.AreTomoAlignment(ANGLES, np.full(COUNT, psi), SHIFTS)
    shape = volume_shape(psi)
    at = aretomo_pixels(record, shape, RAW, points(psi), "imod", shape[1:])
    images = np.insert(drawn(at), 4, 0.0, axis=0)
    stack_file(folder / "TS_01.mrc", images)
    text = f"# AreTomo Alignment\n# RawSize = {RAW[1]} {RAW[0]} {COUNT + 1}\n"
    text += "# NumPatches = 4\n# DarkFrame =  4  5  -16.00\n# AlphaOffset = 0.0\n"
    text += "# SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT\n"
    sections = [n for n in range(1, COUNT + 2) if n != 5]
    for section, angle, (tx, ty) in zip(sections, ANGLES, SHIFTS, strict=True):
        text += f"{section} {psi} 1.0 {tx:.6f} {ty:.6f} 1 1 1 0 {angle:.2f}\n"
    text += "# Local Alignment\n0 0 1.0 2.0 0.1 0.1 1.0\n"
    (folder / "TS_01.aln").write_text(text)
    return folder


def relion_folder(folder, psi):
    """Single images, and STAR files of the project and of the series."""
    record = relion.RelionAlignment(
        np.zeros(COUNT), ANGLES, np.full(COUNT, psi), SHIFTS * PIXEL
    )
    at = relion_pixels(record, volume_shape(psi), RAW, points(psi), PIXEL)
    (folder / "frames").mkdir()
    (folder / "tilt_series").mkdir()
    labels = "rlnTomoXTilt rlnTomoYTilt rlnTomoZRot rlnTomoXShiftAngst "
    labels += "rlnTomoYShiftAngst rlnMicrographName"
    text = "\ndata_TS_01\n\nloop_\n"
    text += "".join(f"_{name} #{n}\n" for n, name in enumerate(labels.split(), 1))
    for view, (image, angle, shift) in enumerate(
        zip(drawn(at), ANGLES, SHIFTS * PIXEL, strict=True)
    ):
        name = f"frames/TS_01_{view:03d}.mrc"
        stack_file(folder / name, image[None])
        text += f"0.0 {angle} {psi} {shift[0]:.6f} {shift[1]:.6f} {name}\n"
    (folder / "tilt_series/TS_01.star").write_text(text)
    (folder / "tomograms.star").write_text(
        "\ndata_global\n\nloop_\n_rlnTomoName #1\n_rlnTomoTiltSeriesStarFile #2\n"
        "_rlnTomoTiltSeriesPixelSize #3\n"
        f"TS_01 tilt_series/TS_01.star {PIXEL}\n"
    )
    return folder


def warp_folder(folder, psi):
    """A tilt stack and an XML; its angles run against ours, one tilt is not used."""
    record = warp.WarpAlignment(-ANGLES, np.full(COUNT, psi), SHIFTS * PIXEL)
    at = warp_pixels(record, volume_shape(psi), RAW, points(psi), PIXEL)
    stack_file(folder / "TS_01.st", drawn(at))

    def lines(values):
        return "\n".join(f"{v:.6f}" for v in values)

    use = "\n".join("False" if n == 2 else "True" for n in range(COUNT))
    (folder / "TS_01.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<TiltSeries PlaneNormal="0, 0, 1">'
        f"<Angles>{lines(-ANGLES)}</Angles><AxisAngle>{lines([psi] * COUNT)}"
        f"</AxisAngle><AxisOffsetX>{lines(SHIFTS[:, 0] * PIXEL)}</AxisOffsetX>"
        f"<AxisOffsetY>{lines(SHIFTS[:, 1] * PIXEL)}</AxisOffsetY>"
        f"<UseTilt>{use}</UseTilt></TiltSeries>"
    )
    return folder


PROJECTS = {
    "imod": imod_folder,
    "aretomo": aretomo_folder,
    "relion": relion_folder,
    "warp": warp_folder,
}


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def mirrored(volume):
    """All that a wrong sign or hand would give."""
    return [volume[::-1], volume[:, ::-1], volume[:, :, ::-1], volume[::-1, :, ::-1]]


@pytest.mark.parametrize("psi", [TURNED, UPRIGHT])
@pytest.mark.parametrize("package", list(PROJECTS))
def test_beads_come_back_where_the_package_has_them(tmp_path, package, psi):
    folder = PROJECTS[package](tmp_path, psi)
    series = io.load_tilt_series(folder, resample=True)
    assert series.tilts.shape[1:] == volume_shape(psi)[1:]
    volume = baselines.fbp(series.tilts, series.angles_deg, thickness=DEPTH)
    right = correlation(volume, truth(psi))
    assert right > 0.75, right
    assert right > 0.4 + max(
        correlation(volume, other) for other in mirrored(truth(psi))
    )
    shifted = [np.roll(truth(psi), step, axis) for step in (-1, 1) for axis in range(3)]
    assert right > max(correlation(volume, other) for other in shifted)


def test_the_projector_takes_the_same_alignment(tmp_path):
    """Without resampling the images, the motion of the projector shows them."""
    from temdiff_jax.geometry import TiltGeometry
    from temdiff_jax.projector import project_moving
    from temdiff_jax.projector.stage.alignment import motion_from_degrees

    for package, make in PROJECTS.items():
        folder = tmp_path / package
        folder.mkdir()
        series = io.load_tilt_series(make(folder, TURNED))
        _, height, width = series.tilts.shape
        assert (height, width) == volume_shape(TURNED)[1:]
        geometry = TiltGeometry.from_degrees(
            series.angles_deg, thickness=DEPTH, width=width, height=height
        )
        motion = motion_from_degrees(
            series.num_tilts, **series.alignment.motion_fields()
        )
        core = np.swapaxes(truth(TURNED), 1, 2).astype(np.float32)
        seen = project_moving(geometry.pad_lateral(core), geometry, motion)
        seen = np.swapaxes(np.asarray(seen), 1, 2)
        assert correlation(seen, series.tilts) > 0.975, package


def found_again(volume, psi):
    """The correlation with the beads, and by how much it leads all that is wrong."""
    right = correlation(volume, truth(psi))
    shifted = [np.roll(truth(psi), step, axis) for step in (-1, 1) for axis in range(3)]
    wrong = [*mirrored(truth(psi)), *shifted]
    return right, right - max(correlation(volume, other) for other in wrong)


@pytest.mark.parametrize(
    ("package", "psi"),
    [
        pytest.param(p, psi, marks=[] if (p, psi) == ("imod", TURNED) else slow)
        for p in PROJECTS
        for psi in (TURNED, UPRIGHT)
    ],
)
def test_a_reconstruction_takes_the_images_as_they_were_recorded(
    tmp_path, package, psi
):
    """One interpolation, in the projector: the same beads, better than by two."""
    folder = PROJECTS[package](tmp_path, psi)
    series = io.load_tilt_series(folder)
    assert series.alignment is not None
    result = reconstruct(
        series, thickness=DEPTH, method="tikhonov", weighting="robust", log="off"
    )
    right, ahead = found_again(result.mean, psi)
    assert right > 0.86 and ahead > 0.03, (right, ahead)
    assert np.median(result.chi2) < 1.5
    assert result.provenance["alignment"].startswith("the projector")


@pytest.mark.parametrize("chi", [-8.0, pytest.param(8.0, marks=slow)])
def test_an_x_tilt_is_part_of_the_projector(tmp_path, chi):
    series = io.load_tilt_series(imod_folder(tmp_path, TURNED, chi))
    assert series.alignment.x_tilt_deg == chi
    result = reconstruct(
        series, thickness=DEPTH, method="tikhonov", weighting="robust", log="off"
    )
    right, ahead = found_again(result.mean, TURNED)
    assert right > 0.86 and ahead > 0.03, (right, ahead)
    classical = reconstruct(
        series, thickness=DEPTH, method="fbp", weighting="off", log="off"
    )
    assert "resampling" in classical.provenance["alignment"]
    right, ahead = found_again(classical.mean, TURNED)
    assert right > 0.7 and ahead > 0.0, (right, ahead)


@pytest.mark.parametrize("raw", [(41, 53), (40, 53), (41, 52)])
@pytest.mark.parametrize("psi", [84.0, -90.0, -4.0])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_an_mdoc_turns_odd_images_about_their_middle(tmp_path, raw, psi, factor):
    """One bead: where the series says it is, there it is, whatever the extents."""
    angles = np.array([-30.0, 0.0, 20.0])
    bead = np.array([4.0, -6.0, 3.0])  # x, y, z from the centre
    y, x = np.indices(raw) - (np.array(raw)[:, None, None] - 1) / 2
    images = []
    for theta in np.deg2rad(angles):
        u = bead[0] * np.cos(theta) + bead[2] * np.sin(theta)
        c, s = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
        at = c * u - s * bead[1], s * u + c * bead[1]
        images.append(np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 18))
    stack_file(tmp_path / "TS.mrc", np.array(images, np.float32))
    text = f"PixelSpacing = {PIXEL}\nImageFile = TS.mrc\n"
    text += f"\n[T =     Tilt axis angle = {psi}, binning = 1]\n"
    for view, angle in enumerate(angles):
        text += f"\n[ZValue = {view}]\nTiltAngle = {angle}\n"
    (tmp_path / "TS.mrc.mdoc").write_text(text)
    series = binned(io.load_tilt_series(tmp_path / "TS.mrc.mdoc"), factor)
    lying = series.alignment
    if lying is None:  # a quarter turn and nothing else
        assert psi == -90.0
        lying = Alignment(angles, np.zeros((3, 2)), np.zeros(3), np.ones(3))
    where = positions(lying, bead[None] / factor)[:, 0]
    for image, (u, v) in zip(series.tilts, where, strict=True):
        row, column = np.indices(image.shape)
        weight = image - image.min()
        centre = np.array([(column * weight).sum(), (row * weight).sum()])
        centre = centre / weight.sum() - (np.array(image.shape[::-1]) - 1) / 2
        np.testing.assert_allclose(centre, [u, v], atol=0.03)


def test_what_was_taken_is_said_with_file_and_line(tmp_path, capsys):
    folder = imod_folder(tmp_path, TURNED)
    with (folder / "tilt.com").open("a") as stream:
        stream.write("")
    text = (folder / "tilt.com").read_text()
    text = text.replace("RADIAL", "EXCLUDELIST2 3,5-6\nLOCALFILE TS_01.local\nRADIAL")
    (folder / "tilt.com").write_text(text)
    assert main(["inspect", str(folder), "-v"]) == 0
    out = capsys.readouterr().out
    line = 1 + text.splitlines().index("EXCLUDELIST2 3,5-6")
    assert f"views [3, 5, 6] (from 1) left out ({folder}/tilt.com:{line})" in out
    assert f"THICKNESS {DEPTH} ({folder}/tilt.com:5)" in out
    assert "LOCALFILE: local (patch) alignment not applied" in out
    assert "tilts left out: 2 (-25 deg), 4 (-15 deg), 5 (-10 deg)" in out
    assert f"volume        {DEPTH} x 52 x 40 (z, y, x), thickness by the project" in out
    assert main(["inspect", str(folder), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "IMOD" and len(record["views"]) == COUNT - 3


@pytest.mark.slow
@pytest.mark.parametrize("package", list(PROJECTS))
def test_the_command_reconstructs_a_project(tmp_path, package):
    folder = tmp_path / "project"
    folder.mkdir()
    PROJECTS[package](folder, TURNED)
    words = ["reconstruct", str(folder), "--method", "mean", "--thickness", str(DEPTH)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    (mean,) = (tmp_path / "out").glob("*_temdiff.mrc")
    volume = mrc.read_mrc(mean).data
    right = correlation(volume, truth(TURNED))
    assert right > 0.8, right
    others = [correlation(volume, other) for other in mirrored(truth(TURNED))]
    assert right > 0.4 + max(others)
