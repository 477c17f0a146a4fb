"""What the training program writes besides the log."""

import dataclasses
import sys
import types

import jax
import matplotlib.image
import numpy as np
import pytest

from launch import program, train
from temdiff_jax.errors import InputError
from temdiff_jax.training import meter
from temdiff_jax.training.config import MeshConfig, TrainConfig
from temdiff_jax.training.preview import Preview


def previews():
    rng = np.random.default_rng(0)
    return [
        Preview(name, *(rng.normal(size=(6, 9)) for _ in range(3)))
        for name in ("half-range 4-7 deg, 11 tilts", "half-range 4-7 deg, 11 tilts")
    ]


class FakeWriter:
    """Stands for the writer of tensorboardX."""

    def __init__(self, *_, **__):
        self.scalars, self.images, self.closed = [], [], False

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def add_image(self, name, picture, step, dataformats):
        assert dataformats == "HW" and picture.dtype == np.uint8
        self.images.append((name, picture.shape, step))

    def close(self):
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    made = []

    def make(*args, **options):
        made.append(FakeWriter(*args, **options))
        return made[-1]

    library = types.SimpleNamespace(SummaryWriter=make)
    monkeypatch.setitem(sys.modules, "tensorboardX", library)
    return made


def test_every_validation_leaves_one_picture(tmp_path):
    with train.Observers(str(tmp_path), previews=True, tensorboard=False) as found:
        assert found.record is None
        found.show(480, previews())
        found.show(960, previews())
        # A run that goes on validates a step again.
        found.show(960, previews())
    names = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert names == ["step_000480.png", "step_000960.png"]
    picture = matplotlib.image.imread(tmp_path / "previews" / names[0])
    assert picture.shape[0] > 100 and np.std(picture) > 0.05


def test_nothing_is_computed_for_nobody(tmp_path):
    with train.Observers(str(tmp_path), previews=False, tensorboard=False) as found:
        assert found.record is None and found.show is None
    assert list(tmp_path.iterdir()) == []


def test_event_files_get_numbers_and_slices(tmp_path, writers):
    with train.Observers(str(tmp_path), previews=False, tensorboard=True) as found:
        found.record(48, {"training/loss": 0.5})
        found.show(480, previews())
    (writer,) = writers
    assert writer.scalars == [("training/loss", 0.5, 48)]
    # Truth, condition and estimate side by side.
    assert writer.images == [("preview/0", (6, 27), 480), ("preview/1", (6, 27), 480)]
    assert writer.closed and not (tmp_path / "previews").exists()


def test_only_the_first_process_writes(tmp_path, writers, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with train.Observers(str(tmp_path), previews=True, tensorboard=True) as found:
        assert found.record is None
        # It computes its share of the slices.
        found.show(480, previews())
    assert writers == [] and list(tmp_path.iterdir()) == []


def test_missing_package_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="expected the package tensorboardX"):
        train.Observers(str(tmp_path), previews=False, tensorboard=True)


def test_peak_is_that_of_all_devices_and_of_the_dtype(monkeypatch):
    asked = []

    def peak(dtype):
        asked.append(dtype)
        return 2e9

    monkeypatch.setattr(meter, "product_peak", peak)
    config = dataclasses.replace(TrainConfig(), mesh=MeshConfig(batch=2, slabs=4))
    config = program.override(config, "network.dtype=bfloat16")
    lines = []
    assert train.measure_peak(config, lines.append) == 16e9
    assert asked == ["bfloat16"]
    assert lines == ["matrix product, bfloat16: 2 GFLOP/s on one device, 8 used"]
