"""Checks of what a user passes to a reconstruction."""

from __future__ import annotations

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from temdiff_jax.errors import InputError

# The noise of a tilt is estimated from second differences along both axes.
MIN_PIXELS = 3


def check_count(name: str, value: object, smallest: int = 1) -> int:
    """A whole number of at least ``smallest``."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if isinstance(value, numbers.Integral) and whole and int(value) >= smallest:
        return int(value)
    raise InputError(
        f"{name}: expected a whole number of at least {smallest}, got {value!r}; "
        "pass such a number or leave it out"
    )


def check_number(
    name: str, value: Any, *, below: float = math.inf, zero: bool = False
) -> None:
    """Refuses what is not a finite number in (0, below), or [0, below)."""
    real = isinstance(value, numbers.Real) and math.isfinite(value)
    if not real or not (0 <= value < below) or (value == 0 and not zero):
        low = "zero or more" if zero else "above zero"
        high = f" and below {below:g}" if below < math.inf else ""
        raise InputError(
            f"{name}: expected a number {low}{high}, got {value!r}; pass such a "
            "number or leave the option out"
        )


def check_key(key: object) -> jax.Array:
    """A typed key from a seed or from itself."""
    if isinstance(key, numbers.Integral):
        return jax.random.key(int(key))
    typed = jax.dtypes.prng_key
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, typed) and not key.ndim:
        return key
    raise InputError(
        f"key: expected a whole number or one typed JAX key, got {key!r:.60}; pass "
        "for example key=0"
    )


def check_tilt_weights(tilt_weights: ArrayLike | None, num: int) -> np.ndarray:
    """Weights ``[n_tilts]`` float32, ones where nothing is said."""
    if tilt_weights is None:
        return np.ones(num, np.float32)
    trust = np.asarray(tilt_weights, np.float32)
    usable = trust.shape == (num,) and bool(np.all(np.isfinite(trust)))
    if not usable or trust.min() < 0 or trust.max() <= 0:
        raise InputError(
            f"tilt_weights: expected {num} numbers of zero or more, not all zero, got "
            f"{trust.ravel()[:5].tolist()} of shape {list(trust.shape)}; give one "
            "weight per tilt, 0 to leave it out"
        )
    return trust
