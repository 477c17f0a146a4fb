import json

import numpy as np
import pytest

from temdiff_jax.cli import environment
from temdiff_jax.cli.main import main
from temdiff_jax.io import write


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """The folder of compiled programs is global to jax and would outlive the test."""
    monkeypatch.setattr(environment, "prepare_jax", lambda: tmp_path)


def test_prints_header_table_and_warnings(series, capsys):
    order = [4.0, -4.0, -2.0, 0.0, 2.0]
    write.write_tlt(series.angles, order, overwrite=True)
    assert main(["inspect", str(series.stack), "--angles", str(series.angles)]) == 0
    out = capsys.readouterr().out
    assert "stored        5 sections of 10 x 14 (y, x)" in out
    assert "mode          2 (float32, little endian)" in out
    assert "pixel size    20 Angstrom" in out
    assert "tilts         -4 to 4 degrees, median step 2" in out
    assert "warning: grid: tilts were not in order of angle; sorted" in out
    first = out[out.index("maximum\n") :].splitlines()[1].split()
    image = series.tilts[1]  # the tilt at -4 degrees
    assert first[:2] == ["1", "-4.00"]  # its number in the file
    expected = [image.mean(), image.std(), image.min(), image.max()]
    np.testing.assert_allclose([float(v) for v in first[2:]], expected, rtol=1e-4)


def test_a_stack_without_angles_still_shows_its_header(series, capsys):
    series.angles.unlink()
    assert main(["inspect", str(series.stack)]) == 0
    out = capsys.readouterr().out
    assert "5 sections of 10 x 14" in out
    assert "no tilt angles in the file; give them with --angles" in out


def test_an_npz_that_carries_angles_needs_no_option(tmp_path, capsys):
    path = tmp_path / "run.npz"
    angles = np.array([-3.0, 0.0, 3.0])
    ramp = np.arange(3 * 6 * 8, dtype=np.float32).reshape(3, 6, 8)
    np.savez(path, projections=ramp, angles_deg=angles)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "tilts         -3 to 3 degrees" in out
    assert "mode" not in out


def test_labels_cannot_speak_to_the_terminal(tmp_path, capsys):
    path = tmp_path / "grid.mrc"
    write.write_mrc(path, np.ones((3, 4, 5), np.float32), 1.0, labels=["ok"])
    data = bytearray(path.read_bytes())
    data[224:232] = b"\x1b[31mred"
    path.write_bytes(data)
    assert main(["inspect", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_only_the_tilts_of_a_range(series, capsys):
    words = ["inspect", str(series.stack), "--angles", str(series.angles)]
    assert main([*words, "--range", "4"]) == 0
    assert "images        3 of 10 x 14" in capsys.readouterr().out


def test_a_picture_shows_every_tilt_and_the_masked_pixels(series, tmp_path, capsys):
    from PIL import Image

    tilts = np.random.default_rng(0).normal(5.0, 1.0, (5, 40, 60)).astype(np.float32)
    tilts[2, 8, 12] = 500.0
    write.write_mrc(series.stack, tilts, 20.0, overwrite=True)
    picture = tmp_path / "all.png"
    assert main(["inspect", str(series.stack), "--picture", str(picture)]) == 0
    assert "masked        hot 0.0083 %" in capsys.readouterr().out
    page = np.asarray(Image.open(picture))
    red = (page[..., 0] > 200) & (page[..., 1] < 60)
    assert red.sum() == 1
    # Row 8 from the bottom of the third tilt, below the facts.
    (row,), (column,) = np.nonzero(red)
    from_below = page.shape[0] - row
    assert column % (60 + 4) == 12 and from_below % (40 + 14 + 4) == 1 + 8 + 14 + 4
    green = (page[..., 1] > 120) & (page[..., 0] < 20)
    assert green[:220].any()  # the axis
    assert main(["inspect", str(series.stack), "--picture", str(picture)]) == 2
    assert "exists" in capsys.readouterr().err


def test_the_options_of_reconstruct_decide_what_is_said(series, capsys):
    words = ["inspect", str(series.stack), "--angles", str(series.angles)]
    words += ["--exclude", "0,4", "--axis-angle", "90", "--log", "off"]
    assert main([*words, "--thickness", "9", "--prior", "default"]) == 0
    out = capsys.readouterr().out
    assert "volume        9 x 14 x 10 (z, y, x), thickness as given" in out
    assert "images        3 of 14 x 10" in out
    assert "logarithm     off (chosen by caller)" in out
    assert "4 samples of 8 steps" in out and "needs         " in out
    runs = ["--method", "mean", "--seed", "3", "--weighting", "robust", "--out", "x"]
    assert main([*words, *runs, "--format", "ome-zarr", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "method        mean: One call" in out and "robust, seed 3" in out
    assert "stage     one call" in out
    assert "x/grid_temdiff.ome.zarr" in out and "std" not in out.split("writes")[1]
    assert main([*words, "--method", "none"]) == 2


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (["--thickness", "80"], "--thickness: expected voxels, at most 56"),
        (["--bin", "5"], "tilts: expected at least"),
        (["--out", "."], "grid_report.png"),
    ],
)
def test_what_reconstruct_would_refuse_is_said(
    series, tmp_path, capsys, monkeypatch, options, refusal
):
    """The line is that of the command itself."""
    (tmp_path / "grid_report.png").write_text("precious")
    monkeypatch.chdir(tmp_path)
    words = [series.stack, "--angles", series.angles, "--method", "fbp", "--out", "r"]
    words = [str(word) for word in (*words, *options)]
    assert main(["inspect", *words, "--json"]) == 0
    preview = json.loads(capsys.readouterr().out)["preview"]
    assert refusal in preview["refused"]
    assert main(["reconstruct", *words]) == 2
    assert capsys.readouterr().err == f"temdiff: {preview['refused']}\n"
    assert (tmp_path / "grid_report.png").read_text() == "precious"


def test_a_file_of_options_serves_inspect_and_reconstruct(series, tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text(
        'path = "grid.mrc"\nmethod = "dps"\nset = ["scale=0.5"]\nseed = 7\n'
    )
    assert main(["inspect", str(file), "--range", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["preview"]["weighting"].endswith("seed 7")
    assert found["shape"][0] == 3 and found["forecast"]["network_calls"] > 0
    file.write_text('path = "grid.mrc"\nmethod = "dps"\nset = ["size=0.5"]\n')
    assert main(["inspect", str(file)]) == 2
    assert "expected one of scale, got 'size'" in capsys.readouterr().err
