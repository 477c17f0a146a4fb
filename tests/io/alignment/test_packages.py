"""Alignments of other packages against those packages' own formulas.

Each formula is written down a second time here, in the package's own indices, as its
code has it; what is compared is the pixel at which a voxel appears.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.io.alignment import packages
from temdiff_jax.io.alignment import record as alignments
from temdiff_jax.projector import project_moving
from temdiff_jax.projector.stage.alignment import motion_from_degrees
from tests.io.formulas import (
    aretomo_pixels,
    imod_pixels,
    relion_pixels,
    turn,
    warp_pixels,
)

ANGLES = np.array([-58.0, -21.0, 3.5, 40.0])
TURNS = np.array([86.0, 84.5, -3.0, 175.0])
SHIFTS = np.array([[3.25, -7.5], [0.0, 1.0], [-11.0, 4.0], [2.0, 2.0]])
PIXEL = 2.7
COUNT = len(ANGLES)

# Even and odd extents: (volume z, y, x), (image y, x).
SHAPES = [
    ((20, 30, 40), (30, 40)),
    ((21, 31, 41), (31, 41)),
    ((20, 31, 44), (31, 41)),
]


def voxels(shape):
    """Some indices (x, y, z) inside a volume [z, y, x]."""
    rng = np.random.default_rng(1)
    return rng.uniform(0, np.asarray(shape)[::-1] - 1, (7, 3))


def imod_record():
    back = np.stack([1.07 * turn("z", a)[:2, :2] for a in TURNS])
    matrices = np.linalg.inv(back)
    x_tilts = np.full(COUNT, 0.75)
    return packages.ImodAlignment(
        matrices, SHIFTS, ANGLES, 4.0, x_tilts, 1.5, 2.25, (-3.0, 5.5)
    )


ARETOMO = packages.AreTomoAlignment(ANGLES, TURNS, SHIFTS)
RELION = packages.RelionAlignment(np.full(COUNT, -6.0), ANGLES, TURNS, SHIFTS * PIXEL)
WARP = packages.WarpAlignment(ANGLES, TURNS, SHIFTS * PIXEL, 3.0, -2.0)


def both(package, shape, image):
    """An alignment here, and where the package's own formula shows the voxels."""
    points = voxels(shape)
    if package == "imod":
        record = imod_record()
        found = packages.from_imod(record, volume_shape=shape)
        return found, imod_pixels(record, shape, image, points)
    if package.startswith("aretomo"):
        center = "aretomo3" if package == "aretomo3" else "imod"
        found = packages.from_aretomo(ARETOMO, center=center)
        return found, aretomo_pixels(ARETOMO, shape, image, points, center)
    if package == "relion":
        found = packages.from_relion(
            RELION, pixel_size_angstrom=PIXEL, image_shape=image, volume_shape=shape
        )
        return found, relion_pixels(RELION, shape, image, points, PIXEL)
    found = packages.from_warp(WARP, pixel_size_angstrom=PIXEL)
    return found, warp_pixels(WARP, shape, image, points, PIXEL)


def pixels(alignment, shape, image):
    """The package's own statement, in indices."""
    centre = (np.asarray(shape)[::-1] - 1) / 2
    seen = alignments.positions(alignment, voxels(shape) - centre)
    return seen + (np.asarray(image)[::-1] - 1) / 2


NAMES = ["imod", "aretomo", "aretomo3", "relion", "warp"]


@pytest.mark.parametrize(("shape", "image"), SHAPES)
@pytest.mark.parametrize("package", NAMES)
def test_a_voxel_appears_where_the_package_shows_it(package, shape, image):
    found, expected = both(package, shape, image)
    np.testing.assert_allclose(pixels(found, shape, image), expected, atol=1e-10)


@pytest.mark.parametrize("package", NAMES)
def test_half_a_pixel_would_be_seen(package):
    """The test above can tell the centres n / 2 and (n - 1) / 2 apart."""
    shape, image = SHAPES[0]
    found, expected = both(package, shape, image)
    wrong = alignments.recentred(found, (0.0, 0.0), (0.5, 0.0, 0.0))
    assert np.abs(pixels(wrong, shape, image) - expected).max() > 0.2


def own(magnification=1.0, x_tilt=2.5):
    return alignments.Alignment(
        ANGLES, SHIFTS, TURNS, np.full(COUNT, magnification), -1.75, x_tilt
    )


