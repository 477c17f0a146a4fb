"""Dense contractions give the numbers of the gathers, and a TPU gets them.

Nothing here runs on a TPU: its programs are lowered on this host, and the very same
programs are then run on it.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.projector import backproject, dense, kernels, normal_op, project

# Each of these compiles for seconds.
pytestmark = pytest.mark.usefixtures("short_loops")


def draw(shape, dtype, seed=0):
    """Intensities from 0 to 1: no sum is small beside its parts."""
    return jnp.asarray(np.random.default_rng(seed).random(shape), dtype)


def both_ways(module, geometry, *, order=0, oversample=1):
    """Forward and adjoint programs of `kernels` or `dense`, of arrays and angles."""
    more = {"steep": geometry.steep, "order": order, "oversample": oversample}
    extents = geometry.volume_shape[:2]

    def forward(volume, angles):
        return module.project_kernel(volume, angles, num_u=geometry.num_u, **more)

    def adjoint(tilts, angles):
        return module.backproject_kernel(tilts, angles, extents=extents, **more)

    return forward, adjoint


def check_equal(geometry, *, limit, **options):
    """Both directions against the gathers, and against each other."""
    dtype = geometry.angles_rad.dtype
    volume, tilts = (
        draw(geometry.volume_shape, dtype),
        draw(geometry.tilts_shape, dtype),
    )

    @jax.jit
    def run(volume, tilts, angles):
        return [
            [function(array, angles) for function, array in zip(pair, (volume, tilts))]
            for pair in (
                both_ways(module, geometry, **options) for module in (kernels, dense)
            )
        ]

    expected, found = run(volume, tilts, geometry.angles_rad)
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        scale = np.max(np.abs(one))
        assert scale > 0
        np.testing.assert_allclose(other, one, rtol=0, atol=limit * scale)
    if options.get("order"):
        return  # where the interpolation has a kink the two take different sides
    image, smear = found
    paired = np.vdot(image, tilts), np.vdot(volume, smear)
    scale = np.linalg.norm(image) * np.linalg.norm(tilts)
    assert abs(paired[0] - paired[1]) <= 10 * limit * scale


@pytest.mark.slow
def test_one_geometry_of_every_kind_equals_the_gathers(named, x64):
    check_equal(named("every kind", jnp.float64), limit=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("traced_steep", [False, True])
def test_equals_the_gathers_in_float64(build, traced_steep, x64):
    geometry = build(jnp.float64, traced_steep=traced_steep)
    check_equal(geometry, limit=1e-12)


@pytest.mark.slow
def test_equals_the_gathers_in_float32(build):
    check_equal(build(jnp.float32), limit=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["every kind", "thick", "odd and even"])
def test_derivative_in_the_angle_equals_that_of_the_gathers(named, name, x64):
    """Also at whole and half right angles, where it is one of two one-sided ones."""
    for traced_steep in (False, True):
        geometry = named(name, jnp.float64, traced_steep=traced_steep)
        check_equal(geometry, order=1, limit=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("order", [0, 1])
def test_several_rays_to_a_pixel_equal_the_gathers(named, order, x64):
    geometry = named("every kind", jnp.float64)
    check_equal(geometry, order=order, oversample=3, limit=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["every kind", "one voxel", "wide detector"])
def test_blocks_that_divide_nothing_equal_the_gathers(named, name, x64, monkeypatch):
    for constant, value in (("BLOCK", 4), ("PLANES", 3), ("LAYERS", 2), ("TILTS", 2)):
        monkeypatch.setattr(dense, constant, value)
    check_equal(named(name, jnp.float64), limit=1e-12)
    check_equal(named(name, jnp.float64), order=1, oversample=2, limit=1e-12)


@pytest.mark.slow
def test_wrong_flags_take_more_windows(x64, monkeypatch):
    """Rays 5.8 voxels apart on planes that their tilt should not use."""
    monkeypatch.setattr(dense, "BLOCK", 8)
    monkeypatch.setattr(dense, "PLANES", 2)
    angles = jnp.deg2rad(jnp.asarray([80.0, 10.0]))
    geometry = TiltGeometry(angles, (6, 50, 2), 9, (False, True))
    assert 7 / math.cos(angles[0]) > 2 * dense.voxel_window(1, 9, 6, 50)
    check_equal(geometry, limit=1e-12)


@pytest.mark.slow
def test_a_detector_of_several_blocks_equals_the_gathers(x64):
    """At the sizes of the library: 2 blocks of rays and columns, windows of both.

    In float64: that far from the axis the places of the taps themselves are known to
    1e-5 of a voxel only in float32, and depend on how a compiler rounds them.
    """
    geometry = TiltGeometry(
        jnp.deg2rad(jnp.asarray([-44.0, 3.0, 62.0])),
        (40, 230, 2),
        150,
        (False, False, True),
    )
    assert dense.voxel_window(1, 150, 40, 230) < 230 and dense.ray_window(1, 150) < 150
    check_equal(geometry, limit=1e-12)


@pytest.mark.parametrize("oversample", [1, 4])
def test_windows_hold_what_any_angle_reads(oversample, x64):
    """Of blocks in full, at every third degree; the bounds are not loose either."""
    wide, count, rays = 400, dense.PLANES, dense.BLOCK
    planes = jnp.arange(count)
    shallow = jnp.deg2rad(jnp.linspace(-45, 45, 31))
    for steep, angles in ((False, shallow), (True, shallow + jnp.pi / 2)):
        find = functools.partial(
            dense._plane_taps,
            planes=planes,
            extents=(wide, count) if steep else (count, wide),
            num_u=rays,
            steep=steep,
            order=0,
            oversample=oversample,
        )
        rows, _ = jax.jit(jax.vmap(find))(angles)
        across = (rows - planes) // count if steep else rows - planes * wide
        needed = np.max(np.ptp(np.asarray(across), axis=(1, 2, 3))) + 1
        window = dense.voxel_window(oversample, rays, count, wide)
        assert window - 8 < needed <= window
    find = functools.partial(
        dense._voxel_taps,
        flags=None,
        extents=(dense.LAYERS, dense.BLOCK),
        num_u=wide,
        order=0,
        oversample=oversample,
    )
    rays_read, _ = jax.jit(find)(jnp.deg2rad(jnp.linspace(-90, 90, 61)))
    needed = np.max(np.ptp(np.asarray(rays_read), axis=(0, 2, 3))) + 1
    window = dense.ray_window(oversample, wide)
    assert window - 8 < needed <= window


@pytest.mark.slow
def test_half_precision_sums_in_float32(named):
    geometry = named("thick", jnp.float32)
    arrays = (
        draw(geometry.volume_shape, "bfloat16"),
        draw(geometry.tilts_shape, "bfloat16"),
    )
    for exact, rounded, array in zip(
        both_ways(kernels, geometry), both_ways(dense, geometry), arrays
    ):
        found = jax.jit(rounded)(array, geometry.angles_rad)
        assert found.dtype == jnp.bfloat16
        expected = jax.jit(exact)(array.astype(jnp.float32), geometry.angles_rad)
        # One rounding of the sum: half a unit in the eighth bit.
        np.testing.assert_allclose(
            found.astype(jnp.float32), expected, rtol=2**-8, atol=1e-6
        )


def test_an_angle_that_is_no_number_stays_with_its_tilt():
    angles = jnp.asarray([0.3, jnp.nan, -1.2])
    geometry = TiltGeometry(angles, (5, 9, 2), 7, (False, False, True))
    forward, adjoint = both_ways(dense, geometry)
    image = jax.jit(forward)(jnp.ones(geometry.volume_shape), angles)
    smear = jax.jit(adjoint)(jnp.ones(geometry.tilts_shape), angles)
    np.testing.assert_array_equal(
        np.isnan(image).all(axis=(1, 2)), [False, True, False]
    )
    np.testing.assert_array_equal(
        np.isnan(image).any(axis=(1, 2)), [False, True, False]
    )
    assert np.isnan(smear).all()


EXTENTS, NUM_U, COUNT = (6, 10, 8), 8, 4


def geometry_of(angles, steep=(True, False, False, True)):
    return TiltGeometry(angles, EXTENTS, NUM_U, steep)


def loss(volume, angles, tilts):
    return 0.5 * jnp.sum((project(volume, geometry_of(angles)) - tilts) ** 2)


VOLUME = jax.ShapeDtypeStruct(EXTENTS, jnp.float32)
TILTS = jax.ShapeDtypeStruct((COUNT, NUM_U, EXTENTS[2]), jnp.float32)
ANGLES = jax.ShapeDtypeStruct((COUNT,), jnp.float32)
PROGRAMS = {
    "project": (lambda v, a: project(v, geometry_of(a)), (VOLUME, ANGLES)),
    "project, traced": (
        lambda v, a: project(v, geometry_of(a, None)),
        (VOLUME, ANGLES),
    ),
    "backproject": (lambda t, a: backproject(t, geometry_of(a)), (TILTS, ANGLES)),
    "normal_op": (lambda v, a: normal_op(v, geometry_of(a)), (VOLUME, ANGLES)),
    "batch": (
        jax.vmap(lambda v, a: project(v, geometry_of(a)), (0, None)),
        (jax.ShapeDtypeStruct((3, *EXTENTS), jnp.float32), ANGLES),
    ),
    "gradients": (jax.grad(loss, (0, 1)), (VOLUME, ANGLES, TILTS)),
}
GATHERS = re.compile(r"stablehlo\.\w*gather")
SCATTERS = re.compile(r"stablehlo\.\w*scatter")
CONTRACTS = re.compile(r"stablehlo\.dot_general")


def export_for(platforms, function, shapes):
    """A program for other platforms that this host consents to run."""
    return export.export(
        jax.jit(function),
        platforms=platforms,
        disabled_checks=[export.DisabledSafetyCheck.platform()],
    )(*shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_tpu_gets_contractions_in_full_precision(name):
    text = export_for(["tpu"], *PROGRAMS[name]).mlir_module()
    assert not GATHERS.search(text) and not SCATTERS.search(text)
    assert "custom_call" not in text
    products = [line for line in text.splitlines() if CONTRACTS.search(line)]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm"])
@pytest.mark.parametrize("name", ["project", "backproject"])
def test_others_keep_the_gathers(name, platform):
    text = export_for([platform], *PROGRAMS[name]).mlir_module()
    assert GATHERS.search(text)
    assert not CONTRACTS.search(text) and not SCATTERS.search(text)


@pytest.mark.slow
def test_one_program_for_two_platforms_holds_both_forms():
    text = export_for(["cpu", "tpu"], *PROGRAMS["project"]).mlir_module()
    assert GATHERS.search(text) and CONTRACTS.search(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_of_a_tpu_gives_the_numbers_of_this_host(name):
    function, shapes = PROGRAMS[name]
    arguments = [
        jnp.deg2rad(jnp.asarray([-60.0, -10.0, 20.0, 50.0]))
        if shape is ANGLES
        else draw(shape.shape, shape.dtype, seed)
        for seed, shape in enumerate(shapes)
    ]
    found = export_for(["tpu"], function, shapes).call(*arguments)
    expected = jax.jit(function)(*arguments)
    for one, other in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        scale = float(np.max(np.abs(one)))
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6 * scale)


@pytest.mark.slow
def test_a_program_of_a_tpu_serves_any_number_of_rows():
    (rows,) = export.symbolic_shape("rows")
    shape = jax.ShapeDtypeStruct((*EXTENTS[:2], rows), jnp.float32)
    function, _ = PROGRAMS["project"]
    exported = export_for(["tpu"], function, (shape, ANGLES))
    angles = jnp.asarray([-1.0, -0.1, 0.3, 0.9])
    for rows in (1, 5):
        volume = draw((*EXTENTS[:2], rows), jnp.float32)
        np.testing.assert_allclose(
            exported.call(volume, angles), function(volume, angles), atol=2e-6
        )


@pytest.mark.slow
@pytest.mark.multiprocess
def test_slabs_of_y_need_no_communication(run_devices):
    """Neither under `shard_map` nor where the compiler divides the work itself."""
    out = run_devices(
        """
        import re
        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from temdiff_jax.projector import dense

        mesh = jax.make_mesh((8,), ("y",), axis_types=(AxisType.Auto,))
        rows, whole = NamedSharding(mesh, P(None, None, "y")), NamedSharding(mesh, P())
        angles = jnp.deg2rad(jnp.asarray([-58.0, -20.0, 0.0, 33.0]))
        steep = (True, False, False, False)
        rng = np.random.default_rng(0)

        def forward(volume, angles):
            return dense.project_kernel(volume, angles, num_u=8, steep=steep)

        def adjoint(tilts, angles):
            return dense.backproject_kernel(tilts, angles, extents=(5, 9), steep=steep)

        for function, shape in ((forward, (5, 9, 16)), (adjoint, (4, 8, 16))):
            array = jnp.asarray(rng.standard_normal(shape), jnp.float32)
            expected = jax.jit(function)(array, angles)
            spread = jax.shard_map(
                function, mesh=mesh, in_specs=(rows.spec, P()), out_specs=rows.spec
            )
            for program in (spread, function):
                compiled = jax.jit(program, in_shardings=(rows, whole)).lower(
                    array, angles
                ).compile()
                found = compiled(jax.device_put(array, rows), angles)
                assert found.addressable_shards[0].data.shape[2] == 2
                error = np.max(np.abs(np.asarray(found) - np.asarray(expected)))
                assert error <= 1e-6 * np.max(np.abs(np.asarray(expected)))
                print(re.findall("all-|collective|reduce-scatter", compiled.as_text()))
        """,
        count=8,
    )
    assert out.split() == ["[]"] * 4


def work(jaxpr, times=1):
    """Floating point operations of the contractions, and bytes of what they read.

    From the program itself: every loop of a fixed length counts its body so often, the
    one over windows, whose length the angles decide, once.
    """
    flops = boxes = matrices = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            matrix, box = (operand.aval for operand in equation.invars)
            (contracted, _), _ = equation.params["dimension_numbers"]
            length = math.prod(matrix.shape[axis] for axis in contracted)
            flops += 2 * times * math.prod(equation.outvars[0].aval.shape) * length
            boxes += times * box.size * box.dtype.itemsize
            matrices += times * matrix.size * matrix.dtype.itemsize
            continue
        inner_times = times * equation.params.get("length", 1)
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                more = work(inner, inner_times)
                flops, boxes, matrices = map(sum, zip((flops, boxes, matrices), more))
    return flops, boxes, matrices


# Published peaks.  Operations a second in full float32: of the 197e12 of a TPU v5e in
# bfloat16, six make one; of an H100 SXM, outside its tensor cores.  Bytes a second.
PEAKS = {"TPU v5e": (197e12 / 6, 819e9), "H100 SXM": (67e12, 3.35e12)}


@pytest.mark.slow
@pytest.mark.parametrize("side", [128, 512])
def test_the_arithmetic_of_the_documentation(side):
    """41 tilts of a cube; run with -s for the table of docs/projector.md."""
    geometry = TiltGeometry(jnp.zeros(41), (side,) * 3, side, (False,) * 41)
    shapes = geometry.volume_shape, geometry.tilts_shape
    taken = dense.voxel_window(1, side, side, side), dense.ray_window(1, side)
    needed = 2 * 2 * 41 * side**3  # two taps, each a product and a sum
    for function, shape, window in zip(both_ways(dense, geometry), shapes, taken):
        angles = jax.ShapeDtypeStruct((41,), jnp.float32)
        array = jax.ShapeDtypeStruct(shape, jnp.float32)
        jaxpr = jax.make_jaxpr(function)(array, angles).jaxpr
        flops, boxes, matrices = work(jaxpr)
        rounds = 1 if function.__name__ == "forward" else 48 / 41  # of TILTS tilts
        assert flops == pytest.approx(needed * window / 2 * rounds)
        print(
            f"{side}^3 {function.__name__}: window {window}, {flops / 1e9:.1f} GFLOP "
            f"for {needed / 1e9:.2f}, boxes {boxes / 1e9:.2f} GB, "
            f"matrices {matrices / 1e9:.2f} GB"
        )
        for device, (speed, bandwidth) in PEAKS.items():
            print(
                f"  {device}: {1e3 * flops / speed:.2f} ms of products, "
                f"{1e3 * boxes / bandwidth:.2f} ms of boxes, at most "
                f"{1e3 * 2 * matrices / bandwidth:.2f} ms of matrices"
            )
    gathered = 2 * 41 * side**3 * 4
    for device, (_, bandwidth) in PEAKS.items():
        print(
            f"  gathers of {gathered / 1e9:.2f} GB, {device}: "
            f"{1e3 * gathered / bandwidth:.2f} ms"
        )
