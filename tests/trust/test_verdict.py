"""Each rule of the verdict, alone."""

import numpy as np
import pytest

from temdiff_jax.trust import verdict
from temdiff_jax.trust.causes import Cause, Evidence
from temdiff_jax.trust.heldout import Heldout
from temdiff_jax.trust.residuals import Judged, Noise

N = 10
SHIFTED = Cause(
    "shifts", "all 10 tilts lie 2.0 +- 0.1 pixels off", 900.0, "--alignment"
)
OFFSET = Cause("offset", "a constant of 5 lies under all tilts", 40.0, "was taken off")


def given(
    *,
    causes=(),
    by_level=(),
    visible=0.5,
    chi2=1.0,
    p=0.5,
    flat=True,
    heldout=None,
    domain=(),
):
    evidence = Evidence(5000.0, tuple(causes), 50.0, None, None, None, visible)
    return verdict.give(
        evidence,
        by_level,
        Noise(np.ones(N), np.full(N, flat)),
        Judged(np.full(N, chi2), np.full(N, 0.1), np.full(N, p)),
        np.ones(N),
        heldout,
        domain,
    )


def held(skill=0.2, power=3.0):
    one = np.ones(3)
    return Heldout(np.arange(3), one, skill * one, 0.2 * one, 0.1 * one, power * one)


@pytest.mark.parametrize(
    ("word", "facts"),
    [
        (verdict.CONSISTENT, {}),
        (verdict.CONSISTENT, {"visible": np.inf, "heldout": held()}),
        (verdict.INCONSISTENT, {"causes": [SHIFTED]}),
        (verdict.DOUBTFUL, {"by_level": [OFFSET]}),
        (verdict.DOUBTFUL, {"chi2": 2.5}),
        (verdict.CONSISTENT, {"chi2": 1.9}),
        (verdict.CONSISTENT, {"chi2": 1.9, "p": 1e-4}),
        (verdict.CONSISTENT, {"chi2": 9.0, "flat": False}),
        (verdict.DOUBTFUL, {"heldout": held(skill=-0.5)}),
        (verdict.CONSISTENT, {"heldout": held(skill=-0.5, power=0.5)}),
        (verdict.DOUBTFUL, {"domain": ["voxels of 0.5 nm"]}),
        (verdict.NOT_TESTABLE, {"visible": np.inf}),
        (verdict.NOT_TESTABLE, {"visible": np.inf, "heldout": held(power=0.5)}),
    ],
)
def test_the_rules(word, facts):
    found = given(**facts)
    assert found.word == word
    assert 1 <= len(found.sentences) <= 4
    assert found.sentences[0].startswith(f"{word}: ")
    assert "cannot validate" in found.sentences[-1]


def test_the_cause_its_gain_and_its_repair_are_said():
    first = given(causes=[SHIFTED], by_level=[OFFSET]).sentences[0]
    assert "2.0 +- 0.1 pixels" in first and "gain 900" in first and "50 needed" in first
    assert first.endswith("--alignment.")


def test_every_test_has_figure_threshold_and_power():
    import json

    record = json.loads(json.dumps(given(heldout=held()).record()))
    names = ["agreement", "residual", "structure", "held out", "domain"]
    assert [test["name"] for test in record["tests"]] == names
    assert all(test["power"] for test in record["tests"])
    assert record["tests"][0]["threshold"] == 50.0


def test_a_grid_coarser_than_the_noise_is_allowed_for():
    """Noise of a hundredth of the spread: a residual of the grid is no alarm."""
    evidence = Evidence(5000.0, (), 50.0, None, None, None, 0.5)
    judged = Judged(np.full(N, 5.0), np.full(N, 0.5), np.zeros(N))
    noise = Noise(np.full(N, 0.01), np.full(N, True))
    found = verdict.give(evidence, (), noise, judged, np.ones(N), None)
    assert found.word == verdict.CONSISTENT
