"""Kinds of bad input, each by its cause: bounded, inside its folder, one line."""

import bz2
import gzip
import io as streams
import lzma
import os
import resource
import struct
import zipfile
import zlib

import numpy as np
import pytest
import tifffile

from temdiff_jax import io
from temdiff_jax.io import gate
from temdiff_jax.io.formats import mrc, stores, tiff
from temdiff_jax.io.gate import InputError


def refused(match, call, *arguments, **options):
    with pytest.raises(InputError, match=match) as error:
        call(*arguments, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1500
    return message


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- memory out of a small file ----------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_an_extended_header_of_2_gib_is_not_unpacked(
    tmp_path, mrc_content, stack, pack
):
    before = peak_bytes()
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(pack(mrc_content(stack, nsymbt=2**31 - 1)))
    refused("extended header|too few", mrc.read_mrc, path)
    assert peak_bytes() - before < 2**28


def test_a_declared_gigabyte_in_bz2_takes_what_is_there(tmp_path, mrc_content, stack):
    before = peak_bytes()
    path = tmp_path / "a.mrc.bz2"
    path.write_bytes(bz2.compress(mrc_content(stack, shape=(64, 2048, 2048))))
    refused("the file is cut off", mrc.read_mrc, path)
    assert peak_bytes() - before < 2**28


def one_strip(data, compression, height=6, width=7):
    """A TIFF of one page with one strip, float32, byte by byte."""
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, 32), (259, 3, compression),
        (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, height),
        (279, 4, len(data)), (339, 3, 3),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", t, kind, 1, v) for t, kind, v in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("compression", "data"),
    [
        (8, zlib.compress(bytes(2**26))),
        (34925, lzma.compress(bytes(2**26), preset=0)),
        (32773, bytes([129, 0]) * 10),
        (8, zlib.compress(bytes(100))),
        (1, bytes(160)),
        (1, bytes(172)),
    ],
    ids=["deflate", "lzma", "packbits", "short", "plain-short", "plain-long"],
)
def test_strips_hold_rows_times_width_times_bytes(tmp_path, compression, data):
    path = tmp_path / "a.tif"
    path.write_bytes(one_strip(data, compression))
    refused("strips of 168 bytes|a readable TIFF|bytes", tiff.read_tiff, path)


def test_sound_strips_of_every_known_compression_are_read(tmp_path, stack):
    raw = stack[0].tobytes()
    literal = b"".join(
        bytes([len(raw[i : i + 128]) - 1]) + raw[i : i + 128]
        for i in range(0, 168, 128)
    )
    for number, (kind, data) in enumerate(
        {
            1: raw,
            8: zlib.compress(raw),
            32773: literal,
            34925: lzma.compress(raw),
        }.items()
    ):
        path = tmp_path / f"{number}.tif"
        path.write_bytes(one_strip(data, kind))
        np.testing.assert_array_equal(tiff.read_tiff(path).data[0], stack[0, ::-1])


def test_lzw_is_read_or_names_the_package(tmp_path, stack, monkeypatch):
    imagecodecs = pytest.importorskip("imagecodecs")
    path = tmp_path / "a.tif"
    path.write_bytes(one_strip(imagecodecs.lzw_encode(stack[0].tobytes()), 5))
    np.testing.assert_array_equal(tiff.read_tiff(path).data[0], stack[0, ::-1])
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    refused("pip install imagecodecs", tiff.read_tiff, path)


