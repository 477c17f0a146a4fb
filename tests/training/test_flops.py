"""Counted operations against those of the formulas."""

import jax
import jax.numpy as jnp

from temdiff_jax.model import conv
from temdiff_jax.training import flops


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_matrix_product_and_its_gradient():
    product = 2.0 * 3 * 5 * 7
    assert flops.count(jnp.matmul, shaped(3, 5), shaped(5, 7)) == product

    def loss(a, b):
        return jnp.sum(jnp.tanh(a @ b))

    grad = jax.grad(loss, argnums=(0, 1))
    assert flops.count(grad, shaped(3, 5), shaped(5, 7)) == 3 * product
    batched = flops.count(jax.vmap(jnp.matmul), shaped(4, 3, 5), shaped(4, 5, 7))
    assert batched == 4 * product


def test_every_lowering_of_a_convolution_counts_alike():
    x, kernel = shaped(2, 4, 6, 5, 3), shaped(3, 3, 3, 3, 8)
    expected = 2.0 * (2 * 4 * 6 * 5) * 8 * 27 * 3
    lowerings = (
        conv.conv3d,
        conv.conv3d_native,
        conv.conv3d_planes,
        conv.conv3d_stacked,
    )
    for lowering in lowerings:
        assert flops.count(lowering, x, kernel) == expected

        def loss(x, kernel, lowering=lowering):
            return jnp.sum(jnp.sin(lowering(x, kernel)))

        grad = jax.grad(loss, argnums=(0, 1))
        total = flops.count(grad, x, kernel)
        # Forward, by the input and by the kernel; padding counts a little differently.
        assert 2.9 * expected < total < 3.3 * expected


def test_loops_count_as_often_as_they_run_and_branches_by_the_dearest():
    def loop(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)[0]

    def branch(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x, x)

    once = 2.0 * 4**3
    assert flops.count(jax.jit(loop), shaped(4, 4)) == 5 * once
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    assert flops.count(branch, flag, shaped(4, 4)) == 2 * once


def test_recomputation_counts():
    def block(x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ x) @ x))

    plain = flops.count(jax.grad(block), shaped(4, 4))
    again = flops.count(jax.grad(jax.checkpoint(block)), shaped(4, 4))
    assert plain == 3 * 2 * 2.0 * 4**3 and again > plain
