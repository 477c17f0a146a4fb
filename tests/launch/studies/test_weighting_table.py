import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import Case
from temdiff_jax.simulator import IMPERFECT


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("launch.studies.weighting_table")


def test_errors_and_spreads_grow_in_proportion(program):
    assert program.scaled_errors(1.0) == IMPERFECT
    half = program.scaled_errors(0.5)
    assert half.shift_px == 0.5 and half.tilt_deg == pytest.approx(0.05)
    assert half.gain == pytest.approx(0.015) and half.ramp == 0
    spread = program.spread_for(2.0, jnp.float32(0.5))
    assert spread.shift_u == spread.shift_v == 2.0
    assert spread.tilt_rad == pytest.approx(math.radians(0.2))
    # The dose of a bright-field series, normalised.
    assert float(spread.offset) == pytest.approx(0.12) and spread.gain == 0


def test_truth_moves_as_the_shifts_say(program):
    z, y, x = np.indices((16, 14, 18)).astype(float)
    volume = np.exp(-((z - 7) ** 2 + (y - 6) ** 2 + (x - 8) ** 2) / 8)
    angles = np.deg2rad([-20.0, 0.0, 20.0])
    moved, mask = program.moved_truth(
        volume, angles, 2 * np.cos(angles) + 3 * np.sin(angles), np.ones(3)
    )
    assert np.unravel_index(np.argmax(moved), moved.shape) == (10, 7, 10)
    np.testing.assert_allclose(moved[3:, 1:, 2:], volume[:-3, :-1, :-2], atol=1e-6)
    # Rounding may take the voxels that come from just the border.
    assert mask[4:, 2:, 3:].all()
    assert not (mask[:3].any() or mask[:, :1].any() or mask[:, :, :2].any())


def test_faults_are_where_they_are_said_to_be(program):
    rng = np.random.default_rng(0)
    tilts = rng.standard_normal((8, 30, 24)).astype(np.float32)
    changed = {
        name: program.corrupt(tilts, name, np.random.default_rng(1)) - tilts
        for name in program.FAULTS
    }
    assert not changed["hot"].any()  # drawn with the counts
    np.testing.assert_allclose(changed["gain"][2], -math.log(1.5), atol=1e-6)
    assert not np.delete(changed["gain"], 2, axis=0).any()
    assert not np.delete(changed["shifted"], 6, axis=0).any()
    shifted = tilts[6] + changed["shifted"][6]
    np.testing.assert_allclose(shifted[5:], tilts[6, :-5], atol=1e-6)
    border = changed["border"] != 0
    assert np.all(border.any(axis=(1, 2))) and not border[:, 6:-6, 6:-6].any()
    assert np.any(changed["all"][2]) and np.any(changed["all"][6])


def test_table_is_mean_and_error_over_volumes(program):
    rows = [
        {"case": "10/1, 1", "run": "tikhonov, off", "psnr": value, "rmse": 0.1}
        for value in (20.0, 22.0, 24.0)
    ]
    text = program.table(rows, "10/1", ["1", "gain"], "psnr")
    assert text.splitlines()[-1] == "| tikhonov, off | 22.00 +- 1.15 |  |"


def test_difference_is_paired_with_the_same_series(program):
    rows = [
        {"volume": v, "case": "10/1, 1", "run": f"{m}, {form}", "psnr": psnr}
        for v, m, form, psnr in [
            ("a", "tikhonov", "off", 20.0),
            ("a", "tikhonov", "low-rank, 1", 21.0),
            ("b", "tikhonov", "low-rank, 1", 31.5),
            ("b", "tikhonov", "off", 30.0),
            ("b", "mean", "robust", 33.0),
        ]
    ]
    program.against_off(rows)
    text = program.table(rows, "10/1", ["1"], "psnr over off")
    assert "| tikhonov, low-rank, 1 | 1.25 +- 0.25 |" in text
    assert "| tikhonov, off | 0.00 +- 0.00 |" in text
    assert "| mean, robust |  |" in text


@pytest.fixture
def settings(program, tmp_path, monkeypatch):
    """Flags of a tiny table of a random volume, as attributes that tests may set."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "v.npz", volume=rng.integers(0, 255, (20, 20, 20), np.uint8))
    values = {
        "_DATA": str(tmp_path),
        "_VOLUMES": ["v.npz:volume"],
        "_CASES": ["20/10"],
        "_SHIFTS": ["1"],
        "_FAULTS": ["gain"],
        "_METHODS": ["tikhonov"],
        "_FORMS": ["off", "low-rank"],
        "_ASSUMED": ["1"],
        "_CROP": 16,
        "_HEIGHT": 16,
        "_ROUNDS": 1,
        "_PRIOR": "default",
        "_MIRRORS": False,
        "_SEED": 0,
        "_OUT": str(tmp_path / "rows.jsonl"),
    }

    class Flag:
        def __init__(self, value):
            self.value = value

    for name, value in values.items():
        monkeypatch.setattr(program, name, Flag(value))
    return program


def test_wrong_names_are_refused(settings):
    settings._FAULTS.value = ["dust"]
    with pytest.raises(InputError, match="got 'dust'"):
        settings.run()
    settings._FAULTS.value, settings._FORMS.value = [], ["full"]
    with pytest.raises(InputError, match="--forms: expected some of"):
        settings.run()
    settings._FORMS.value, settings._CROP.value = ["off"], 32
    with pytest.raises(InputError, match="--crop, --height: expected at most"):
        settings.run()


@pytest.mark.slow
def test_run_is_resumed_and_prints_the_same_tables(settings, capsys, tmp_path):
    settings.run()
    first = capsys.readouterr().out
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["run"] for row in rows[:2]] == [
        "tikhonov, off",
        "tikhonov, low-rank, 1",
    ]
    assert {row["case"] for row in rows} == {"20/10, 1", "20/10, gain"}
    assert all(
        row["psnr"] == pytest.approx(-20 * math.log10(row["rmse"])) for row in rows
    )
    assert len(rows[1]["factors"]) == Case.from_name("20/10").num_tilts
    # Nothing is computed again.
    settings.simulate = None
    settings.run()
    assert capsys.readouterr().out == first
    assert (tmp_path / "rows.jsonl").read_text().splitlines() == lines
