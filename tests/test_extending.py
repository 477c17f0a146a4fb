"""The examples of docs/extending.md do what the page says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.cli import choices
from temdiff_jax.diffusion import algebra, gaussian
from temdiff_jax.errors import InputError
from temdiff_jax.evaluation import protocol, quantities
from temdiff_jax.evaluation.quantities import Column
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import Problem, Units
from temdiff_jax.reconstruction import methods, reconstruct
from temdiff_jax.reconstruction.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"
ANGLES = np.array([-12.0, 0.0, 13.0])
SHAPE = (8, 6, 10)  # z, y, x


def blocks() -> dict[str, str]:
    """Titled blocks of the page by their titles."""
    text = PAGE.read_text(encoding="utf-8")
    return dict(re.findall(r'```python title="([^"]+)"\n(.*?)```', text, re.S))


def names(title: str) -> dict:
    found: dict = {"np": np}
    exec(compile(blocks()[title], title, "exec"), found)
    return found


@pytest.fixture(scope="module")
def tilts():
    rng = np.random.default_rng(0)
    return rng.normal(10.0, 1.0, (3, *SHAPE[1:])).astype(np.float32)


def test_a_rule_is_one_short_file_that_the_command_takes(tmp_path, tilts):
    source = blocks()["my_rule.py"]
    assert len(source.splitlines()) <= 30
    path = tmp_path / "my_rule.py"
    path.write_text(source)
    rule = choices.load_rule(str(path))
    geometry = TiltGeometry.from_degrees(ANGLES, thickness=8, width=10, height=6)
    core = jnp.asarray(tilts.swapaxes(1, 2))
    problem = Problem(geometry, core, 4.0, Units(jnp.zeros(()), jnp.ones(())))
    from temdiff_jax.inverse.problem import Frame

    data = problem.measurement(Frame(jnp.zeros(geometry.volume_shape), jnp.ones(())))
    pull, x0 = rule(data), jnp.zeros((1, *problem.field_of_view))
    moved, _ = pull.apply(x0, jnp.float32(5.0), pull.init(x0))
    before, after = (jnp.sum(data.residual(x[0]) ** 2) for x in (x0, moved))
    assert after < 0.5 * before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def rul(data): pass", "expected a function rule"),
        ("import nothing_like_it", "to run, got ModuleNotFoundError"),
    ],
)
def test_a_file_without_a_rule_is_refused_in_one_line(tmp_path, source, message):
    path = tmp_path / "bad.py"
    path.write_text(source)
    with pytest.raises(InputError, match=message) as caught:
        choices.load_rule(str(path))
    assert "\n" not in str(caught.value)


def test_a_sampler_is_a_function_that_becomes_a_method():
    make = names("my_sampler.py")["my_sampler"]
    row = methods.method_of(make)
    assert row.name == "my_sampler" and row.settings.num_steps == 20
    assert row.calls(row.settings) == 20
    problem = gaussian.make_problem(4, 2)
    sampler = make(gaussian.denoiser(problem.prior), gaussian.measurement(problem))
    samples = algebra.draw(sampler, jax.random.key(0), (5, 4))
    assert samples.shape == (5, 4) and np.all(np.isfinite(samples))


def test_a_network_of_ones_own_reconstructs(tilts):
    prior = names("my_network.py")["my_prior"]()
    found = reconstruct(
        tilts,
        ANGLES,
        thickness=SHAPE[0],
        prior=prior,
        method="mean",
        contrast="bright",
        weighting="off",
        settings=Settings(window=32, mean_cg_iters=2),
    )
    assert found.mean.shape == SHAPE and np.all(np.isfinite(found.mean))
    assert np.max(np.abs(found.mean - found.tikhonov)) > 0


def test_a_score_column_is_a_function_and_a_row(monkeypatch):
    score = names("temdiff_jax/evaluation/metrics.py")["mean_absolute_error"]
    columns = dict(quantities.COLUMNS)
    line = blocks()["temdiff_jax/evaluation/quantities.py"]
    exec(line, {"COLUMNS": columns, "Column": Column, "mean_absolute_error": score})
    monkeypatch.setattr(quantities, "COLUMNS", columns)
    rng = np.random.default_rng(0)
    truth = rng.random((16, 16, 16))
    case = protocol.Case.from_name("20/10")
    rows = protocol.evaluate(
        {"a": truth},
        [case],
        {"m": lambda tilts, angles, thickness: truth + 0.1},
        lambda truth, angles, seed: np.zeros((3, 16, 16), np.float32),
    )
    assert quantities.value(rows[0], "mae", "raw") == pytest.approx(0.1)
    assert quantities.better("mae") == "lower"
