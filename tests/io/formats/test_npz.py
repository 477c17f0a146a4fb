"""Stacks of numpy files: the documented keys, and nothing that can hurt."""

import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io.formats import npz


class Payload:
    """Would create a file if anybody unpickled it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def npy_header(shape, descr="<f4"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize("key", ["projections", "tilts", "volume"])
def test_named_stack_is_found_among_others(tmp_path, stack, key):
    path = tmp_path / "a.npz"
    np.savez(path, **{key: stack, "mask": np.ones((2, 3, 4))})
    image = npz.read_npz(path)
    np.testing.assert_array_equal(image.data, stack)
    assert image.key == key and image.warnings == ()


def test_only_array_of_three_axes_is_taken_and_said(tmp_path, stack):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, haadf=stack, shifts=np.zeros((5, 2)))
    image = npz.read_npz(path)
    np.testing.assert_array_equal(image.data, stack)
    assert "'haadf'" in image.warnings[0]


def test_scale_offset_angles_and_pixel_size_are_applied(tmp_path):
    path = tmp_path / "a.npz"
    stored = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(
        path,
        projections=stored,
        scale=np.float32(0.5),
        offset=np.float32(-3),
        angles_deg=np.array([-10, 10], np.float32),
        pixel_nm=np.float32(3.36),
    )
    image = npz.read_npz(path)
    np.testing.assert_allclose(image.data, stored * 0.5 - 3)
    assert image.data.dtype == np.float32
    np.testing.assert_array_equal(image.angles_deg, [-10.0, 10.0])
    assert image.angles_deg.dtype == np.float64
    # 3.36 nm as float32 is 3.3599999; the number that was meant comes back.
    assert image.voxel_size_angstrom == pytest.approx((33.6,) * 3, rel=1e-12)


def test_voxel_size_in_angstrom_outranks_nanometres(tmp_path, stack):
    path = tmp_path / "a.npz"
    np.savez(path, tilts=stack, voxel_size_angstrom=4.0, pixel_nm=9.0)
    assert npz.read_npz(path).voxel_size_angstrom == (4.0, 4.0, 4.0)


def test_voxel_size_of_zero_is_ignored_with_a_warning(tmp_path, stack):
    path = tmp_path / "a.npz"
    np.savez(path, tilts=stack, pixel_nm=0.0)
    image = npz.read_npz(path)
    assert image.voxel_size_angstrom is None
    assert "not positive" in image.warnings[0]


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, stack, order):
    path = tmp_path / "a.npy"
    np.save(path, np.asarray(stack, order=order).astype(">f8"))
    image = npz.read_npz(path)
    np.testing.assert_array_equal(image.data, stack)
    assert image.data.flags.c_contiguous and image.key == ""


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        npz.read_npz(path, **options)
    assert "\n" not in str(error.value)


def test_two_stacks_are_ambiguous(tmp_path, stack):
    np.savez(tmp_path / "a.npz", train=stack, test=stack)
    refused(tmp_path / "a.npz", r"train \[5, 6, 7\], test")


def test_stack_without_three_axes(tmp_path):
    np.savez(tmp_path / "a.npz", projections=np.zeros((3, 4)))
    refused(tmp_path / "a.npz", "n_tilts, y, x")
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    refused(tmp_path / "a.npy", "n_tilts, y, x")


def test_object_arrays_are_never_loaded(tmp_path):
    mark = tmp_path / "ran"
    payload = np.array([Payload(str(mark))], dtype=object)
    for name in ("a.npy", "a.npz"):
        with (tmp_path / name).open("wb") as stream:
            if name == "a.npy":
                np.save(stream, payload, allow_pickle=True)
            else:
                np.savez(stream, projections=payload)
        refused(tmp_path / name, "objects are never loaded")
    assert not mark.exists()


def test_bare_pickle_is_never_loaded(tmp_path):
    mark = tmp_path / "ran"
    path = tmp_path / "a.npy"
    path.write_bytes(pickle.dumps(Payload(str(mark))))
    refused(path, "npz or .npy")
    assert not mark.exists()


@pytest.mark.parametrize("dtype", ["complex64", "U3", "M8[s]"])
def test_arrays_that_are_not_real_numbers(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), dtype))
    refused(tmp_path / "a.npy", "real numbers")


def test_npy_that_declares_terabytes(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy_header((10**4, 10**4, 10**4)) + bytes(1000))
    refused(path, "cut off or its header is wrong", max_input_gb=1e9)


def test_limit_of_the_caller(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 16, 16), np.uint8))
    refused(tmp_path / "a.npy", "max_input_gb", max_input_gb=4000 / 2**30)


def test_npy_with_bytes_behind_the_array(tmp_path, stack):
    path = tmp_path / "a.npy"
    np.save(path, stack)
    with path.open("ab") as stream:
        stream.write(b"x")
    refused(path, "bytes")


def test_damaged_npy_header(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy_header("__import__('os')") + bytes(96))
    refused(path, "a .npy array")


def bomb(path, header, size):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("projections.npy", "w") as member:
            member.write(header)
            for _ in range(size // 2**20):
                member.write(bytes(2**20))


@pytest.mark.parametrize(
    ("shape", "match"),
    [((64, 512, 512), "when unpacked"), ((1, 2, 4), "got 67108992 bytes")],
)
def test_deflate_bombs(tmp_path, shape, match):
    path = tmp_path / "a.npz"
    bomb(path, npy_header(shape), 64 * 2**20)
    assert path.stat().st_size < 2**20
    limit = 0.01 if shape[0] == 64 else 1.0
    tracemalloc.start()
    refused(path, match, max_input_gb=limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_member_that_promises_more_than_deflate_can_hold(tmp_path, stack):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, projections=stack)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**30)
    path.write_bytes(content)
    refused(path, "times its compressed size")


def test_flipped_bit_is_noticed(tmp_path, stack):
    path = tmp_path / "a.npz"
    np.savez(path, projections=stack)
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    refused(path, "CRC")


def test_truncated_archive(tmp_path, stack):
    path = tmp_path / "a.npz"
    np.savez(path, projections=stack)
    path.write_bytes(path.read_bytes()[:-30])
    refused(path, "npz or .npy")


def test_members_of_other_kinds(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.txt", "text")
    refused(path, "only .npy members")
    assert not (tmp_path.parent.parent / "evil.txt").exists()


def test_scale_that_is_not_one_number(tmp_path, stack):
    np.savez(tmp_path / "a.npz", tilts=stack, scale=np.ones(5))
    refused(tmp_path / "a.npz", "one finite number")
    np.savez(tmp_path / "b.npz", tilts=stack, scale=np.nan)
    refused(tmp_path / "b.npz", "one finite number")
