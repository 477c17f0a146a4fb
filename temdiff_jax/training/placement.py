"""Where the arrays of a run live, and the step compiled for that place.

One device needs nothing: arrays go where JAX puts them.  On a mesh the state is born
in its final layout and a batch is cut up on the way to the devices; see ``parallel``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from temdiff_jax import parallel
from temdiff_jax.errors import InputError
from temdiff_jax.model import Network
from temdiff_jax.series.inputs import ResidualScale
from temdiff_jax.training import step as steps
from temdiff_jax.training.config import TrainConfig
from temdiff_jax.training.data import Batch
from temdiff_jax.training.step import Metrics, TrainState


class Placement(NamedTuple):
    """What the loop needs of the devices.

    Attributes:
      network: The network of the run.
      fresh: A new state, in place.
      like: Shapes, types and, on a mesh, layouts of a state.
      put_params: Weights that every process holds, as copies in place.
      put_batch: A batch of NumPy arrays to the devices.
      put_central: The same for a batch of one.
      put_scale: The residual scale to the devices.
      key: The key of a seed.
      step: ``(state, key, batch, scale) -> (state, metrics)``; consumes the state.
      ratio: ``(params, batch, scale[, sigma]) -> [b]``, see ``step.ratio_of_mean``.
    """

    network: Network
    fresh: Callable[[], TrainState]
    like: TrainState
    put_params: Callable[[dict], dict]
    put_batch: Callable[[Batch], Batch]
    put_central: Callable[[Batch], Batch]
    put_scale: Callable[[ResidualScale], ResidualScale]
    key: Callable[[int], jax.Array]
    step: Callable[..., tuple[TrainState, Metrics]]
    ratio: Callable[..., jax.Array]


def make_placement(
    config: TrainConfig, network: Network, init: Callable[[jax.Array], TrainState]
) -> Placement:
    """On one device, or on the mesh of ``config.mesh``.

    Args:
      config: The run.
      network: Its network.
      init: ``key -> state``.

    Raises:
      InputError: The mesh does not fit the devices, the batch or the crops.
    """
    mesh = config.mesh
    if mesh.batch * mesh.slabs > 1:
        return _on_mesh(config, network, init)
    if jax.process_count() > 1:
        raise InputError(
            f"mesh: expected mesh.batch * mesh.slabs = {jax.device_count()}, all "
            f"devices of {jax.process_count()} processes, got 1; pass --set=mesh.batch="
            f"{jax.device_count()}"
        )
    return Placement(
        network=network,
        fresh=lambda: init(jax.random.key(config.seed)),
        like=jax.eval_shape(init, jax.random.key(config.seed)),
        # Copies, since a step gives its input away.
        put_params=lambda params: jax.tree.map(jnp.copy, params),
        put_batch=_same,
        put_central=_same,
        put_scale=_same,
        key=jax.random.key,
        step=functools.partial(steps.train_step, network=network, config=config.optim),
        ratio=lambda params, batch, scale, sigma=None: steps.mean_ratio(
            params, batch, scale, network=network, sigma=sigma
        ),
    )


def _same(tree: Any) -> Any:
    return tree


def _on_mesh(
    config: TrainConfig, network: Network, init: Callable[[jax.Array], TrainState]
) -> Placement:
    mesh = parallel.make_mesh(config.mesh.batch, config.mesh.slabs)
    crop = config.data.crop
    extent_y = crop if isinstance(crop, int) else crop[2]
    multiple = network.config.multiple
    parallel.check_batch(mesh, config.optim.batch, extent_y, multiple)
    abstract = jax.eval_shape(init, jax.random.key(config.seed))
    layouts = parallel.state_shardings(abstract, mesh, fsdp=config.mesh.fsdp)
    like = jax.tree.map(
        lambda a, layout: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=layout),
        abstract,
        layouts,
    )
    scalar = parallel.repeated(mesh, 0)
    whole = parallel.repeated_like(abstract.params, mesh)

    # Parameters that are shared out are gathered before the network sees them.  Left to
    # itself, XLA cuts convolutions along their kernels' channels, and with two slabs
    # that doubled gradients (jaxlib 0.10.2, CPU; tests/training/test_mesh.py compares).
    def gather(params: dict) -> dict:
        return jax.lax.with_sharding_constraint(params, whole)

    def share(grads: dict) -> dict:
        return jax.lax.with_sharding_constraint(grads, layouts.params)

    def ratio(
        params: dict, batch: Batch, scale: ResidualScale, sigma: float | None = None
    ) -> jax.Array:
        return steps.ratio_of_mean(
            gather(params), batch, scale, network=network, sigma=sigma
        )

    return Placement(
        network=network,
        # The key is made inside: a program of several processes takes no array of one.
        fresh=jax.jit(lambda: init(jax.random.key(config.seed)), out_shardings=layouts),
        like=like,
        put_params=lambda params: parallel.place(
            # Copies here too: a device that is the host may use the memory it is given.
            jax.tree.map(np.array, params),
            layouts.params,
        ),
        put_batch=functools.partial(_put_batch, mesh),
        put_central=functools.partial(_put_central, mesh, multiple),
        put_scale=lambda scale: parallel.place(
            scale, parallel.repeated_like(scale, mesh)
        ),
        key=lambda seed: jax.jit(lambda: jax.random.key(seed), out_shardings=scalar)(),
        step=jax.jit(
            functools.partial(
                steps.advance,
                network=network,
                config=config.optim,
                gather=gather,
                share=share,
            ),
            out_shardings=(layouts, scalar),  # one layout for all metrics
            donate_argnums=0,
        ),
        ratio=jax.jit(
            ratio, static_argnames="sigma", out_shardings=parallel.repeated(mesh, 1)
        ),
    )


def _put_batch(mesh: Mesh, batch: Batch) -> Batch:
    rule = functools.partial(parallel.batch_sharding, mesh)
    return parallel.place(batch, jax.tree.map(lambda leaf: rule(leaf.ndim), batch))


def _put_central(mesh: Mesh, multiple: int, batch: Batch) -> Batch:
    def rule(leaf: np.ndarray) -> NamedSharding:
        return parallel.slab_sharding(mesh, leaf.shape, multiple)

    return parallel.place(batch, jax.tree.map(rule, batch))
