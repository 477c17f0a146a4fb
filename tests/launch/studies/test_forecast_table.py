import json

import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io import load_tilt_series


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("launch.studies.forecast_table")


def test_a_case_is_a_series_of_its_extents(program, tmp_path):
    case = program.Case.from_name("6x20x24/5/mean/moved")
    assert case == ((6, 20, 24), 5, "mean", True)
    stack, _, angles, _, alignment = program.write_series(case, tmp_path)
    series = load_tilt_series(stack, angles, alignment=alignment)
    assert series.tilts.shape == (5, 20, 24) and series.voxel_size_angstrom == 100.0
    np.testing.assert_allclose(np.abs(series.alignment.rotations_deg), 2.0, atol=1e-3)
    with pytest.raises(InputError, match="--cases: expected ZxYxX"):
        program.Case.from_name("6x20/5/mean")


def test_rows_are_kept_and_compared(program, tmp_path, monkeypatch):
    asked = []

    def measure(name, folder):
        asked.append(name)
        row = {"case": name, "forecast_mib": 900.0, "measured_mib": 1000.0}
        return row | {"forecast_s": 30.0, "clock_s": 25.0, "processor_s": 45.0}

    monkeypatch.setattr(program, "measure", measure)
    names = ["6x20x24/5/mean", "6x20x24/5/fbp"]
    program.run(tmp_path / "out", names[:1])
    rows = program.run(tmp_path / "out", names)
    assert asked == names and [row["case"] for row in rows] == names
    kept = (tmp_path / "out" / "forecast.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == rows
    text = (tmp_path / "out" / "forecast.md").read_text()
    assert "| 6x20x24/5/fbp | 900 | 1000 | 0.90 | 30 | 25 | 45 |" in text
