"""Event files hold the numbers that were written, for any program that reads them."""

import importlib
import io
import struct
import sys
import types

import matplotlib.image
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.training import telemetry


def events(folder):
    """All events of a folder: the TFRecord framing, then the published message."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event()
            event.ParseFromString(data[at + 12 : at + 12 + length])
            found.append(event)
            at += 16 + length  # length, its checksum, message, its checksum
    return found


def values(folder, name):
    return {
        event.step: value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.tag == name
    }


def test_curves_come_back_as_written(tmp_path):
    pytest.importorskip("tensorboardX")
    with telemetry.EventFiles(tmp_path / "new") as files:
        for step in (48, 96):
            files.scalars(step, {"loss/mean": 1 / step, "speed": 2.0 * step})
        files.scalars(144, {"loss/mean": np.nan, "speed": 1.0})
    written = values(tmp_path / "new", "loss/mean")
    assert written == {48: np.float32(1 / 48), 96: np.float32(1 / 96)}
    assert values(tmp_path / "new", "speed") == {48: 96.0, 96: 192.0, 144: 1.0}


def test_a_run_that_goes_on_hides_the_steps_it_repeats(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for first in (10, 20):
        with telemetry.EventFiles(tmp_path) as files:
            files.scalars(first, {"loss": float(first)})
            files.flush()
    starts = [
        event.step
        for event in events(tmp_path)
        if event.session_log.status == event_pb2.SessionLog.START
    ]
    assert starts == [10, 20]


def test_pictures_are_written_upright(tmp_path):
    pytest.importorskip("tensorboardX")
    picture = np.arange(12.0).reshape(3, 4)
    with telemetry.EventFiles(tmp_path) as files:
        files.pictures(5, {"preview/0": picture})
    (image,) = [
        value.image
        for event in events(tmp_path)
        for value in event.summary.value
        if value.tag == "preview/0"
    ]
    assert (image.height, image.width) == (3, 4)
    read = matplotlib.image.imread(io.BytesIO(image.encoded_image_string))
    first = read[..., 0] if read.ndim == 3 else read
    np.testing.assert_allclose(255 * first, telemetry.grey(picture), atol=1e-4)


def test_nothing_is_written_before_the_first_value(tmp_path, monkeypatch):
    made = []
    library = types.SimpleNamespace(SummaryWriter=lambda *a, **k: made.append((a, k)))
    monkeypatch.setitem(sys.modules, "tensorboardX", library)
    with telemetry.EventFiles(tmp_path / "none") as files:
        files.flush()
    assert made == [] and not (tmp_path / "none").exists()


def test_missing_package_is_named(monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match="tensorboardX, got none; install it") as error:
        telemetry.EventFiles(tmp_path)
    assert "\n" not in str(error.value)


def test_grey_spans_the_percentiles_and_turns_the_rows():
    picture = np.linspace(-3.0, 5.0, 1000).reshape(50, 20)
    got = telemetry.grey(picture)
    assert got.dtype == np.uint8 and got.shape == (50, 20)
    assert got[-1, 0] == 0 and got[0, -1] == 255
    assert np.all(np.diff(got[::-1].ravel().astype(int)) >= 0)
    np.testing.assert_array_equal(telemetry.grey(np.ones((2, 2))), 0)
    with pytest.raises(ValueError, match="cut volumes into slices"):
        telemetry.grey(np.zeros((2, 2, 2)))