@pytest.mark.parametrize(("shape", "image"), SHAPES)
@pytest.mark.parametrize("package", NAMES)
def test_there_and_back_shows_every_voxel_at_its_place(package, shape, image):
    start = own(x_tilt=0.0 if package.startswith("aretomo") else 2.5)
    if package == "imod":
        there = packages.to_imod(start, volume_shape=shape)
        back = packages.from_imod(there, volume_shape=shape)
        at = imod_pixels(there, shape, image, voxels(shape))
    elif package.startswith("aretomo"):
        center = "aretomo3" if package == "aretomo3" else "imod"
        there = packages.to_aretomo(start, center=center)
        back = packages.from_aretomo(there, center=center)
        at = aretomo_pixels(there, shape, image, voxels(shape), center)
    elif package == "relion":
        units = {
            "pixel_size_angstrom": PIXEL,
            "image_shape": image,
            "volume_shape": shape,
        }
        there = packages.to_relion(start, **units)
        back = packages.from_relion(there, **units)
        at = relion_pixels(there, shape, image, voxels(shape), PIXEL)
    else:
        there = packages.to_warp(start, pixel_size_angstrom=PIXEL)
        back = packages.from_warp(there, pixel_size_angstrom=PIXEL)
        at = warp_pixels(there, shape, image, voxels(shape), PIXEL)
    expected = pixels(start, shape, image)
    np.testing.assert_allclose(at, expected, atol=1e-10)
    np.testing.assert_allclose(pixels(back, shape, image), expected, atol=1e-10)


def test_records_come_back_number_for_number():
    shape, image = SHAPES[2]
    units = {"pixel_size_angstrom": PIXEL, "image_shape": image, "volume_shape": shape}
    relion = packages.to_relion(packages.from_relion(RELION, **units), **units)
    angstrom = {"pixel_size_angstrom": PIXEL}
    level = WARP._replace(level_y_deg=0.0)
    warp = packages.to_warp(packages.from_warp(level, **angstrom), **angstrom)
    aretomo = packages.to_aretomo(packages.from_aretomo(ARETOMO))
    for got, given in ((relion, RELION), (warp, level), (aretomo, ARETOMO)):
        for name, value in given._asdict().items():
            np.testing.assert_allclose(
                getattr(got, name), value, atol=1e-10, err_msg=name
            )
    whole = own(magnification=1.07)
    imod = packages.from_imod(
        packages.to_imod(whole, volume_shape=shape), volume_shape=shape
    )
    for name in ("shifts_px", "rotations_deg", "magnifications", "axis_offset_px"):
        np.testing.assert_allclose(
            getattr(imod, name), getattr(whole, name), atol=1e-10, err_msg=name
        )


def test_two_packages_agree_on_one_alignment():
    """An .xf as RELION's shifts: R^-1 (-d), less the image's half pixel, and more the
    volume's, turned; even extents at zero tilt."""
    shape, image = SHAPES[0]
    back = np.stack([turn("z", a)[:2, :2] for a in TURNS])
    shifts = np.einsum("nij,nj->ni", back, -SHIFTS)
    record = packages.ImodAlignment(np.linalg.inv(back), SHIFTS, np.zeros(COUNT))
    found = packages.from_imod(record, volume_shape=shape)
    relion = packages.to_relion(
        found, pixel_size_angstrom=1.0, image_shape=image, volume_shape=shape
    )
    half = back @ np.array([0.5, 0.5])
    np.testing.assert_allclose(
        np.asarray(relion.shifts_angstrom), shifts - 0.5 + half, atol=1e-10
    )


def centroid(images):
    """Middle of mass (u, v) of core tilts [n_tilts, u, y], in indices."""
    images = np.asarray(images, np.float64)
    total = images.sum(axis=(1, 2))
    u = (images.sum(axis=2) * np.arange(images.shape[1])).sum(axis=1) / total
    v = (images.sum(axis=1) * np.arange(images.shape[2])).sum(axis=1) / total
    return np.stack([u, v], axis=1)


