"""Reads option values that have a small syntax of their own."""

import math
from collections.abc import Sequence

from temdiff_jax.errors import InputError

WEIGHTINGS = ("off", "robust", "diagonal", "low-rank", "adaptive")
DEFAULT_WEIGHTING = "adaptive"
LOG_MODES = ("auto", "off", "on")
TILT_AXES = ("y", "x")

# Samples and steps; a first result on a CPU should cost minutes, not an hour.  More
# steps than 8 change nothing, more samples make the spread surer (docs/samplers.md).
_CPU_EFFORT = (4, 8)
_ACCELERATOR_EFFORT = (16, 8)


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Reads a tilt range: "LO:HI" in degrees, or "WIDTH" for -WIDTH/2 to WIDTH/2.

    Raises:
      InputError: If the text is neither, or the range is empty.
    """
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(":")]
    except ValueError:
        values = []
    if len(values) == 1:
        values = [-0.5 * values[0], 0.5 * values[0]]
    if len(values) != 2 or not all(map(math.isfinite, values)):
        raise InputError(
            f"--range: expected LO:HI or WIDTH in degrees, got {text!r}; write for "
            "example --range -5:5 or --range 10"
        )
    low, high = values
    if low >= high:
        raise InputError(
            f"--range: expected an interval that is not empty, got {text!r}; put the "
            "smaller angle first"
        )
    return low, high


def parse_names(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Reads a comma-separated list of known names, without repeats.

    Raises:
      InputError: If a name is not among `known`.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        check_choice(option, name, known)
    return names


def check_choice(option: str, value: str, known: Sequence[str]) -> None:
    """Refuses a value that is not among the known ones.

    Raises:
      InputError: Lists the known values.
    """
    if value not in known:
        raise InputError(
            f"{option}: expected one of {', '.join(known)}, got {value!r}; correct it"
        )


def effort(
    samples: int | None, steps: int | None, *, on_cpu: bool
) -> tuple[int, int, str]:
    """Number of samples and of steps, and a line that says who chose them.

    Args:
      samples: As given, None to choose.
      steps: As given, None to choose.
      on_cpu: Whether the CPU will compute; it gets the smaller defaults.
    """
    default = _CPU_EFFORT if on_cpu else _ACCELERATOR_EFFORT
    chosen = (
        default[0] if samples is None else samples,
        default[1] if steps is None else steps,
    )
    line = f"{chosen[0]} samples of {chosen[1]} steps"
    if samples is None or steps is None:
        device = "a CPU" if on_cpu else "an accelerator"
        line += f" (defaults on {device}; --samples and --steps change them)"
    return *chosen, line