def test_other_compressions_are_refused_by_name(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(one_strip(bytes(168), 50000))
    refused("LZW, Deflate", tiff.read_tiff, path)


def test_free_memory_is_the_least_of_three_limits(monkeypatch):
    whole = gate.free_memory_bytes()
    monkeypatch.setattr(gate, "_control_group", lambda: 12345)
    assert gate.free_memory_bytes() == 12345 < whole
    monkeypatch.setattr(gate, "_address_space", lambda: 77)
    assert gate.free_memory_bytes() == 77


# --- files that lead elsewhere -----------------------------------------------------


def ome(path, stack, *, outside=None, sizes="", text=None):
    body = "<TiffData/>"
    if outside is not None:
        body = "".join(
            f'<TiffData IFD="{n}" FirstZ="{n}" PlaneCount="1"><UUID FileName='
            f'"{outside}">urn:uuid:00000000-0000-0000-0000-000000000002</UUID></TiffData>'
            for n in range(len(stack))
        )
    text = text or (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.'
        'org/Schemas/OME/2016-06" UUID="urn:uuid:00000000-0000-0000-0000-000000000001">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="float" '
        f'{sizes} SizeX="7" SizeY="6" SizeZ="{len(stack)}" SizeC="1" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        f"{body}</Pixels></Image></OME>"
    )
    tifffile.imwrite(
        path, stack[:, ::-1], photometric="minisblack", description=text.encode(),
        metadata=None,
    )  # fmt: skip
    return path


def test_an_ome_tiff_never_reads_another_file(tmp_path, stack):
    tifffile.imwrite(tmp_path / "secret.tif", stack + 7, photometric="minisblack")
    os.mkfifo(tmp_path / "pipe.tif")
    for name in ("secret.tif", str(tmp_path / "secret.tif"), "pipe.tif", "none.tif"):
        path = ome(tmp_path / "a.ome.tif", stack, outside=name)
        try:
            data = tiff.read_tiff(path).data
        except InputError as error:
            assert "\n" not in str(error)
        else:
            np.testing.assert_array_equal(data, stack)


def test_entities_of_ome_xml_are_refused(tmp_path, stack):
    text = '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><OME>&e;</OME>'
    path = ome(tmp_path / "a.ome.tif", stack, text=text)
    refused("without a DOCTYPE|readable TIFF", tiff.read_tiff, path)


def zarr_array(root, data):
    import json

    root.mkdir(parents=True)
    meta = {
        "zarr_format": 2, "shape": list(data.shape), "chunks": list(data.shape),
        "dtype": "<f4", "compressor": None, "fill_value": 0, "order": "C",
        "filters": None,
    }  # fmt: skip
    (root / ".zarray").write_text(json.dumps(meta))
    return root / "0.0.0"


def test_chunks_that_are_links_or_pipes_are_refused_before_reading(tmp_path, stack):
    outside = tmp_path / "secret.raw"
    outside.write_bytes(stack.tobytes())
    read = {"voxel_size_nm": (1, 1, 1)}
    chunk = zarr_array(tmp_path / "link.zarr", stack)
    chunk.symlink_to(outside)
    refused("a link out of it", stores.open_volume, tmp_path / "link.zarr", **read)
    chunk = zarr_array(tmp_path / "pipe.zarr", stack)
    os.mkfifo(chunk)
    refused("a pipe", stores.open_volume, tmp_path / "pipe.zarr", **read)
    chunk = zarr_array(tmp_path / "inner.zarr", stack)
    (chunk.parent / "real").write_bytes(stack.tobytes())
    chunk.symlink_to("real")  # inside, which copying tools make
    volume = stores.open_volume(tmp_path / "inner.zarr", **read)
    np.testing.assert_array_equal(volume.read(), stack)


# --- one line, whatever goes wrong -------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\nb"),
        TypeError("x"),
        OverflowError("x"),
        RecursionError("x"),
        MemoryError(),
        KeyError("x"),
        OSError(5, "x"),
        SyntaxError("x"),
        AssertionError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_any_exception_of_a_reader_is_one_line(error):
    def fail():
        with gate.reading("file", "a good one"):
            raise error

    refused("file: expected a good one", fail)


def test_warnings_of_a_reader_do_not_stand_beside_the_line(recwarn):
    with gate.reading("file", "a good one"):
        np.array([1e308], np.float64).astype(np.float32)
    assert not recwarn.list


def test_a_long_word_is_cut(tmp_path):
    path = tmp_path / "a.tlt"
    for word in ("x" * 10**6, "1," * 10**5, "9" * 10**6):
        path.write_text(f"0\n{word}\n")
        refused("line 2|degrees", io.read_angles, path)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 6, 7), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b",), }",
        b"{'descr': '<f4', 'shape': (",
        b"(" * 3000,
    ],
    ids=["bool", "digits", "open", "nested"],
)
def test_npy_headers_that_numpy_does_not_like(tmp_path, header):
    raw = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(raw)) + raw + bytes(840))
    refused("npy array", io.read_image, path)


def test_numbers_beyond_float32_are_refused(tmp_path, stack):
    np.save(tmp_path / "a.npy", stack.astype(np.float64) * 1e302)
    refused("fit float32", io.read_image, tmp_path / "a.npy")


def test_fei_headers_of_a_byte_or_two_are_read_over(make_mrc, stack):
    for size in (1, 2, 3, 80):
        path = make_mrc(stack, extended=bytes(size), exttyp=b"FEI1")
        np.testing.assert_array_equal(mrc.read_mrc(path).data, stack)


# --- one picture, whatever the container -------------------------------------------


def test_every_container_shows_the_same_picture(tmp_path, make_mrc, mrc_content, stack):
    """Row 0 is the bottom: of MRC as it is, of TIFF and MRC from the top turned."""
    top = np.ascontiguousarray(stack[:, ::-1])
    made = {
        "a.mrc": mrc_content(stack),
        "b.mrc": mrc_content(top, axes=(1, -2, 3)),
        "c.mrc": mrc_content(np.ascontiguousarray(np.swapaxes(stack, 1, 2)),
                             axes=(2, 1, 3)),
        "d.mrc.gz": gzip.compress(mrc_content(stack)),
        "e.mrc.bz2": bz2.compress(mrc_content(stack)),
    }  # fmt: skip
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "f.mrc.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.mrc", mrc_content(stack))
    tifffile.imwrite(tmp_path / "g.tif", top, photometric="minisblack")
    np.save(tmp_path / "h.npy", stack)
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(io.read_image(path).data, stack, str(path))


def test_records_of_fei_mean_rows_from_the_top(make_mrc, stack):
    from mrcfile import dtypes

    dtype = dtypes.get_ext_header_dtype(b"FEI1", "<")
    records = np.zeros(5, dtype)
    records["Metadata size"] = dtype.itemsize
    path = make_mrc(stack, extended=records.tobytes(), exttyp=b"FEI1")
    image = mrc.read_mrc(path)
    np.testing.assert_array_equal(image.data, stack[:, ::-1])
    assert "begin at the top" in image.warnings[0]


def test_a_zip_of_several_files_or_with_a_bomb_is_refused(tmp_path, mrc_content, stack):
    buffer = streams.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mrc", mrc_content(stack))
        archive.writestr("b.mrc", mrc_content(stack))
    (tmp_path / "a.mrc.zip").write_bytes(buffer.getvalue())
    refused("one file in the zip", io.read_image, tmp_path / "a.mrc.zip")
    buffer = streams.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mrc", mrc_content(stack) + bytes(2**26))
    (tmp_path / "a.mrc.zip").write_bytes(buffer.getvalue())
    refused("after decompression", io.read_image, tmp_path / "a.mrc.zip")


# --- sizes and senses that files state ---------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "angstrom"),
    [
        ('PhysicalSizeX="0.00135" PhysicalSizeY="0.00135"', 13.5),
        ('PhysicalSizeX="1.35" PhysicalSizeXUnit="nm" PhysicalSizeY="1.35" '
         'PhysicalSizeYUnit="nm"', 13.5),
        ('PhysicalSizeX="13.5" PhysicalSizeXUnit="Å" PhysicalSizeY="13.5" '
         'PhysicalSizeYUnit="Å"', 13.5),
        ("", None),
    ],
)  # fmt: skip
def test_physical_sizes_of_ome_tiff(tmp_path, stack, sizes, angstrom):
    image = tiff.read_tiff(ome(tmp_path / "a.ome.tif", stack, sizes=sizes))
    np.testing.assert_array_equal(image.data, stack)
    found = image.voxel_size_angstrom
    assert found == (None if angstrom is None else pytest.approx((angstrom,) * 3))


