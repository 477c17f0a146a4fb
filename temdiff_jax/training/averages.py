"""Running averages of the weights whose length is chosen after the training.

Average i of a run has the power-function profile of exponent g_i,

    m <- b m + (1 - b) w,   b = (1 - 1/t)^(g + 1)       after step t = 1, 2, ...

so that m is the mean of the weights w of steps 1 ... t under the density
``p(u) = (g + 1) u^g / t^(g + 1)``: its relative width ``sqrt(Var u) / t`` is the same
however long the run is, and the initial weights have no share.  Snapshots of two such
averages, taken now and then, span the profiles of other lengths: the coefficients of
the snapshots are those of the least squares

    min_c  integral ( p_wanted(u) - sum_i c_i p_i(u) )^2 du

Source: Karras et al., CVPR 2024 (EDM2, post-hoc EMA), section 3 and appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from temdiff_jax.errors import InputError
from temdiff_jax.io import write

# Relative widths of profiles: g = 0, all steps alike, is the widest with a maximum
# that is not at the start.
MAX_LENGTH = 12.0**-0.5
SEPARATOR = "/"
SUFFIX = ".safetensors"


def exponent(length: float) -> float:
    """The exponent g of a profile of relative width ``length``.

    ``length^2 = (g + 1) / ((g + 2)^2 (g + 3))``.

    Raises:
      InputError: Not between 0 and ``MAX_LENGTH``.
    """
    if not 0.0 < length <= MAX_LENGTH:
        raise InputError(
            f"length of an average: expected a share of the run above 0 and at most "
            f"{MAX_LENGTH:.4f}, got {length}; 0.05 to 0.15 are common"
        )
    # (g + 2)^2 (g + 3) - (g + 1) / length^2 = 0 has one root that is not negative.
    roots = np.roots([1.0, 7.0, 16.0 - length**-2, 12.0 - length**-2])
    return float(max(0.0, np.max(roots.real)))


def begin(params: dict, lengths: Sequence[float]) -> dict[str, dict]:
    """Averages before the first step, by the name of their length."""
    return {_name(length): jax.tree.map(jnp.copy, params) for length in lengths}


def update(
    averages: dict[str, dict],
    params: dict,
    step: jax.Array,
    lengths: Sequence[float],
) -> dict[str, dict]:
    """The averages after step ``step`` = 1, 2, ... has made ``params``."""
    left = 1.0 - 1.0 / step.astype(jnp.float32)

    def one(length):
        keep = left ** (exponent(length) + 1.0)
        return jax.tree.map(
            lambda old, new: new + keep * (old - new), averages[_name(length)], params
        )

    return {_name(length): one(length) for length in lengths}


def overlap(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """``integral p_i(u) p_j(u) du`` of profiles.

    With t the earlier end, T the later one and G the exponent that belongs to T,
    ``(g_i + 1) (g_j + 1) (t / T)^G / ((g_i + g_j + 1) T)``.

    Args:
      first: Last steps and exponents, ``[n]`` each.
      second: The same, ``[m]`` each.

    Returns:
      ``[n, m]``, float64.
    """
    end_a, power_a = (np.asarray(v, np.float64)[:, None] for v in first)
    end_b, power_b = (np.asarray(v, np.float64)[None, :] for v in second)
    later, earlier = np.maximum(end_a, end_b), np.minimum(end_a, end_b)
    power = np.where(end_a >= end_b, power_a, power_b)
    scale = (power_a + 1) * (power_b + 1) / ((power_a + power_b + 1) * later)
    return scale * (earlier / later) ** power


def coefficients(
    ends: np.ndarray, exponents: np.ndarray, end: float, length: float
) -> np.ndarray:
    """Shares of snapshots in an average of another length.

    Args:
      ends: Steps at which the snapshots were taken, ``[n]``.
      exponents: Of their profiles, ``[n]``.
      end: Last step of the wanted average.
      length: Its relative width.

    Returns:
      ``[n]``, float64; they add up to almost 1.
    """
    have = (np.asarray(ends), np.asarray(exponents))
    want = (np.array([end]), np.array([exponent(length)]))
    gram, right = overlap(have, have), overlap(have, want)[:, 0]
    # Snapshots close to each other make the system nearly singular.
    return np.linalg.lstsq(gram, right, rcond=1e-12)[0]


def save(folder: str | Path, step: int, averages: Mapping[str, dict]) -> Path:
    """Writes a snapshot of all averages, complete or not at all.

    Float16, since hundreds of them may be kept; they are added up in float32.

    Returns:
      ``folder/<step>.safetensors``; one of the same step is replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {
        name: np.asarray(leaf, np.float16) for name, leaf in _flatten(averages).items()
    }
    path = folder / f"{step:08d}{SUFFIX}"
    write.write_bytes(path, safetensors.numpy.save(flat), overwrite=True)
    return path


def saved_steps(folder: str | Path) -> list[int]:
    """Steps with a snapshot, ascending."""
    found = Path(folder).glob(f"*{SUFFIX}")
    return sorted(int(path.stem) for path in found if path.stem.isdecimal())


def reconstruct(folder: str | Path, length: float, end: int | None = None) -> dict:
    """Weights averaged with a profile of any length, from the snapshots of a run.

    Args:
      folder: Of ``save``.
      length: Relative width of the wanted profile.
      end: Its last step, default that of the newest snapshot; later ones are not used.

    Returns:
      Parameters, float32 NumPy arrays in nested dicts.

    Raises:
      InputError: No snapshot at ``end``, or a length that does not exist.
    """
    steps = saved_steps(folder)
    if not steps or (end is not None and end not in steps):
        raise InputError(
            f"averages: expected a snapshot of step {'any' if end is None else end} in "
            f"{folder}, got {steps[-10:]}; train with optim.average_lengths set"
        )
    last = steps[-1] if end is None else end
    used = [step for step in steps if step <= last]
    lengths = _lengths(folder, used[-1])
    ends = np.repeat(used, len(lengths))
    exponents = np.tile([exponent(value) for value in lengths], len(used))
    shares = coefficients(ends, exponents, last, length).reshape(len(used), -1)
    total: dict[str, np.ndarray] = {}
    for step, row in zip(used, shares, strict=True):
        flat = _load(folder, step)
        for share, value in zip(row, lengths, strict=True):
            prefix = _name(value) + SEPARATOR
            for name, leaf in flat.items():
                if name.startswith(prefix):
                    rest = name.removeprefix(prefix)
                    part = np.float32(share) * leaf.astype(np.float32)
                    total[rest] = total[rest] + part if rest in total else part
    return _unflatten(total)


def _name(length: float) -> str:
    return f"{length:g}"


def _lengths(folder: str | Path, step: int) -> list[float]:
    names = {name.partition(SEPARATOR)[0] for name in _load(folder, step)}
    return sorted(float(name) for name in names)


def _load(folder: str | Path, step: int) -> dict[str, np.ndarray]:
    path = Path(folder) / f"{step:08d}{SUFFIX}"
    return safetensors.numpy.load(path.read_bytes())


def _flatten(tree: Mapping) -> dict[str, np.ndarray]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator=SEPARATOR): np.asarray(leaf)
        for path, leaf in flat
    }


def _unflatten(flat: Mapping[str, np.ndarray]) -> dict:
    tree: dict = {}
    for name, leaf in flat.items():
        *folders, last = name.split(SEPARATOR)
        node = tree
        for part in folders:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree
