"""The optimiser: Muon for the kernels, Adam for the rest.

Muon replaces the momentum of a kernel, seen as a matrix (inputs of one output by
outputs), by the nearest semi-orthogonal one, so that all its directions are learned at
one speed.  ``optax.contrib.muon`` would do, and takes five times the time of a core
for the kernels of the default network (0.60 against 0.10 s): it iterates on the tall
matrices (``python -m pytest -s -m slow tests/training/test_optimiser.py -k optax``).

Source: Jordan et al., Muon, 2024 (kellerjordan.github.io/posts/muon); scale of the
update: Liu et al., arXiv:2502.16982.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from temdiff_jax.training.config import OptimConfig

# Quintic whose repetition drives singular values in (0, 1] towards 1 (Jordan 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)
NUM_ITERS = 5
# Root mean square of an update per unit learning rate, that of Adam in practice.
UPDATE_RMS = 0.2
# Name of the parameters of the second head, see model/unet.py.
VARIANCE_HEAD = "head_variance"


def learning_rate(config: OptimConfig) -> optax.Schedule:
    """Warm-up, constant, linear decay to zero over the last ``decay_steps``."""
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0.0, config.decay_steps),
        ],
        [config.warmup_steps, config.num_steps - config.decay_steps],
    )


def make_optimiser(
    config: OptimConfig, *, variance_head: bool = False
) -> optax.GradientTransformation:
    """``config.optimiser`` behind a clip of the global norm.

    Args:
      config: Names the rule.
      variance_head: Whether there is a head for the variance.  It is then updated by
        Adam behind a clip of its own, so that the rest does not feel its gradient.

    Raises:
      ValueError: An unknown ``config.optimiser``.
    """
    if variance_head:
        own = make_optimiser(dataclasses.replace(config, optimiser="adam"))
        rest = make_optimiser(config)
        return optax.partition({"variance": own, "rest": rest}, _parts)
    rate = learning_rate(config)
    adam = optax.adam(rate, b2=0.99)
    clip = optax.clip_by_global_norm(config.clip_norm)
    if config.optimiser == "adam":
        return optax.chain(clip, adam)
    if config.optimiser != "muon":
        raise ValueError(
            f"optim.optimiser: expected 'muon' or 'adam', got {config.optimiser!r}"
        )
    muon = optax.chain(
        optax.trace(0.95, nesterov=True),
        optax.stateless(lambda updates, _: jax.tree.map(orthogonalise, updates)),
        optax.scale_by_learning_rate(rate),
    )
    return optax.chain(clip, optax.partition({"muon": muon, "adam": adam}, rules))


def rules(params: dict) -> dict:
    """Which rule updates each parameter: a tree of "muon" and "adam".

    Muon takes the kernels between the features; vectors and what touches voxels or
    scalars (stem, head, embedding) stay with Adam.
    """

    def rule(path, leaf):
        name = jax.tree_util.keystr(path)
        outside = any(part in name for part in ("stem", "head", "embed", "film"))
        return "adam" if leaf.ndim < 2 or outside else "muon"

    return jax.tree_util.tree_map_with_path(rule, params)


def _parts(params: dict) -> dict:
    return {
        name: jax.tree.map(
            lambda _, name=name: "variance" if name == VARIANCE_HEAD else "rest", tree
        )
        for name, tree in params.items()
    }


def orthogonalise(update: jax.Array) -> jax.Array:
    """Nearest semi-orthogonal matrix, scaled to a root mean square of ``UPDATE_RMS``.

    Newton-Schulz ``X <- X (a + b X^T X + c (X^T X)^2)``.  Every factor is a polynomial
    of the first ``X^T X``, so the iteration runs on that small square matrix and
    touches the tall one twice only: a quarter of the time of iterating on ``X``.

    Args:
      update: Kernel ``[..., c_in, c_out]``, a matrix of all but the last axis by the
        last.

    Returns:
      Same shape.
    """
    a, b, c = QUINTIC
    x = update.reshape(-1, update.shape[-1])
    wide = x.shape[0] < x.shape[1]
    x = x.T if wide else x
    x = x / (jnp.linalg.norm(x) + 1e-8)
    eye = jnp.eye(x.shape[1], dtype=x.dtype)
    gram, total = x.T @ x, eye
    for _ in range(NUM_ITERS):
        factor = a * eye + b * gram + c * (gram @ gram)
        total = total @ factor
        gram = factor @ gram @ factor
    x = (x @ total) * (UPDATE_RMS * max(x.shape) ** 0.5)
    return (x.T if wide else x).reshape(update.shape)