def test_resolution_in_centimetres_is_a_pixel_size(tmp_path, stack):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stack, photometric="minisblack", resolution=(2e7, 2e7),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    image = tiff.read_tiff(path)
    assert image.voxel_size_angstrom == pytest.approx((5.0,) * 3)
    assert "resolution tags" in image.warnings[0]


def test_values_shown_inverted_are_said(tmp_path, stack):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="miniswhite")
    assert any("MINISWHITE" in line for line in tiff.read_tiff(path).warnings)


def test_unsigned_counts_stored_as_signed_are_recognised(make_mrc):
    counts = np.array([30000, 40000, 33000, 36000, 28000, 45000]).astype(np.uint16)
    data = np.resize(counts, (5, 6, 7))
    image = mrc.read_mrc(make_mrc(data.view(np.int16), mode=1))
    np.testing.assert_array_equal(image.data, data)
    assert any("unsigned" in line for line in image.warnings)
    signed = np.resize(np.array([-30000, -2, 5, 30000, 100], np.int16), (5, 6, 7))
    image = mrc.read_mrc(make_mrc(signed, mode=1))
    np.testing.assert_array_equal(image.data, signed)


def test_pixels_that_are_not_square_are_interpolated_or_refused(tmp_path, make_mrc):
    y = np.arange(12.0)[None, :, None] * np.ones((5, 1, 9))
    ramp = (y + np.arange(5.0)[:, None, None]).astype(np.float32)
    ramp[:, 0, 0] += 1e-3
    path = make_mrc(ramp, ispg=0, grid=(9, 12, 1), cell=(90.0, 240.0, 10.0))
    series = io.load_tilt_series(path, [-20, -10, 0, 10, 20])
    assert series.tilts.shape == (5, 24, 9)
    assert series.voxel_size_angstrom == pytest.approx(10.0)
    np.testing.assert_allclose(np.diff(series.tilts[2, 9:-9, 4]), 0.5, atol=5e-3)
    path = make_mrc(ramp, ispg=0, grid=(9, 12, 1), cell=(90.0, 2400.0, 10.0))
    refused("nearly square", io.load_tilt_series, path, [-20, -10, 0, 10, 20])


# --- a new format is a reader and a row --------------------------------------------


def test_the_format_of_the_documentation_is_one_reader_and_one_row(
    tmp_path, monkeypatch, stack
):
    from pathlib import Path

    from temdiff_jax.io.formats import table

    page = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
    section = page.read_text().split("\n## A file format\n")[1]
    code = section.split("```python\n")[1].split("```")[0]
    namespace: dict = {}
    exec(code, namespace)
    row = table.Format("raw", (".raw32",), namespace["read_raw"])
    monkeypatch.setattr(table, "FORMATS", (*table.FORMATS, row))
    path = tmp_path / "a.raw32"
    path.write_bytes(b"5 6 7 13.5\n" + stack.tobytes())
    series = io.load_tilt_series(path, [-20, -10, 0, 10, 20])
    np.testing.assert_array_equal(series.tilts, stack)
    assert series.voxel_size_angstrom == 13.5
    path.write_bytes(b"5 6 7 13.5\n" + stack.tobytes()[:-1])
    refused("a readable raw file", io.load_tilt_series, path, [-20, -10, 0, 10, 20])
    path.write_bytes(b"5000 60000 7000 13.5\n")
    refused("at most", io.load_tilt_series, path, [-20, -10, 0, 10, 20])
