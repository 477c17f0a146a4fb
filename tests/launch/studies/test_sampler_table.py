"""The table of samplers: rows that are asked for, and what an exact guess costs."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from temdiff_jax.diffusion import gaussian, schedule

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sampler_table(load_program):
    return load_program("launch.studies.sampler_table")


@pytest.fixture(scope="module")
def problem():
    return gaussian.make_problem(4, 2, noise_std=0.1, condition=1.0, seed=0)


@pytest.mark.slow
def test_rows_state_their_solver_and_its_calls(sampler_table, problem):
    rows = sampler_table.exact_rows(problem)
    exact = [name for name in rows if name.startswith("exact guess, ")]
    assert len(exact) == 6 and len(rows) == 8
    for name in exact:
        made = rows[name](None, None)
        assert made.calls == (2 if name.endswith("Heun") else 1)
        assert len(made.sigmas) == sampler_table.EXACT_STEPS + 1
    levels = schedule.karras(8 * sampler_table.EXACT_STEPS)
    data = gaussian.measurement(problem)
    denoise = gaussian.denoiser(problem.prior)
    for name in set(rows) - set(exact):
        assert len(rows[name](denoise, data).sigmas) == len(levels)


@pytest.mark.slow
def test_second_order_solver_with_an_exact_guess_samples_the_posterior(
    sampler_table, problem
):
    """Variance over the posterior's within 10 %, where DDIM loses more."""
    rows = sampler_table.exact_rows(problem)
    name = "exact guess, DPM-Solver++ 2M"
    line = gaussian.report(name, rows[name], problem, jax.random.key(0), count=2048)
    cells = [cell.strip() for cell in line.strip("| \n").split("|")]
    assert cells[:2] == [name, str(sampler_table.EXACT_STEPS)]
    assert len(cells) == gaussian.HEADER.splitlines()[0].count("|") - 1
    for column in (3, 5):
        low, high = (float(end) for end in cells[column].split(" - "))
        assert 0.85 < low <= high < 1.15
    assert float(cells[2]) < 0.15 and float(cells[4]) < 0.15


@pytest.mark.slow
def test_program_prints_the_rows_asked_for_and_refuses_unknown_ones():
    def run(*flags):
        command = [sys.executable, "-m", "launch.studies.sampler_table", *flags]
        return subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300
        )

    small = ("--dim=3", "--num_data=1", "--count=64")
    done = run("--samplers=proximal-ddim", *small)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[0] == gaussian.HEADER.splitlines()[0]
    assert len(lines) == 3 and lines[2].startswith("| proximal-ddim | 50 |")
    wrong = run("--samplers=magic", *small)
    assert wrong.returncode == 2 and "magic" in wrong.stderr
