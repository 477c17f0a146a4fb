import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import consistency
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse import cg, precision
from temdiff_jax.inverse.problem import Frame, Measurement, Problem, Units
from temdiff_jax.inverse.quadratic import Metric, apply_metric, proximal_update
from temdiff_jax.inverse.tikhonov import TikhonovSettings, tikhonov_normalised
from temdiff_jax.projector import backproject, normal_op, project

# Each of these compiles for seconds.

SHAPE = (3, 6, 5)


def problem(dtype, *, modes=4, strength=1.0, seed=0):
    """Weights with two masked pixels, and columns."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 3.0, SHAPE)
    weight[0, 1, 2] = weight[2, 4, 4] = 0
    columns = strength * rng.standard_normal((SHAPE[0], modes, *SHAPE[1:]))
    return jnp.asarray(weight, dtype), jnp.asarray(columns, dtype)


def dense(weight, columns):
    """``Sigma^-1`` of every tilt, ``[n, p, p]``, zero where masked; float64."""
    weight = np.broadcast_to(np.asarray(weight, np.float64), SHAPE).reshape(3, -1)
    columns = np.asarray(columns, np.float64).reshape(3, columns.shape[1], -1)
    out = np.zeros((3, weight.shape[1], weight.shape[1]))
    for k in range(3):
        seen = weight[k] > 0
        part = columns[k][:, seen]
        sigma = np.diag(1 / weight[k][seen]) + part.T @ part
        out[k][np.ix_(seen, seen)] = np.linalg.inv(sigma)
    return out


def matrix_of(apply, dtype):
    """Every tilt's block of a linear map of residuals, ``[n, p, p]``."""
    size = SHAPE[1] * SHAPE[2]
    basis = jnp.eye(size, dtype=dtype).reshape(size, 1, *SHAPE[1:])
    columns = jax.vmap(apply)(jnp.broadcast_to(basis, (size, *SHAPE)))
    return np.asarray(columns).reshape(size, 3, size).transpose(1, 2, 0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_precision_is_the_dense_inverse_and_positive(strength):
    weight, columns = problem(jnp.float64, strength=strength)
    found = matrix_of(lambda r: precision.low_rank(weight, columns) * r, columns.dtype)
    expected = dense(weight, columns)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(found, found.transpose(0, 2, 1), atol=1e-12)
    for k, masked in enumerate((1, 0, 1)):
        eigenvalues = np.linalg.eigvalsh(found[k])
        assert np.sum(eigenvalues < 1e-9) == masked
        assert eigenvalues.min() > -1e-12


@pytest.mark.usefixtures("x64")
def test_square_root_diagonal_and_determinant_are_those_of_the_dense_matrix():
    weight, columns = problem(jnp.float64)
    built = precision.low_rank(weight, columns)
    root = matrix_of(built.whiten, jnp.float64)
    transposed = matrix_of(built.whiten_transpose, jnp.float64)
    expected = dense(weight, columns)
    np.testing.assert_allclose(transposed, root.transpose(0, 2, 1), atol=1e-12)
    np.testing.assert_allclose(transposed @ root, expected, atol=1e-12)
    diagonal = np.stack([np.diag(block) for block in expected])
    np.testing.assert_allclose(
        np.asarray(built.diagonal_part()).reshape(3, -1), diagonal, atol=1e-12
    )
    np.testing.assert_allclose(
        built.per_tilt(SHAPE)[:, 0, 0], diagonal.mean(axis=1), rtol=1e-12
    )
    residual = jax.random.normal(jax.random.key(1), SHAPE, jnp.float64)
    flat = np.asarray(residual).reshape(3, -1)
    np.testing.assert_allclose(
        built.quadratic(residual), np.einsum("ki,kij,kj->k", flat, expected, flat)
    )
    logs = []
    for k, block in enumerate(expected):
        seen = np.asarray(weight[k]).ravel() > 0
        logs.append(-np.linalg.slogdet(block[np.ix_(seen, seen)])[1])
    np.testing.assert_allclose(built.log_determinant(SHAPE), logs, rtol=1e-12)


@pytest.mark.usefixtures("optimised")
@pytest.mark.usefixtures("x64")
def test_without_spread_it_is_the_diagonal():
    weight, columns = problem(jnp.float64)
    residual = jax.random.normal(jax.random.key(1), SHAPE, jnp.float64)
    plain = precision.diagonal(weight)
    np.testing.assert_array_equal(plain * residual, weight * residual)
    gaps = []
    for size in (1e-2, 1e-3, 0.0):
        built = precision.low_rank(weight, size * columns)
        gaps.append(float(jnp.max(jnp.abs(built * residual - plain * residual))))
        np.testing.assert_allclose(
            built.log_determinant(SHAPE),
            plain.log_determinant(SHAPE),
            atol=1e3 * size**2,
        )
    assert gaps[2] == 0
    assert gaps[1] == pytest.approx(1e-2 * gaps[0], rel=0.05)  # order of S


@pytest.mark.slow
@pytest.mark.parametrize("strength", [1.0, 300.0])
def test_float32_keeps_four_digits_of_strong_modes(strength):
    """Modes up to some 1e6 times the noise; errors relative to the weights."""
    weight, columns = problem(jnp.float32, strength=strength)
    built = precision.low_rank(weight, columns)
    assert float(jnp.max(built.strength)) > (1e6 if strength > 1 else 1)
    found = matrix_of(lambda r: built * r, jnp.float32)
    np.testing.assert_allclose(found, dense(weight, columns), atol=3e-4)


@pytest.mark.slow
def test_product_from_either_side_and_under_the_transformations():
    weight, columns = problem(jnp.float32)
    built = precision.low_rank(weight, columns)
    residual = jax.random.normal(jax.random.key(1), (4, *SHAPE))
    expected = jnp.stack([built * r for r in residual])
    np.testing.assert_allclose(residual[0] * built, expected[0], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(residual[0]) * built, expected[0], rtol=1e-6)
    apply = jax.jit(lambda p, r: p * r)
    np.testing.assert_allclose(apply(built, residual[1]), expected[1], atol=1e-5)
    batched = jax.vmap(apply, (None, 0))(built, residual)
    np.testing.assert_allclose(batched, expected, atol=1e-5)
    both = jax.vmap(lambda w, c: precision.low_rank(w, c) * residual[0])(
        jnp.stack([weight, 2 * weight]), jnp.stack([columns, columns])
    )
    np.testing.assert_allclose(both[0], expected[0], atol=1e-5)
    gradient = jax.grad(lambda r: 0.5 * jnp.sum(built.quadratic(r)))(residual[2])
    np.testing.assert_allclose(gradient, expected[2], atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_samples_have_the_covariance():
    weight, columns = problem(jnp.float64, strength=0.7)
    built = precision.low_rank(weight, columns)
    keys = jax.random.split(jax.random.key(3), 20000)
    drawn = np.asarray(jax.vmap(lambda k: built.sample(k, SHAPE))(keys))
    assert np.all(drawn[:, 0, 1, 2] == 0) and np.all(drawn[:, 2, 4, 4] == 0)
    white = np.asarray(jax.vmap(built.whiten)(jnp.asarray(drawn)))
    second = np.einsum("skuy,skvz->kuyvz", white, white).reshape(3, 30, 30) / 20000
    expected = np.stack([np.diag((np.asarray(w) > 0).ravel() * 1.0) for w in weight])
    # Five standard errors of a covariance of 20000 draws.
    np.testing.assert_allclose(second, expected, atol=5 * np.sqrt(2 / 20000))
    nu = np.asarray([29, 30, 29])
    mean = np.mean(np.asarray(jax.vmap(built.quadratic)(jnp.asarray(drawn))), axis=0)
    np.testing.assert_allclose(mean, nu, rtol=5 * np.sqrt(2 / 30 / 20000))


@pytest.mark.usefixtures("x64")
def test_amplitudes_are_the_posterior_mean_of_the_columns_coefficients():
    weight, columns = problem(jnp.float64)
    built = precision.low_rank(weight, columns)
    true = jax.random.normal(jax.random.key(0), columns.shape[:2], jnp.float64)
    residual = jnp.einsum("kmuy,km->kuy", columns, true)
    found = built.amplitudes(residual)
    flat = np.asarray(columns).reshape(3, 4, -1)
    heavy = flat * np.asarray(weight).reshape(3, 1, -1)
    for k in range(3):
        normal = np.eye(4) + heavy[k] @ flat[k].T
        right = heavy[k] @ np.asarray(residual[k]).ravel()
        np.testing.assert_allclose(found[k], np.linalg.solve(normal, right), rtol=1e-9)
    assert precision.diagonal(weight).amplitudes(residual).shape == (3, 0)


@pytest.mark.usefixtures("x64")
def test_factors_scale_whole_tilts_and_zero_leaves_one_out():
    weight, columns = problem(jnp.float64)
    factors = jnp.asarray([0.25, 1.0, 0.0])
    residual = jax.random.normal(jax.random.key(1), SHAPE, jnp.float64)
    for built in (precision.diagonal(weight), precision.low_rank(weight, columns)):
        expected = factors[:, None, None] * (built * residual)
        np.testing.assert_allclose(built.scaled(factors) * residual, expected)
        quadratic = built.scaled(factors).quadratic(residual)
        np.testing.assert_allclose(quadratic, factors * built.quadratic(residual))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_cheap_form_has_the_right_variance_in_every_pixel():
    weight, columns = problem(jnp.float64)
    cheap = np.asarray(precision.with_variances(weight, columns)).reshape(3, -1)
    for k, (w, c) in enumerate(zip(weight, columns, strict=True)):
        seen = np.asarray(w).ravel() > 0
        flat = np.asarray(c).reshape(4, -1)[:, seen]
        sigma = np.diag(1 / np.asarray(w).ravel()[seen]) + flat.T @ flat
        np.testing.assert_allclose(cheap[k][seen], 1 / np.diag(sigma))
        assert np.all(cheap[k][~seen] == 0)


@pytest.fixture
def small():
    """A geometry, data and a precision with coherent errors, float64."""
    geometry = TiltGeometry.from_degrees(
        [-20.0, 0.0, 25.0], thickness=3, width=5, height=4, dtype=jnp.float64
    )
    rng = np.random.default_rng(2)
    shape = geometry.tilts_shape
    tilts = jnp.asarray(rng.standard_normal(shape))
    weight = jnp.asarray(rng.uniform(1.0, 4.0, shape)).at[1, 2, 3].set(0.0)
    columns = jnp.asarray(2 * rng.standard_normal((3, 2, *shape[1:])))
    return geometry, tilts, precision.low_rank(weight, columns)


@pytest.mark.usefixtures("optimised")
@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_every_solve_with_a_weight_takes_a_precision(small):
    """Quadratic estimate, P2 and P4 against the dense solution."""
    geometry, tilts, built = small
    shape = geometry.volume_shape
    size = int(np.prod(shape))
    metric = Metric(0.5, 0.2)
    basis = jnp.eye(size).reshape(size, *shape)
    images = jax.vmap(lambda v: project(v, geometry))(basis)
    weighted = jax.vmap(lambda t: built * t)(images)
    data = (
        np.asarray(images).reshape(size, -1) @ np.asarray(weighted).reshape(size, -1).T
    )
    prior = np.asarray(jax.vmap(lambda v: apply_metric(v, metric))(basis))
    guess = jax.random.normal(jax.random.key(1), shape, jnp.float64)
    for start in (jnp.zeros(shape), guess):
        right = backproject(built * (tilts - project(start, geometry)), geometry)
        step = np.linalg.solve(
            data + prior.reshape(size, size), np.asarray(right).ravel()
        )
        found, _ = proximal_update(start, tilts, geometry, built, metric, num_iters=200)
        np.testing.assert_allclose(found, start + step.reshape(shape), atol=1e-8)
    settings = TikhonovSettings(0.5, 0.2, 200)
    problem = Problem(geometry, tilts, built, Units(jnp.zeros(()), jnp.ones(())))
    found = tikhonov_normalised(problem, settings)
    start = jnp.zeros(shape)
    expected, _ = proximal_update(start, tilts, geometry, built, metric, num_iters=200)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        normal_op(guess, geometry, built),
        (data @ np.asarray(guess).ravel()).reshape(shape),
        atol=1e-9,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_rules_of_the_samplers_take_a_precision(small):
    """Directly where they apply a weight; whitened where they need its root."""
    geometry, tilts, built = small
    problem = Problem(geometry, tilts, built, Units(jnp.zeros(()), jnp.ones(())))
    frame = Frame(jnp.zeros(geometry.volume_shape), jnp.float64(0.7))
    direct = problem.measurement(frame)
    white = dataclasses.replace(
        direct,
        forward=lambda v: built.whiten(direct.forward(v)),
        adjoint=lambda t: direct.adjoint(built.whiten_transpose(t)),
        data=built.whiten(direct.data),
        precision=1.0,
    )
    fov = geometry.crop(frame.base).shape
    guess = jax.random.normal(jax.random.key(0), (2, *fov), jnp.float64)
    sigma = jnp.float64(0.8)
    results = []
    for data in (direct, white):
        for rule in (
            consistency.proximal(data, num_iters=60),
            consistency.gradient(data, 0.01),
        ):
            results.append(rule.apply(guess, sigma, rule.init(guess))[0])
    np.testing.assert_allclose(results[0], results[2], atol=1e-9)
    np.testing.assert_allclose(results[1], results[3], atol=1e-12)
    # P4, the default sampler's own rule.
    rule = consistency.proximal_consistency(direct, Metric(0.0, 1 / 0.49), num_iters=80)
    same = rule.apply(guess, sigma, rule.init(guess))[0]
    assert same.shape == guess.shape and np.all(np.isfinite(same))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_exact_draws_given_correlated_data(small):
    """Mean and variance of perturb-and-solve on the whitened measurement."""
    geometry, tilts, built = small
    shape = geometry.volume_shape
    size = int(np.prod(shape))
    data = Measurement(
        forward=lambda v: built.whiten(project(v, geometry)),
        adjoint=lambda t: backproject(built.whiten_transpose(t), geometry),
        data=built.whiten(tilts),
        precision=1.0,
    )
    normal = np.asarray(
        jax.vmap(data.normal)(jnp.eye(size).reshape(size, *shape))
    ).reshape(size, size)
    covariance = np.linalg.inv(normal + np.eye(size) / 0.5)
    mean = covariance @ np.asarray(data.pull(data.data)).ravel()
    draw = jax.jit(consistency.perturb_and_solve(data, num_iters=60))
    drawn = draw(jax.random.key(0), jnp.zeros((4000, *shape)), jnp.float64(0.5))
    drawn = np.asarray(drawn).reshape(4000, size)
    error = 5 * np.sqrt(np.diag(covariance) / 4000)
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < error)
    np.testing.assert_allclose(
        drawn.var(axis=0), np.diag(covariance), rtol=5 * np.sqrt(2 / 4000)
    )


@pytest.mark.slow
@pytest.mark.multiprocess
def test_split_over_devices_along_tilts_and_along_rows(run_devices):
    run_devices(
        """
        import jax, jax.numpy as jnp, numpy as np
        from functools import partial
        from jax.sharding import PartitionSpec as P
        from temdiff_jax.inverse import precision
        mesh = jax.make_mesh((2,), ("y",), (jax.sharding.AxisType.Auto,))
        shape = (4, 6, 8)
        weight = jax.random.uniform(jax.random.key(0), shape) + 0.5
        columns = 2 * jax.random.normal(jax.random.key(1), (4, 3, 6, 8))
        residual = jax.random.normal(jax.random.key(2), shape)
        whole = precision.low_rank(weight, columns)
        expected = (whole * residual, whole.quadratic(residual), whole.whiten(residual),
                    whole.log_determinant(shape))

        def apply(axis_name, w, c, r):
            here = precision.low_rank(w, c, axis_name=axis_name)
            return (here * r, here.quadratic(r), here.whiten(r),
                    here.log_determinant(r.shape))

        rows, modes = P(None, None, "y"), P(None, None, None, "y")
        by_rows = jax.shard_map(partial(apply, "y"), mesh=mesh,
            in_specs=(rows, modes, rows), out_specs=(rows, P(), rows, P()))
        tilts = P("y")
        by_tilts = jax.shard_map(partial(apply, None), mesh=mesh,
            in_specs=(tilts,) * 3, out_specs=tilts)
        for split in (by_rows, by_tilts):
            for got, want in zip(jax.jit(split)(weight, columns, residual), expected):
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        text = jax.jit(by_tilts).lower(weight, columns, residual).compile().as_text()
        assert "all-reduce" not in text
        """,
        count=2,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_conjugate_gradients_meet_the_same_operator_as_the_weights():
    """A diagonal Precision changes no bit of a solve."""
    geometry = TiltGeometry.from_degrees([-9.0, 4.0], thickness=3, width=6, height=4)
    weight = jax.random.uniform(jax.random.key(0), geometry.tilts_shape)
    rhs = jax.random.normal(jax.random.key(1), geometry.volume_shape)
    solved = [
        cg.conjugate_gradient(
            lambda v, w=w: normal_op(v, geometry, w) + v,
            rhs,
            jnp.zeros_like(rhs),
            num_iters=5,
        )[0]
        for w in (weight, precision.diagonal(weight))
    ]
    np.testing.assert_array_equal(*solved)
