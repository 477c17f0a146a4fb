"""The flags of the program and how it ends; its work: training/test_preparation.py."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from launch import prepare_data
from temdiff_jax.errors import InputError
from temdiff_jax.training import volumes

REPOSITORY = Path(__file__).resolve().parent.parent.parent


class Given:
    """Parsed flags."""

    def __init__(self, **changes):
        lists = ("name", "licence", "weight", "voxel_nm", "box")
        self.__dict__ |= {name: [] for name in lists}
        self.__dict__ |= {"stain": ["dark"], **changes}


def test_flags_given_once_hold_for_all_sources():
    given = Given(
        source=["a.mrc", "s3://b/c.n5#em/s0"],
        licence=["CC0"],
        stain=["dark", "bright"],
        weight=[1.0, 2.0],
        voxel_nm=["8,4,4.5"],
        box=["0:9,1:8,2:7"],
    )
    first, second = prepare_data.read_requests(given)
    assert (first.name, second.name) == ("a", "c")
    assert second.path == "s3://b/c.n5" and second.dataset == "em/s0"
    assert (first.licence, second.licence) == ("CC0", "CC0")
    assert (first.stain_is_dark, second.stain_is_dark) == (True, False)
    assert (first.weight, second.weight) == (1.0, 2.0)
    assert first.voxel_nm == (8.0, 4.0, 4.5)
    assert second.box == ((0, 9), (1, 8), (2, 7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": ["a", "b", "c"]}, r"--licence: expected one value per source \(2"),
        ({"name": ["x"]}, "--name: expected one value per source"),
        ({"weight": [1.0, 0.0]}, "--weight: expected shares above 0"),
        ({"voxel_nm": ["8,8"]}, "--voxel_nm: expected three values"),
        ({"box": ["0:9,1:8,x"]}, "--box: expected three values"),
    ],
)
def test_flags_are_checked(changes, message):
    given = Given(**{"source": ["a.mrc", "b.mrc"], "licence": ["CC0"], **changes})
    with pytest.raises(InputError, match=message):
        prepare_data.read_requests(given)


@pytest.mark.slow
def test_program_prepares_and_ends_with_code_2_on_bad_input(tmp_path):
    grey = ndimage.gaussian_filter(
        np.random.default_rng(0).normal(size=(40, 30, 30)), 2
    )
    volume = np.clip(128 + 30 * grey / grey.std(), 0, 255).astype(np.uint8)
    volume[17] = 0  # a black slice, which splits the volume in two
    np.savez(tmp_path / "fly.npz", volume=volume, pixel_nm=8.0)

    def run(*flags):
        command = [sys.executable, "-m", "launch.prepare_data", *flags]
        return subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300
        )

    out = f"--out={tmp_path}/s"
    flags = (f"--source={tmp_path}/fly.npz", "--licence=CC0", "--min_slices=8")
    done = run(*flags, out)
    assert done.returncode == 0, done.stderr
    assert "fly: 2 shards (0 kept)" in done.stdout
    assert volumes.load_sources(tmp_path, ("s/manifest.json",))
    bad = run(f"--source={tmp_path}/none.n5", "--licence=CC0", out)
    assert bad.returncode == 2 and bad.stdout == ""
    assert bad.stderr.startswith("prepare_data: ") and bad.stderr.count("\n") == 1
