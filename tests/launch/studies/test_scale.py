"""The arithmetic of large volumes against compiled programs of small ones."""

import json

import jax
import jax.numpy as jnp
import pytest

from launch.studies import scale
from temdiff_jax.model import NUM_FEATURES, Condition, NetworkConfig, make_network
from temdiff_jax.reconstruction import plan

CONFIG = NetworkConfig(channels=(8, 16), blocks=(1, 2), groups=4)

# What the network sends on two devices, each with half of the rows.
SENT = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from temdiff_jax import parallel
from temdiff_jax.model import NUM_FEATURES, Condition, NetworkConfig, make_network
from temdiff_jax.model import conv

conv.conv3d_planes = conv.conv3d_stacked = conv.conv3d_native
network = make_network(NetworkConfig(channels=(8, 16), blocks=(1, 2), groups=4))
mesh = parallel.sampling_mesh(1, 2)
x = jax.device_put(
    jnp.zeros((1, 8, 12, 16)),
    jax.NamedSharding(mesh, jax.P(None, None, None, "y")),
)
params = jax.eval_shape(network.init, jax.random.key(0))
here = Condition(x, x, jnp.zeros((1, NUM_FEATURES)), jnp.ones(1))
text = jax.jit(network.apply).lower(params, x, jnp.zeros(1), here).compile().as_text()
shapes = re.findall(r"= f32\\[([\\d,]+)\\]\\S* collective-permute(?:-start)?[(]", text)
print(json.dumps([int(np.prod([int(n) for n in s.split(",")])) for s in shapes]))
"""


def test_operations_are_those_that_the_compiler_counts():
    network = make_network(CONFIG)
    x = jnp.zeros((1, 16, 16, 16))
    params = jax.eval_shape(network.init, jax.random.key(0))
    here = Condition(x, x, jnp.zeros((1, NUM_FEATURES)), jnp.ones(1))
    program = jax.jit(network.apply).lower(params, x, jnp.zeros(1), here)
    counted = program.compile().cost_analysis()["flops"]
    # Norms, activations and edges without neighbours are not in the formula.
    assert scale.network_flop(CONFIG) * x.size == pytest.approx(counted, rel=0.25)


def test_halos_are_those_that_the_compiler_sends(run_devices):
    sent = json.loads(run_devices(SENT, count=2))
    # Both devices have one neighbour; in a row of many each sends both ways.
    expected = scale.halo_bytes(CONFIG, face=8 * 12)
    assert scale.FLOAT * sum(sent) == pytest.approx(expected, rel=0.02)


def test_more_devices_need_less_of_each_and_every_case_has_a_row():
    choice = plan.choose(num_samples=8, num_steps=8)
    machine = scale.Machine()
    one, eight, many = (
        scale.need((1024, 1024, 256), n, choice, machine) for n in (1, 8, 256)
    )
    assert (eight.shares, eight.slabs, many.shares, many.slabs) == (8, 1, 8, 32)
    assert one.halo == eight.halo == 0 < many.halo
    assert one.memory >= eight.memory > many.memory
    # One sample instead of eight; the one call of the network stays.
    assert eight.network_flop == pytest.approx(one.network_flop * 9 / 65)
    assert one.seconds > eight.seconds > many.seconds
    lines = list(scale.table(choice, machine))
    assert len(lines) == 2 + len(scale.VOLUMES) * len(scale.DEVICES)
    assert any("device memory" in line for line in lines)
