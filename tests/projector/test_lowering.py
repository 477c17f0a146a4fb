"""Programs for other devices: they can be made on any host, and hold no scatter.

`jax.export` runs the whole lowering for a platform without having one; what a
device's own compiler does with the program is not seen here.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import (
    backproject,
    backproject_moving,
    no_motion,
    normal_op,
    project,
    project_moving,
)

pytestmark = pytest.mark.usefixtures("short_loops")

EXTENTS = (6, 10, 8)
NUM_U = 8
COUNT = 4
VOLUME = jax.ShapeDtypeStruct(EXTENTS, jnp.float32)
TILTS = jax.ShapeDtypeStruct((COUNT, NUM_U, EXTENTS[2]), jnp.float32)
ANGLES = jax.ShapeDtypeStruct((COUNT,), jnp.float32)
MOTION = jax.eval_shape(lambda: no_motion(COUNT, x_tilt=True))


def geometry(angles, *, oversample=1):
    return TiltGeometry(angles, EXTENTS, NUM_U, (True, False, False, True), oversample)


def moving_loss(volume, angles, tilts, motion):
    residual = project_moving(volume, geometry(angles), motion) - tilts
    return 0.5 * jnp.sum(residual**2)


PROGRAMS = {
    "project": (lambda v, a: project(v, geometry(a)), (VOLUME, ANGLES)),
    "backproject": (lambda t, a: backproject(t, geometry(a)), (TILTS, ANGLES)),
    "normal_op": (lambda v, a: normal_op(v, geometry(a)), (VOLUME, ANGLES)),
    "several rays to a pixel": (
        lambda v, a: normal_op(v, geometry(a, oversample=3)),
        (VOLUME, ANGLES),
    ),
    "half precision": (
        lambda v, a: normal_op(v.astype(jnp.bfloat16), geometry(a)),
        (VOLUME, ANGLES),
    ),
    "project_moving": (
        lambda v, a, m: project_moving(v, geometry(a), m),
        (VOLUME, ANGLES, MOTION),
    ),
    "backproject_moving": (
        lambda t, a, m: backproject_moving(t, geometry(a), m),
        (TILTS, ANGLES, MOTION),
    ),
    "gradients in volume, angles and motion": (
        jax.grad(moving_loss, (0, 1, 3)),
        (VOLUME, ANGLES, TILTS, MOTION),
    ),
}


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if "gradients" in name else [])
        for name in PROGRAMS
    ],
)
def test_program_is_exported_for_a_platform(name, platform):
    function, shapes = PROGRAMS[name]
    exported = export.export(jax.jit(function), platforms=[platform])(*shapes)
    text = exported.mlir_module()
    assert exported.platforms == (platform,)
    assert "stablehlo.gather" in text or "stablehlo.dynamic_slice" in text
    assert not re.search(r"stablehlo\.\w*scatter", text)
    # Nothing that only one vendor's runtime would know.
    assert "custom_call" not in text


@pytest.mark.slow
def test_an_exported_program_gives_the_same_numbers():
    """One program for any number of rows."""
    (rows,) = export.symbolic_shape("rows")
    volume = jax.ShapeDtypeStruct((*EXTENTS[:2], rows), jnp.float32)
    function, _ = PROGRAMS["project"]
    exported = export.export(jax.jit(function))(volume, ANGLES)
    angles = jnp.deg2rad(jnp.asarray([-60.0, -10.0, 20.0, 50.0]))
    rng = np.random.default_rng(0)
    for rows in (1, 5):
        volume = jnp.asarray(rng.standard_normal((*EXTENTS[:2], rows)), jnp.float32)
        np.testing.assert_allclose(
            exported.call(volume, angles), project(volume, geometry(angles)), atol=1e-6
        )
