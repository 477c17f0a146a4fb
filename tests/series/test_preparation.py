"""What is said of a series while it is made ready."""

import types

import numpy as np
import pytest

from temdiff_jax.series import preparation, weighting


def test_a_tilt_that_disagrees_says_nothing_about_the_shifts(monkeypatch):
    """Nor does one that is left out; the others count by their factors."""
    each = np.array([[0.1, 0.0], [3.0, 3.0], [0.0, 0.1], [5.0, 5.0]])
    monkeypatch.setattr(weighting, "measured_shifts", lambda *_: each)
    series = types.SimpleNamespace(angles_deg=np.linspace(-20.0, 20.0, 4))
    job = types.SimpleNamespace(
        series=series, rows=np.arange(4), trust=np.array([1.0, 1.0, 1.0, 0.0])
    )
    found = types.SimpleNamespace(
        misalignment=1.0, amplitudes=None, factors=np.array([1.0, 0.0, 1.0, 1.0])
    )
    said = preparation._shifts(job, None, found)
    assert said["shift_px"] == pytest.approx(0.1 / np.sqrt(2))
    assert said["shifts_px"] == each.tolist()
