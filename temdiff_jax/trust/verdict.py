"""One verdict by fixed rules, from the tests that a run could make.

    agreement   a cause of contradiction is named (``causes``, ``levels``)
    residual    most tilts leave more than twice what noise and grid explain
    structure   a fifth of the tilts leave what is larger than the noise and not white
    held out    tilts left out are predicted worse than by the quadratic estimate
    domain      the training of the prior did not cover the series

A test that failed has an outcome "failed"; one without power is "not testable".

    INCONSISTENT   agreement failed, an offset apart that was taken off
    DOUBTFUL       else, if any other test failed
    NOT TESTABLE   else, if neither agreement nor held out could be tested
    CONSISTENT     else
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from temdiff_jax.trust.causes import Cause, Evidence, ranked
from temdiff_jax.trust.heldout import Heldout
from temdiff_jax.trust.levels import LEAST_GAIN
from temdiff_jax.trust.residuals import Judged, Noise

CONSISTENT = "CONSISTENT"
DOUBTFUL = "DOUBTFUL"
INCONSISTENT = "INCONSISTENT"
NOT_TESTABLE = "NOT TESTABLE"
PASSED, FAILED, UNTESTED = "passed", "failed", "not testable"
CAVEAT = "data consistency cannot validate content the tilts do not measure"

# Of the residual's power over that of noise and grid, and in what share of the tilts.
RESIDUAL, MOST = 2.0, 0.5
# Whiteness: probability and share of the tilts.
P_WHITE, STRUCTURED = 0.01, 0.2
# What interpolation and voxels leave over, of the spread of a tilt; as
# ``series.noise.NOISE_FLOOR``.
GRID = 0.02
# Causes that the mean grey of the tilts tells, see ``levels``.
LEVELS = ("offset", "logarithm", "sense")
# Skill of a prediction below which a volume is worse than the quadratic estimate.
LEAST_SKILL = -0.1


class Test(NamedTuple):
    """One line of the table: what was found, what is allowed, what could be seen."""

    name: str
    outcome: str
    figure: float | None
    threshold: float
    power: str


class Verdict(NamedTuple):
    """The word, at most four sentences, and the tests behind them."""

    word: str
    sentences: tuple[str, ...]
    tests: tuple[Test, ...]
    causes: tuple[Cause, ...]

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "verdict": self.word,
            "sentences": list(self.sentences),
            "tests": [test._asdict() for test in self.tests],
            "causes": [cause._asdict() for cause in self.causes],
        }


def decide(tests: Sequence[Test], causes: Sequence[Cause]) -> str:
    """The word of the rules above."""
    outcome = {test.name: test.outcome for test in tests}
    if any(cause.kind != "offset" for cause in causes):
        return INCONSISTENT
    if causes or FAILED in outcome.values():
        return DOUBTFUL
    if PASSED not in (outcome.get("agreement"), outcome.get("held out")):
        return NOT_TESTABLE
    return CONSISTENT


def give(
    evidence: Evidence,
    by_level: Sequence[Cause],
    noise: Noise,
    judged: Judged,
    spread: np.ndarray,
    heldout: Heldout | None,
    domain: Sequence[str] = (),
) -> Verdict:
    """The verdict of a run.

    Args:
      evidence, by_level: Of ``causes.compare`` and ``levels.causes``.
      noise, judged: Of the tilts and of the residual of the result.
      spread: Standard deviation of each tilt, ``[n]``.
      heldout: None where no tilt was held out.
      domain: What the training of the prior did not cover, a line each.
    """
    causes = tuple(ranked((*evidence.causes, *by_level)))
    allowed = 1 + (GRID * spread / np.maximum(noise.sigma, 1e-30)) ** 2
    tests = [
        _agreement(evidence, causes),
        *_residual(noise, judged, allowed),
        _heldout(heldout),
        Test("domain", FAILED if domain else PASSED, float(len(domain)), 0.0, "-"),
    ]
    word = decide(tests, causes)
    size = float(np.median(judged.chi2))
    sentences = [_first(word, causes, evidence, tests, domain)]
    if noise.flat.any():
        sentences.append(
            f"The residual has {size:.2f} times the power of the noise of the images; "
            f"with the grid {np.median(allowed):.2f} is expected"
        )
    else:
        sentences.append(
            "The residual cannot be judged: blur or content hides the noise of the "
            "images"
        )
    if heldout is not None:
        sentences.append(_said(heldout))
    sentences.append(CAVEAT[0].upper() + CAVEAT[1:])
    return Verdict(word, tuple(f"{s}." for s in sentences), tuple(tests), causes)


def _agreement(evidence: Evidence, causes: Sequence[Cause]) -> Test:
    seen = np.isfinite(evidence.visible_px)
    outcome = FAILED if causes else PASSED if seen else UNTESTED
    power = (
        f"sees shifts of all tilts of {evidence.visible_px:g} pixels"
        if seen
        else "sees no shifts of a few pixels"
    )
    gain = causes[0].gain if causes else 0.0
    needed = _needed(causes[0], evidence) if causes else evidence.threshold
    return Test("agreement", outcome, round(gain, 1), needed, power)


def _needed(cause: Cause, evidence: Evidence) -> float:
    """Gain above which such a cause is named."""
    return LEAST_GAIN if cause.kind in LEVELS else evidence.threshold


def _residual(noise: Noise, judged: Judged, allowed: np.ndarray) -> list[Test]:
    known = noise.flat
    if not known.any():
        why = "the noise is not white, or content reaches the smallest scales"
        return [
            Test("residual", UNTESTED, None, MOST, why),
            Test("structure", UNTESTED, None, STRUCTURED, why),
        ]
    over = judged.chi2 > RESIDUAL * allowed
    structured = over & (judged.p < P_WHITE)
    shares = [float(np.mean(flags[known])) for flags in (over, structured)]
    said = f"noise measured in {int(known.sum())} of {len(known)} tilts"
    return [
        Test(name, FAILED if share > most else PASSED, round(share, 3), most, said)
        for name, share, most in zip(
            ("residual", "structure"), shares, (MOST, STRUCTURED), strict=True
        )
    ]


def _heldout(found: Heldout | None) -> Test:
    if found is None:
        return Test("held out", UNTESTED, None, LEAST_SKILL, "no tilt was held out")
    power = float(np.max(found.power))
    said = f"what the others do not measure is {power:.1f} times the noise"
    worst = float(np.min(found.skill))
    outcome = UNTESTED if power < 1 else FAILED if worst < LEAST_SKILL else PASSED
    return Test("held out", outcome, round(worst, 3), LEAST_SKILL, said)


def _first(
    word: str,
    causes: Sequence[Cause],
    evidence: Evidence,
    tests: Sequence[Test],
    domain: Sequence[str],
) -> str:
    if causes:
        cause = causes[0]
        return (
            f"{word}: {cause.text} (gain {cause.gain:.0f} in chi2, "
            f"{_needed(cause, evidence):.0f} needed); {cause.repair}"
        )
    if word == DOUBTFUL:
        failed = [t.name for t in tests if t.outcome == FAILED]
        why = "; " + "; ".join(domain) if domain else ""
        return f"{word}: no fault of the series was found, but failed: " + (
            ", ".join(failed) + why
        )
    if word == NOT_TESTABLE:
        return (
            f"{word}: the images share too little to tell whether they agree, and no "
            "tilt that was held out could contradict"
        )
    if not np.isfinite(evidence.visible_px):
        return f"{word}: the tilts that were held out are as predicted"
    return (
        f"{word}: the tilts agree; shifts of all tilts of {evidence.visible_px:g} "
        "pixels would have been seen"
    )


def _said(found: Heldout) -> str:
    skill, power = float(np.mean(found.skill)), float(np.max(found.power))
    better = "smaller" if skill >= 0 else "larger"
    return (
        f"Tilts held out are predicted with an error of {np.mean(found.z):.1f} times "
        f"the expected one, {abs(100 * skill):.0f} % {better} in power than the "
        f"quadratic estimate's; what they could contradict is {power:.1f} times the "
        "noise"
    )
