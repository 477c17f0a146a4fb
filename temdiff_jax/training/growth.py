"""A trained network made larger without changing what it answers."""

from __future__ import annotations

import jax
import numpy as np

from temdiff_jax.errors import InputError
from temdiff_jax.model import make_network
from temdiff_jax.priors import Prior
from temdiff_jax.training.config import TrainConfig

# What a network may have more of than the one it is grown from.
MORE = ("grown", "filters", "features")


def grow(initial: Prior, config: TrainConfig) -> dict:
    """Weights of ``config.network`` that answer as the prior does.

    Blocks and filters that the prior lacks end in zeros, and scalars that it does not
    know have rows of zeros in the embedding.  The same network is the prior's own
    weights.  A norm over space may become one of single voxels, which keeps the scales
    and has no shifts: that answers otherwise until it is trained again.

    Args:
      initial: Released prior.
      config: Its seed draws what is new.

    Returns:
      Parameters, float32.

    Raises:
      InputError: The network differs in more than ``MORE``, or has less of these.
    """
    old, new = initial.network.config.architecture, config.network.architecture
    weights = initial.params
    if old == new:
        return weights
    known, _ = jax.tree_util.tree_flatten_with_path(weights)
    held = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in known}
    if (old.norm, new.norm) == ("group", "rms"):
        held = {n: leaf for n, leaf in held.items() if not _is_shift_of_norm(n)}
    used = set()

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if name not in held:
            return leaf
        used.add(name)
        old_leaf = held[name]
        if old_leaf.shape == leaf.shape:
            return old_leaf
        if name == "['embed_in']['kernel']" and len(old_leaf) < leaf.shape[0]:
            rows = leaf.shape[0] - len(old_leaf)
            return np.pad(old_leaf, ((0, rows), (0, 0)))
        raise _unlike(old, new)

    init, key = make_network(config.network).init, jax.random.key(config.seed)
    # Shapes first: what does not fit is refused before anything is drawn.
    jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init, key))
    if used != set(held):
        raise _unlike(old, new)
    for name in ("channels", "blocks", "groups", "patch", "target"):
        if getattr(old, name) != getattr(new, name):
            raise _unlike(old, new)
    return jax.tree_util.tree_map_with_path(fill, jax.jit(init)(key))


def _is_shift_of_norm(name: str) -> bool:
    return "['norm_" in name and name.endswith("['bias']")


def _unlike(old: object, new: object) -> InputError:
    return InputError(
        f"initial weights: expected the network {new} or one with less of {MORE}, got "
        f"{old}; use a configuration with that network"
    )