@pytest.fixture(scope="module")
def drawn():
    """A small ball drawn at (x, y, z) = BALL, imaged through an alignment."""
    shape = IMAGED
    z, x, y = (
        np.arange(n) - at
        for n, at in zip((shape[0], shape[2], shape[1]), (BALL[2], BALL[0], BALL[1]))
    )
    square = x[:, None] ** 2 + y**2 + z[:, None, None] ** 2
    volume = jnp.asarray(np.exp(-square / 2 / 3.2**2), jnp.float32)
    image = jax.jit(project_moving)

    def draw(alignment):
        geometry = TiltGeometry.from_degrees(
            alignment.angles_deg,
            thickness=shape[0],
            width=shape[2],
            height=shape[1],
            lateral_margin=0,
        )
        geometry = dataclasses.replace(geometry, steep=None)
        fields = alignment.motion_fields() | {"x_tilt_deg": alignment.x_tilt_deg}
        motion = motion_from_degrees(COUNT, **fields)
        return image(volume, geometry, motion)

    return shape, draw


# Wide against the pixels, so that cubic resampling does not move its middle by 1e-3.
IMAGED = (42, 45, 48)
BALL = np.array([26.3, 21.1, 22.9])  # index (x, y, z)


def gentle(package):
    """The package's records with turns and shifts that keep the ball in view."""
    turns = np.array([8.0, -12.0, 20.0, -3.0])
    shifts = np.array([[1.3, -0.8], [0.0, 0.6], [-1.1, 0.4], [0.7, 1.7]])
    if package == "imod":
        back = np.stack([1.12 * turn("z", a)[:2, :2] for a in turns])
        matrices = np.linalg.inv(back)
        return packages.ImodAlignment(
            matrices, shifts, ANGLES, 3.0, np.full(COUNT, -2.0), 1.0, 1.2, (0.7, -0.4)
        )
    if package == "relion":
        return packages.RelionAlignment(
            np.full(COUNT, -5.0), ANGLES, turns, shifts * PIXEL
        )
    if package == "warp":
        return packages.WarpAlignment(ANGLES, turns, shifts * PIXEL, 4.0, -1.5)
    return packages.AreTomoAlignment(ANGLES, turns, shifts)


@pytest.mark.slow
@pytest.mark.parametrize("package", NAMES)
def test_the_projector_sees_a_ball_where_the_package_draws_it(package, drawn):
    shape, draw = drawn
    image, record = IMAGED[1:], gentle(package)
    points = BALL[None]
    if package == "imod":
        found = packages.from_imod(record, volume_shape=shape)
        expected = imod_pixels(record, shape, image, points)
    elif package == "relion":
        found = packages.from_relion(
            record, pixel_size_angstrom=PIXEL, image_shape=image, volume_shape=shape
        )
        expected = relion_pixels(record, shape, image, points, PIXEL)
    elif package == "warp":
        found = packages.from_warp(record, pixel_size_angstrom=PIXEL)
        expected = warp_pixels(record, shape, image, points, PIXEL)
    else:
        center = "aretomo3" if package == "aretomo3" else "imod"
        found = packages.from_aretomo(record, center=center)
        expected = aretomo_pixels(record, shape, image, points, center)
    seen = centroid(draw(found))
    np.testing.assert_allclose(seen, expected[:, 0], atol=1e-3)


@pytest.mark.parametrize("quarters", [-2, -1, 0, 1, 2])
def test_upright_images_show_the_same_content(quarters):
    turns = np.array([3.0, -4.0, 0.5, 10.0]) + 90 * quarters
    turns = (turns + 180) % 360 - 180
    alignment = alignments.Alignment(ANGLES, SHIFTS, turns, np.ones(COUNT), 0.5, 2.0)
    tilts = np.random.default_rng(0).normal(size=(COUNT, 5, 8))
    moved, images = alignments.upright(alignment, tilts)
    assert np.abs(moved.rotations_deg).max() <= 45
    points = voxels((4, 5, 6)) - 2.5
    before = alignments.positions(alignment, points)
    after = alignments.positions(moved, points)
    # Every pixel of the turned image holds what the old one has at the turned place.
    angle = np.deg2rad(90 * quarters)
    c, s = np.rint(np.cos(angle)), np.rint(np.sin(angle))
    back = np.array([[c, -s], [s, c]])
    np.testing.assert_allclose(after @ back.T, before, atol=1e-10)
    rows, columns = images.shape[1:]
    for row, column in ((0, 0), (1, 3), (rows - 1, 2)):
        at = back @ [column - (columns - 1) / 2, row - (rows - 1) / 2]
        x, y = np.rint(at + [3.5, 2.0]).astype(int)
        np.testing.assert_array_equal(images[:, row, column], tilts[:, y, x])


def test_binned_images_show_a_voxel_at_the_binned_place():
    alignment = alignments.binned(own(), 3)
    points = voxels((20, 30, 40)) - [19.5, 14.5, 9.5]
    before = alignments.positions(own(), points)
    after = alignments.positions(alignment, points / 3)
    np.testing.assert_allclose(after, before / 3, atol=1e-12)


REFUSED = {
    "stretch": (
        lambda: packages.from_imod(
            packages.ImodAlignment([[[1.1, 0], [0, 1.0]]], [[0, 0]], [0.0]),
            volume_shape=(4, 4, 4),
        ),
        "a stretch, skew or mirror",
    ),
    "mirror": (
        lambda: packages.from_imod(
            packages.ImodAlignment([[[-1.0, 0], [0, 1.0]]], [[0, 0]], [0.0]),
            volume_shape=(4, 4, 4),
        ),
        "a stretch, skew or mirror",
    ),
    "x-tilts that differ": (
        lambda: packages.from_relion(
            RELION._replace(x_tilts_deg=[0.0, 1.0, 0.0, 0.0]),
            pixel_size_angstrom=1.0,
            image_shape=(4, 4),
            volume_shape=(4, 4, 4),
        ),
        "one x-tilt for the series",
    ),
    "no pixel size": (
        lambda: packages.from_warp(WARP, pixel_size_angstrom=0.0),
        "pixel_size_angstrom: expected a positive length",
    ),
    "beyond 90 degrees": (
        lambda: packages.from_aretomo(
            ARETOMO._replace(tilts_deg=[0.0, 91.0, 0.0, 0.0])
        ),
        "degrees from -90 to 90, got 91",
    ),
    "an offset beyond 90 degrees": (
        lambda: packages.from_imod(
            imod_record()._replace(offset_deg=60.0), volume_shape=(4, 4, 4)
        ),
        "degrees from -90 to 90, got 100",
    ),
    "not a number": (
        lambda: packages.from_aretomo(
            ARETOMO._replace(shifts_px=SHIFTS + [[0], [0], [np.nan], [0]])
        ),
        "shifts_px of tilt 2: expected finite numbers",
    ),
    "too few": (
        lambda: packages.from_warp(
            WARP._replace(axis_angles_deg=[0.0]), pixel_size_angstrom=1.0
        ),
        "axis_angles_deg: expected shape [4], got [1]",
    ),
    "words": (
        lambda: packages.from_aretomo(ARETOMO._replace(tilts_deg=["a"])),
        "tilts_deg: expected numbers",
    ),
    "another center": (
        lambda: packages.from_aretomo(ARETOMO, center="corner"),
        "imod or aretomo3, got 'corner'",
    ),
    "a magnification for RELION": (
        lambda: packages.to_relion(
            own(1.1),
            pixel_size_angstrom=1.0,
            image_shape=(4, 4),
            volume_shape=(4, 4, 4),
        ),
        "RELION: magnifications: expected 1 in every tilt",
    ),
    "an x-tilt for AreTomo": (
        lambda: packages.to_aretomo(own()),
        "AreTomo: x-tilt: expected none, got 2.5 degrees",
    ),
    "no magnification": (lambda: own(0.0), "magnification of tilt 0: expected a posi"),
    "an endless chi": (lambda: own(x_tilt=np.inf), "x_tilt_deg: expected a finite"),
    "no extents": (
        lambda: packages.to_imod(own(), volume_shape=(4, 4)),
        "volume_shape: expected 3 positive extents",
    ),
    "no one quarter": (
        lambda: alignments.upright(
            alignments.Alignment(ANGLES, SHIFTS, [0, 40, 50, 90], np.ones(COUNT)),
            np.zeros((COUNT, 2, 2)),
        ),
        "within 45 degrees of one quarter, got 0 to 90",
    ),
    "images of another series": (
        lambda: alignments.upright(own(), np.zeros((3, 2, 2))),
        "with 4 tilts, got shape [3, 2, 2]",
    ),
    "half a bin": (
        lambda: alignments.binned(own(), 1.5),
        "binning: expected a whole number",
    ),
    "a package nobody checked": (
        lambda: packages.find("EMAN2"),
        "expected one of imod, aretomo, relion, warp, got 'EMAN2'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line(name):
    action, message = REFUSED[name]
    with pytest.raises(InputError) as error:
        action()
    text = str(error.value)
    assert message in text and "\n" not in text and "; " in text


def test_packages_are_found_by_name():
    for name, package in packages.PACKAGES.items():
        assert packages.find(name.upper()) is package
    assert packages.find("warp").record is packages.WarpAlignment
