import json
import re
import struct

import numpy as np
import pytest

from temdiff_jax import errors, report
from temdiff_jax.cli.main import main
from temdiff_jax.io import formats, write
from temdiff_jax.io.formats import mrc

WRITE_PAGE = report.write_page
OUTPUTS = [
    "grid.temdiff.json",
    "grid_report.html",
    "grid_report.png",
    "grid_std.mrc",
    "grid_temdiff.mrc",
]


def run(series, out, *options):
    words = ["reconstruct", series.stack, "--angles", series.angles, "--out", out]
    return main([str(word) for word in (*words, *options)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(capsys, code):
    """Checks the promise of every refusal: code 2, one line, no traceback."""
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("temdiff: ")
    return lines[0]


def test_writes_its_files_and_says_so(series, library, tmp_path, capsys):
    out = tmp_path / "results"
    assert run(series, out, "--thickness", "6", "--seed", "7") == 0
    assert names(out) == OUTPUTS
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "volume 6 x 10 x 14 (z, y, x)"
    assert "highest 1.10 at 4 degrees" in captured.out
    assert [f"wrote {out / name}" in captured.out for name in OUTPUTS] == [True] * 5
    assert "5 tilts from -4 to 4 degrees" in captured.err
    assert "sampling: 2/2" in captured.err


def test_passes_the_options_to_the_library(series, library, tmp_path):
    code = run(
        series, tmp_path / "r", "--thickness", "4", "--samples", "3", "--steps", "9",
        "--method", "posterior", "--prior", "p.safetensors", "--seed", "11",
        "--log", "on",
        "--weighting", "robust",
        "--range", "-2:2", "--voxel-size", "33",
    )  # fmt: skip
    assert code == 0
    (call,) = library.calls
    np.testing.assert_array_equal(call.pop("tilts"), series.tilts[1:4])
    np.testing.assert_array_equal(call.pop("angles"), [-2.0, 0.0, 2.0])
    assert call.pop("method").name == "posterior"
    settings = call.pop("settings")
    assert (settings.num_samples, settings.num_steps) == (3, 9)
    assert call == {
        "thickness": 4,
        "prior": "p.safetensors",
        "key": 11,
        "log": "on",
        "weighting": "robust",
        "voxel_size_angstrom": 33.0,
    }


TRUST = {"verdict": "INCONSISTENT", "sentences": ["INCONSISTENT: shifts.", "So."]}


def test_the_verdict_stands_first_and_in_the_record(series, library, tmp_path, capsys):
    library.trust = TRUST
    assert run(series, tmp_path / "r") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == TRUST["sentences"]
    record = json.loads((tmp_path / "r" / "grid.temdiff.json").read_text())
    assert record["trust"] == TRUST and "trust" not in record["library"]
    assert any("logarithm off (by the images)" in line for line in said)


def test_strict_asks_for_a_consistent_series(series, library, tmp_path):
    library.trust = TRUST
    assert run(series, tmp_path / "r", "--strict") == 3
    library.trust = TRUST | {"verdict": "CONSISTENT"}
    assert run(series, tmp_path / "s", "--strict") == 0


def test_a_method_without_samples_writes_no_spread(series, library, tmp_path, capsys):
    assert run(series, tmp_path / "r", "--method", "mean", "--format", "ome-zarr") == 0
    reports = ["grid_report.html", "grid_report.png"]
    written = ["grid.temdiff.json", *reports, "grid_temdiff.ome.zarr"]
    assert names(tmp_path / "r") == written
    volume = formats.read_image(tmp_path / "r" / "grid_temdiff.ome.zarr")
    assert volume.data.shape == (6, 10, 14)
    assert volume.voxel_size_angstrom == pytest.approx((20.0, 20.0, 20.0))
    record = json.loads((tmp_path / "r" / "grid.temdiff.json").read_text())
    assert list(record["sha256"]) == ["grid_temdiff.ome.zarr"]
    again = ["--method", "mean", "--format", "ome-zarr"]
    assert run(series, tmp_path / "r", *again) == 2
    assert run(series, tmp_path / "r", *again, "--overwrite") == 0
    assert run(series, tmp_path / "m", "--method", "mean") == 0
    labels = mrc.read_mrc(tmp_path / "m" / "grid_temdiff.mrc").labels
    assert not any("samples" in label for label in labels)
    assert any(label.startswith("logarithm off, dense matter is") for label in labels)


@pytest.mark.parametrize("text", ["-2:2", "4", "4.0"])
def test_range_is_an_interval_or_a_width(series, library, tmp_path, text):
    assert run(series, tmp_path / "r", "--range", text) == 0
    np.testing.assert_array_equal(library.calls[0]["angles"], [-2.0, 0.0, 2.0])


def test_volumes_carry_values_voxel_size_and_labels(series, library, tmp_path):
    out = tmp_path / "r"
    assert run(series, out, "--thickness", "6", "--samples", "2", "--steps", "5") == 0
    mean = mrc.read_mrc(out / "grid_temdiff.mrc")
    np.testing.assert_array_equal(mean.data.ravel(), np.arange(6 * 10 * 14))
    assert mean.voxel_size_angstrom == pytest.approx((20.0, 20.0, 20.0))
    assert dict(mean.header)["space group"].startswith("1")
    assert "prior default, seed 0, method default" in mean.labels
    assert "2 samples of 5 steps" in mean.labels
    assert "5 tilts from -4 to 4 degrees" in mean.labels
    std = mrc.read_mrc(out / "grid_std.mrc")
    assert set(std.data.ravel()) == {0.5}
    assert "uncalibrated" in std.labels[0]


def test_binning_averages_pixels_and_grows_the_voxel(series, library, tmp_path):
    out = tmp_path / "r"
    assert run(series, out, "--bin", "2") == 0
    expected = series.tilts.reshape(5, 5, 2, 7, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(library.calls[0]["tilts"], expected, rtol=1e-6)
    assert mrc.read_mrc(out / "grid_temdiff.mrc").voxel_size_angstrom[0] == 40.0


def test_a_tilt_axis_along_x_is_turned_there_and_back(series, library, tmp_path):
    out = tmp_path / "r"
    assert run(series, out, "--tilt-axis", "x") == 0
    assert library.calls[0]["tilts"].shape == (5, 14, 10)
    volume = mrc.read_mrc(out / "grid_temdiff.mrc").data
    assert volume.shape == (6, 10, 14)
    inner = np.arange(6 * 14 * 10).reshape(6, 14, 10)
    np.testing.assert_array_equal(volume[:, 9, 0], inner[:, 0, 0])


def test_record_tells_all_that_is_needed_to_repeat_the_run(
    series, library, tmp_path, capsys
):
    out = tmp_path / "r"
    assert run(series, out, "--seed", "5", "--samples", "2", "--steps", "4") == 0
    record = json.loads((out / "grid.temdiff.json").read_text())
    assert record["convention"] == "x=X*cos+Z*sin; order=zyx; center=(n-1)/2; axis=+Y"
    assert record["parameters"] == {
        "thickness": 6, "samples": 2, "steps": 4, "method": "default",
        "rule": None, "solver": None, "schedule": None, "numbers": [],
        "prior": "default", "seed": 5, "log": "auto", "weighting": "adaptive",
        "contrast": "auto",
    }  # fmt: skip
    assert record["angles_deg"] == [-4.0, -2.0, 0.0, 2.0, 4.0]
    assert record["chi2"] == pytest.approx([0.9, 0.95, 1.0, 1.05, 1.1])
    assert record["weights"] == [1.0] * 5
    assert re.fullmatch("[0-9a-f]{64}", record["input"]["sha256"])
    assert record["input"]["path"] == str(series.stack)
    assert record["arguments"][:2] == ["reconstruct", str(series.stack)]
    assert record["library"]["prior_sha256"] == "ab" * 32
    assert {"python", "jax", "numpy", "temdiff_jax"} <= set(record["versions"])
    assert record["timings_s"]["reconstruct_s"] >= 0.0
    assert sorted(record["outputs"]) == OUTPUTS


def test_json_prints_the_record_and_nothing_else(series, library, tmp_path, capsys):
    out = tmp_path / "r"
    assert run(series, out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "grid.temdiff.json").read_text())


def test_report_is_a_page_with_the_measured_tilts(
    series, library, tmp_path, monkeypatch
):
    out = tmp_path / "r"
    monkeypatch.setattr(report, "write_page", WRITE_PAGE)
    assert run(series, out) == 0
    data = (out / "grid_report.png").read_bytes()
    assert data[:4] == b"\x89PNG"
    assert struct.unpack(">I", data[16:20]) == (1800,)


def test_existing_output_stays_without_overwrite(series, library, tmp_path, capsys):
    out = tmp_path / "r"
    out.mkdir()
    (out / "grid_report.png").write_text("precious")
    line = refused(capsys, run(series, out))
    assert "grid_report.png" in line and "--overwrite" in line
    assert library.calls == []
    assert names(out) == ["grid_report.png"]
    assert (out / "grid_report.png").read_text() == "precious"


def test_overwrite_replaces_the_outputs(series, library, tmp_path):
    out = tmp_path / "r"
    assert run(series, out) == 0
    (out / "grid_report.png").write_text("old")
    assert run(series, out, "--overwrite") == 0
    assert (out / "grid_report.png").read_bytes() == b"a page"
    assert names(out) == OUTPUTS


def test_an_input_is_never_replaced(series, library, tmp_path, capsys):
    angles = tmp_path / "grid.temdiff.json"
    angles.write_bytes(series.angles.read_bytes())
    series.angles = angles
    line = refused(capsys, run(series, tmp_path, "--overwrite"))
    assert "got" in line and "as both" in line
    assert angles.read_bytes().startswith(b"  -4.0000")


def test_an_output_folder_below_a_file_is_refused(series, library, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    line = refused(capsys, run(series, tmp_path / "file" / "results"))
    assert "--out" in line
    line = refused(capsys, run(series, tmp_path / "file"))
    assert "--out" in line
    assert (tmp_path / "file").read_text() == "x"
    assert library.calls == []


def test_a_failing_library_leaves_no_output(series, library, tmp_path, capsys):
    library.error = errors.InputError("prior: expected a name, got 'x'; pass one")
    line = refused(capsys, run(series, tmp_path / "r", "--prior", "x"))
    assert line == "temdiff: prior: expected a name, got 'x'; pass one"
    library.error = RuntimeError("first line\nsecond line")
    assert run(series, tmp_path / "r") == 1
    error = capsys.readouterr().err.splitlines()
    assert error == [
        "temdiff: RuntimeError: first line second line; temdiff --debug shows where"
    ]
    assert names(tmp_path / "r") == []


def _count_mismatch(series):
    write.write_tlt(series.angles, [-2.0, 0.0, 2.0], overwrite=True)


def _radians(series):
    write.write_tlt(series.angles, np.deg2rad([-4, -2, 0, 2, 4]), overwrite=True)


def _nan_angle(series):
    series.angles.write_text("-4\n-2\nnan\n2\n4\n")


def _decimal_comma(series):
    series.angles.write_text("-4,0\n-2,0\n0,0\n2,0\n4,0\n")


def _nan_pixel(series):
    data = bytearray(series.stack.read_bytes())
    data[1024 + 400 : 1024 + 404] = struct.pack("<f", np.nan)
    series.stack.write_bytes(data)


def _truncated(series):
    series.stack.write_bytes(series.stack.read_bytes()[:-100])


def _empty(series):
    series.stack.write_bytes(b"")


def _no_stack(series):
    series.stack.unlink()


def _no_angles(series):
    series.angles.unlink()


def _folder_as_stack(series):
    series.stack.unlink()
    series.stack.mkdir()


def _complex_mode(series):
    data = bytearray(series.stack.read_bytes())
    data[12:16] = struct.pack("<i", 4)
    series.stack.write_bytes(data)


def _not_mrc(series):
    series.stack.write_bytes(b"\x89PNG" * 600)


@pytest.mark.parametrize(
    "spoil",
    [
        _count_mismatch, _radians, _nan_angle, _decimal_comma, _nan_pixel, _truncated,
        _empty, _no_stack, _no_angles, _folder_as_stack, _complex_mode, _not_mrc,
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["reconstruct", "inspect"])
def test_bad_files_are_one_line(series, library, tmp_path, capsys, spoil, command):
    spoil(series)
    if command == "inspect":
        code = main(["inspect", str(series.stack), "--angles", str(series.angles)])
    else:
        code = run(series, tmp_path / "r")
    refused(capsys, code)
    assert library.calls == []
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--range", "60"], None),
        (["--range", "20:30"], "widen the range"),
        (["--range", "5:-5"], "--range: expected an interval"),
        (["--range", "wide"], "--range: expected LO:HI or WIDTH"),
        (["--range", "1:2:3"], "--range: expected LO:HI or WIDTH"),
        (["--bin", "11"], "--bin: expected at most 10"),
        (["--bin", "0"], "--bin"),
        (["--thickness", "-3"], "--thickness"),
        (["--thickness", "many"], "--thickness"),
        (["--method", "dsp"], "did you mean 'dps'"),
        (["--rule", "sirtt"], "rule: expected one of gradient"),
        (["--rule", "none.py"], "--rule: expected the file none.py, found none"),
        (["--solver", "eulr"], "did you mean 'euler'"),
        (["--schedule", "karas"], "did you mean 'karras'"),
        (["--method", "fbp", "--rule", "sirt"], "rule: expected a method that takes"),
        (["--weighting", "most"], "--weighting: expected one of off, robust"),
        (["--contrast", "grey"], "--contrast: expected one of auto, bright, dark"),
        (["--log", "maybe"], "--log: expected one of auto, off, on"),
        (["--tilt-axis", "q"], "tilt_axis"),
        (["--voxel-size", "-1"], "voxel_size"),
        (["--voxel-size", "nan"], "voxel_size"),
        (["--seed", "-1"], "--seed"),
        (["--colour", "red"], "No such option"),
    ],
)
def test_bad_options_are_one_line(series, library, tmp_path, capsys, options, match):
    code = run(series, tmp_path / "r", *options)
    if match is None:  # wider than the series is no error
        assert code == 0
        return
    assert match in refused(capsys, code)
    assert library.calls == []


def test_a_project_is_reconstructed_with_its_own_thickness(series, library, tmp_path):
    """What tilt.com says is used, printed by -v and kept in the record."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "grid.ali").write_bytes(series.stack.read_bytes())
    (project / "grid.tlt").write_bytes(series.angles.read_bytes())
    (project / "tilt.com").write_text(
        "$tilt -StandardInput\nTHICKNESS 24\nEXCLUDELIST2 1\n"
    )
    (project / "grid.edf").write_text("Setup.DatasetName=grid\n")
    out = tmp_path / "r"
    words = ["reconstruct", str(project), "--out", str(out), "--bin", "2", "-v"]
    assert main([*words, "--exclude", "4deg"]) == 0
    (call,) = library.calls
    assert call["thickness"] == 12 and call["tilts"].shape == (3, 5, 7)
    np.testing.assert_array_equal(call["angles"], [-2.0, 0.0, 2.0])
    record = json.loads((out / "grid.temdiff.json").read_text())
    decisions = record["input"]["decisions"]
    assert f"THICKNESS 24 ({project}/tilt.com:2)" in decisions
    assert "tilts left out: 0 (-4 deg), 4 (4 deg)" in decisions
