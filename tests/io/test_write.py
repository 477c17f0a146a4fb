"""Outputs: whole or absent, never through a link, never on top of something."""

import io
import json
import os
import stat

import mrcfile
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io import write
from temdiff_jax.io.alignment import angles
from temdiff_jax.io.formats import mrc


@pytest.mark.parametrize("voxel", [13.5, 1e-3, (20.0, 10.0, 5.0)])
@pytest.mark.parametrize("is_stack", [False, True])
def test_voxel_size_in_is_voxel_size_out(tmp_path, stack, voxel, is_stack):
    path = tmp_path / "a.mrc"
    write.write_mrc(path, stack, voxel, is_stack=is_stack)
    image = mrc.read_mrc(path)
    np.testing.assert_array_equal(image.data, stack)
    z, y, x = (voxel,) * 3 if np.isscalar(voxel) else voxel
    expected = (x if is_stack else z, y, x)
    assert image.voxel_size_angstrom == pytest.approx(expected, rel=1e-6)
    assert dict(image.header)["space group"].startswith("01"[not is_stack])


def test_unknown_voxel_size_stays_unknown(tmp_path, stack):
    write.write_mrc(tmp_path / "a.mrc", stack, None)
    assert mrc.read_mrc(tmp_path / "a.mrc").voxel_size_angstrom is None


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "uint16", "float64"])
def test_header_describes_the_data(tmp_path, dtype):
    data = np.random.default_rng(1).integers(0, 30000, (4, 5, 6)).astype(dtype)
    path = tmp_path / "a.mrc"
    write.write_mrc(path, data, 2.0, origin=(3.0, 2.0, 1.0), labels=("one", "two"))
    with mrcfile.open(path) as image:
        header = image.header
        np.testing.assert_array_equal(image.data, data.astype(image.data.dtype))
        assert (header.mx, header.my, header.mz) == (6, 5, 4)
        assert header.cella.x == 12 and header.cella.z == 8
        assert header.ispg == 1 and header.nsymbt == 0
        wide = data.astype(np.float64)
        assert header.dmin == wide.min() and header.dmax == wide.max()
        assert header.dmean == pytest.approx(wide.mean(), rel=1e-6)
        assert header.rms == pytest.approx(wide.std(), rel=1e-6)
    image = mrc.read_mrc(path)
    assert image.origin_angstrom == (3.0, 2.0, 1.0)
    assert image.labels == ("one", "two")


def test_file_is_valid_mrc2014(tmp_path, stack):
    write.write_mrc(tmp_path / "a.mrc", stack, 2.0, labels=("x" * 200, "täglich\nneu"))
    report = io.StringIO()
    assert mrcfile.validate(tmp_path / "a.mrc", print_file=report), report.getvalue()
    labels = mrc.read_mrc(tmp_path / "a.mrc").labels
    assert labels == ("x" * 80, "t?glich neu")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 255.0])
def test_intensities_of_any_size_survive(tmp_path, stack, scale):
    data = stack * np.float32(scale)
    write.write_mrc(tmp_path / "a.mrc", data, 2.0)
    np.testing.assert_array_equal(mrc.read_mrc(tmp_path / "a.mrc").data, data)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (5, 4, 3)])
def test_odd_and_even_extents(tmp_path, shape):
    data = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    write.write_mrc(tmp_path / "a.mrc", data, 2.0)
    np.testing.assert_array_equal(mrc.read_mrc(tmp_path / "a.mrc").data, data)


@pytest.mark.parametrize(
    "voxel", [0.0, -1.0, float("nan"), (1.0, 2.0), (1.0, 0.0, 1.0)]
)
def test_voxel_sizes_that_are_none(tmp_path, stack, voxel):
    with pytest.raises(InputError, match="voxel size"):
        write.write_mrc(tmp_path / "a.mrc", stack, voxel)
    assert os.listdir(tmp_path) == []


