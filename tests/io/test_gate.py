"""Damaged and lying files are refused before memory is taken."""

import bz2
import gzip
import io
import os
import tracemalloc

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io import gate
from temdiff_jax.io.formats import mrc


@pytest.fixture
def little_memory():
    """Fail the test if more than 16 MiB of Python and numpy memory was held."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        mrc.read_mrc(path, **options)
    message = str(error.value)
    assert "\n" not in message
    assert "expected" in message and "got" in message and ";" in message


def test_missing_file(tmp_path):
    refused(tmp_path / "none.mrc", "No such file")


def test_folder(tmp_path):
    refused(tmp_path, "a folder")


def test_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.mrc")
    refused(tmp_path / "pipe.mrc", "special file")


def test_name_that_no_system_accepts(tmp_path):
    refused(str(tmp_path) + "/a\0b", "existing file")


def test_empty_file(tmp_path):
    path = tmp_path / "a.mrc"
    path.touch()
    refused(path, "empty file")


def test_shorter_than_a_header(tmp_path):
    path = tmp_path / "a.mrc"
    path.write_bytes(b"MAP " * 20)
    refused(path, "1024 bytes")


def test_other_format(tmp_path):
    path = tmp_path / "a.mrc"
    path.write_bytes(b"\xff" * 4096)
    refused(path, "an MRC file")


def test_truncated_data(make_mrc, stack):
    path = make_mrc(stack)
    os.truncate(path, 1024 + stack.nbytes - 1)
    refused(path, f"{1024 + stack.nbytes} bytes .* got {1023 + stack.nbytes}")


def test_header_smaller_than_the_file(make_mrc):
    data = np.zeros((8, 16, 16), np.float32)
    refused(make_mrc(data, shape=(1, 16, 16)), "does not describe this file")


def test_small_padding_is_tolerated(make_mrc, stack):
    path = make_mrc(stack)
    with path.open("ab") as stream:
        stream.write(bytes(512))
    np.testing.assert_array_equal(mrc.read_mrc(path).data, stack)


def test_huge_extents_in_a_small_file(make_mrc, stack, little_memory):
    refused(make_mrc(stack, shape=(2**10, 2**20, 2**20)), "cut off or its header")


@pytest.mark.parametrize("shape", [(-5, 6, 7), (5, 0, 7), (5, 6, -(2**31))])
def test_extents_that_are_not_positive_name_the_field(make_mrc, stack, shape):
    name = ("nz", "ny", "nx")[[n <= 0 for n in shape].index(True)]
    refused(make_mrc(stack, shape=shape, grid=(7, 6, 5)), f"header field {name}")


@pytest.mark.parametrize("nsymbt", [2**31 - 1, -4])
def test_lying_extended_header(make_mrc, stack, nsymbt, little_memory):
    refused(make_mrc(stack, nsymbt=nsymbt), "nsymbt")


def test_nsymbt_copied_without_its_bytes_is_named(make_mrc, stack):
    refused(make_mrc(stack, nsymbt=5120), "copied without its bytes")


def test_limit_of_the_caller(make_mrc):
    data = np.zeros((4, 64, 64), np.int8)  # 16 KiB on disk, 64 KiB as float32
    path = make_mrc(data)
    refused(path, "max_input_gb", max_input_gb=60e3 / 2**30)
    assert mrc.read_mrc(path, max_input_gb=70e3 / 2**30).data.shape == (4, 64, 64)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_limit_must_be_positive(make_mrc, stack, limit):
    refused(make_mrc(stack), "max_input_gb", max_input_gb=limit)


def test_half_of_the_free_memory_is_a_limit(make_mrc, stack, monkeypatch):
    monkeypatch.setattr(gate, "free_memory_bytes", lambda: 2 * stack.nbytes - 2)
    refused(make_mrc(stack), "half of the free memory")
    mapped = mrc.read_mrc(make_mrc(stack), memory_map=True)
    np.testing.assert_array_equal(mapped.data, stack)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_bomb_behind_a_small_header(
    tmp_path, mrc_content, stack, pack, little_memory
):
    # 2 GiB when unpacked: one packed piece of 16 MiB, repeated 128 times.
    path = tmp_path / "bomb.mrc.gz"
    piece = pack(bytes(2**20)) * 16
    path.write_bytes(pack(mrc_content(stack)) + piece * 128)
    refused(path, "after decompression")


def test_gzip_header_that_promises_more_than_deflate_can_hold(
    tmp_path, mrc_content, stack, little_memory
):
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(gzip.compress(mrc_content(stack, shape=(512, 512, 512))))
    refused(path, "compressed bytes, too few")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_truncated_compressed_file(tmp_path, mrc_content, stack, pack):
    path = tmp_path / "a.mrc.gz"
    content = pack(mrc_content(stack))
    path.write_bytes(content[: len(content) - 40])
    refused(path, "damaged|cut off")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_flipped_byte_in_a_compressed_file(tmp_path, mrc_content, stack, pack):
    path = tmp_path / "a.mrc.gz"
    content = bytearray(pack(mrc_content(stack)))
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    refused(path, "damaged|cut off|expected")


def test_npy_header_returns_shape_and_dtype(stack):
    buffer = io.BytesIO()
    np.save(buffer, stack)
    size = buffer.tell()
    buffer.seek(0)
    assert gate.npy_header(buffer, size, "a", 1.0) == (stack.shape, stack.dtype)


def test_bounded_stream_stops_at_its_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    with gate.BoundedStream(path, None, 6) as stream:
        assert stream.read(100) == b"012345"
        assert stream.read(1) == b""