def test_volume_that_cannot_be_written(tmp_path, stack):
    bad = stack.copy()
    bad[3, 2, 1] = np.nan
    for volume, match in ((bad, "section 3"), (stack[0], "z, y, x"), (stack[:0], "z")):
        with pytest.raises(ValueError, match=match):
            write.write_mrc(tmp_path / "a.mrc", volume, 1.0)
    with pytest.raises(ValueError, match="at most 10"):
        write.write_mrc(tmp_path / "a.mrc", stack, 1.0, labels=["a"] * 11)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_modes_follow_the_umask(tmp_path, stack, umask):
    before = os.umask(umask)
    try:
        write.write_mrc(tmp_path / "a.mrc", stack, 1.0)
        write.write_json(tmp_path / "a.json", {})
        write.write_tlt(tmp_path / "a.tlt", [0.0])
    finally:
        os.umask(before)
    for name in ("a.mrc", "a.json", "a.tlt"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_a_name_that_no_file_system_bears_is_refused_before_the_work(tmp_path):
    for name in ("a" * 252 + ".mrc", "ä" * 130):
        with pytest.raises(InputError, match="at most 255 bytes"):
            write.check_output(tmp_path / name)
    write.check_output(tmp_path / ("ä" * 125 + ".mrc"))


def test_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "a.txt"
    write.write_text(path, "old")
    with pytest.raises(InputError, match="overwrite=True"):
        write.write_text(path, "new")
    assert path.read_text() == "old"
    write.write_text(path, "new", overwrite=True)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_link_is_replaced_and_its_target_untouched(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "a.txt"
    link.symlink_to(target)
    with pytest.raises(InputError, match="one that exists"):
        write.write_text(link, "new")
    write.write_text(link, "new", overwrite=True)
    assert target.read_text() == "precious"
    assert not link.is_symlink() and link.read_text() == "new"


def test_dangling_link_counts_as_existing(tmp_path):
    link = tmp_path / "a.txt"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="one that exists"):
        write.write_text(link, "new")
    assert not (tmp_path / "nowhere").exists()


def test_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write.write_text(path, "old")
    with pytest.raises(RuntimeError, match="stop"):
        with write.atomic_path(path, overwrite=True) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write.write_bytes(tmp_path / "a", b"content")
    assert os.listdir(tmp_path) == []


def test_file_that_appears_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(InputError, match="one that exists"):
        with write.atomic_path(path) as temporary:
            temporary.write_text("mine")
            path.write_text("theirs")
    assert path.read_text() == "theirs" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("place", ["missing/a.mrc", "file/a.mrc", "n" * 250 + "/a"])
def test_folder_that_is_none(tmp_path, stack, place):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match="a folder that can be written") as error:
        write.write_mrc(tmp_path / place, stack, 1.0)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="a folder that can be written"):
        write.check_output(tmp_path / place)


def test_folder_without_permission(tmp_path, stack, monkeypatch):
    def denied(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(write.os, "open", denied)
    with pytest.raises(InputError, match="Permission denied"):
        write.write_mrc(tmp_path / "a.mrc", stack, 1.0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            write.check_output(tmp_path / "a.mrc")
    finally:
        tmp_path.chmod(0o700)


def test_folder_in_place_of_a_name(tmp_path):
    with pytest.raises(InputError, match="add a file name"):
        write.write_bytes(tmp_path, b"", overwrite=True)


def test_check_output_leaves_no_trace(tmp_path):
    write.check_output(tmp_path / "a.mrc")
    assert os.listdir(tmp_path) == []


def test_json_of_numpy_values_reads_back_as_plain_json(tmp_path):
    path = tmp_path / "a.json"
    content = {
        "angles": np.array([-1.5, 0.0]),
        "count": np.int64(3),
        "chi2": [1.0, np.float32("nan"), float("inf")],
        "path": tmp_path,
        "shape": (1, 2),
        "known": None,
        "name": "µ",
        "flag": np.bool_(True),
        "nested": {"x": {3, 1, 2}},
    }
    write.write_json(path, content)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    assert found == {
        "angles": [-1.5, 0.0],
        "count": 3,
        "chi2": [1.0, None, None],
        "path": str(tmp_path),
        "shape": [1, 2],
        "known": None,
        "name": "µ",
        "flag": True,
        "nested": {"x": [1, 2, 3]},
    }
    with pytest.raises(TypeError):
        write.write_json(tmp_path / "b.json", {"x": object()})
    assert os.listdir(tmp_path) == ["a.json"]


def test_tlt_reads_back(tmp_path):
    degrees = [-60.0, -0.00001, 0.125, 60.1234]
    write.write_tlt(tmp_path / "a.tlt", degrees)
    table = angles.read_angles(tmp_path / "a.tlt")
    np.testing.assert_allclose(table.angles_deg, degrees, atol=5e-5)
    assert "-0.0000" not in (tmp_path / "a.tlt").read_text()
