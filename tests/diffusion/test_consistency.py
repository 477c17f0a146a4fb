"""Pulling guesses to tilts, and the posterior that the whole sampler draws from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, consistency, schedule
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.inverse.problem import Frame, Measurement, Problem, Units
from temdiff_jax.inverse.quadratic import Metric
from temdiff_jax.projector import project

NZ, NX, NY, MARGIN = 6, 6, 1, 2
ANGLES = (-50.0, -20.0, 0.0, 25.0, 55.0)


@pytest.fixture(scope="module")
def geometry():
    return TiltGeometry.from_degrees(
        ANGLES, thickness=NZ, width=NX, height=NY, lateral_margin=0
    )


@pytest.fixture(scope="module")
def wide():
    return TiltGeometry.from_degrees(
        ANGLES, thickness=NZ, width=NX, height=NY, lateral_margin=MARGIN
    )


def problem_for(geometry, weight, unit=1.0, seed=0):
    """A problem, and a frame of its volumes."""
    rng = np.random.default_rng(seed)
    base = jnp.asarray(rng.normal(size=geometry.volume_shape), jnp.float32)
    problem = Problem(
        geometry,
        jnp.asarray(rng.normal(size=geometry.tilts_shape), jnp.float32),
        jnp.full((len(ANGLES), 1, 1), weight, jnp.float32),
        Units(jnp.float32(0.0), jnp.float32(1.0)),
    )
    return problem, Frame(base, jnp.float32(unit))


def residuals(count=2):
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.normal(size=(count, NZ, NX, NY)), jnp.float32)


def dense(geometry) -> np.ndarray:
    """The projector as a matrix [rays, voxels]."""
    basis = jnp.eye(NZ * NX).reshape(NZ * NX, NZ, NX, 1)
    columns = jax.vmap(lambda volume: project(volume, geometry))(basis)
    return np.asarray(columns, np.float64).reshape(NZ * NX, -1).T


def test_residuals_and_volumes_are_inverse_and_the_margin_keeps_the_base(wide):
    problem, frame = problem_for(wide, 1.0, unit=0.3)
    residual = residuals()[0]
    volume = problem.to_volume(residual, frame)
    assert volume.shape == wide.volume_shape
    np.testing.assert_array_equal(volume[:, :MARGIN], frame.base[:, :MARGIN])
    np.testing.assert_array_equal(volume[:, -MARGIN:], frame.base[:, -MARGIN:])
    expected = frame.base[:, MARGIN:-MARGIN] + 0.3 * residual
    np.testing.assert_allclose(volume[:, MARGIN:-MARGIN], expected, rtol=1e-5)
    back = problem.to_variable(volume, frame)
    np.testing.assert_allclose(back, residual, atol=1e-5)


@jax.jit
def pull(problem, frame, metric, sigma, x0):
    data = problem.measurement(frame)
    rule = consistency.proximal_consistency(data, metric, num_iters=40)
    return rule.apply(x0, sigma, rule.init(x0))[0]


@pytest.mark.slow
def test_weight_zero_changes_nothing(wide):
    x0 = residuals()
    out = pull(*problem_for(wide, 0.0), Metric(0.5, 0.1), 1.0, x0)
    np.testing.assert_allclose(out, x0, atol=1e-6)


@pytest.mark.slow
def test_at_vanishing_noise_the_guess_stays(wide):
    x0, given = residuals(), problem_for(wide, 10.0)
    out = pull(*given, Metric(0.0, 1.0), 1e-3, x0)
    np.testing.assert_allclose(out, x0, atol=1e-3)
    moved = pull(*given, Metric(0.0, 1.0), 10.0, x0)
    assert np.max(np.abs(moved - x0)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.5, 20.0])
def test_p2_is_the_posterior_mean_of_a_gaussian_prior(geometry, sigma):
    weight, unit = 4.0, 0.5
    (problem, frame), x0 = problem_for(geometry, weight, unit), residuals()
    # Prior of the residual around the guess: variance r^2 = s^2 / (s^2 + 1) per unit.
    metric = Metric(0.0, 1.0 / unit**2)
    matrix = dense(geometry) * unit
    rho = (sigma**2 + 1) / sigma**2
    base = dense(geometry) @ np.ravel(frame.base)
    data = np.ravel(problem.tilts) - base
    normal = weight * matrix.T @ matrix + rho * np.eye(NZ * NX)
    out = pull(problem, frame, metric, sigma, x0)
    for guess, got in zip(x0, out, strict=True):
        right = weight * matrix.T @ data + rho * np.ravel(guess)
        expected = np.linalg.solve(normal, right)
        np.testing.assert_allclose(np.ravel(got), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("largest", "expected"), [(4.0, 1.0), (20.0, 1.0), (30.0, 10**0.5), (60.0, 10.0)]
)
def test_margin_is_less_sure_the_steeper_the_rays(largest, expected):
    series = TiltGeometry.from_degrees(
        (-3.0, largest), thickness=NZ, width=NX, height=NY, lateral_margin=MARGIN
    )
    spread = np.asarray(consistency.guess_spread(series, 10.0))
    assert spread.shape == (1, NX + 2 * MARGIN, 1)
    np.testing.assert_array_equal(spread[0, MARGIN:-MARGIN, 0], 1.0)
    margin = np.delete(spread, np.s_[MARGIN:-MARGIN], axis=1)
    np.testing.assert_allclose(margin, expected, rtol=1e-5)
    np.testing.assert_allclose(consistency.guess_spread(series, 1.0), 1.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("outside", [1.0, 10.0])
def test_margin_has_a_spread_that_no_noise_level_sharpens(wide, outside):
    """P2 with variance unit^2 r^2 in the field of view and unit^2 c^2 beside it."""
    weight, unit, sigma = 4.0, 0.5, 0.7
    (problem, frame), x0 = problem_for(wide, weight, unit), residuals()
    _, width, _ = wide.volume_shape
    basis = jnp.eye(NZ * width).reshape(-1, NZ, width, 1)
    columns = jax.vmap(lambda volume: project(volume, wide))(basis)
    matrix = np.asarray(columns, np.float64).reshape(NZ * width, -1).T
    variance = np.full((NZ, width), (unit * outside) ** 2)
    variance[:, MARGIN:-MARGIN] = unit**2 * sigma**2 / (sigma**2 + 1)
    precision = np.diag(1 / variance.ravel())
    rule = consistency.proximal_consistency(
        problem.measurement(frame),
        Metric(0.0, 1.0 / unit**2),
        num_iters=40,
        outside=outside,
    )
    out = jax.jit(lambda x: rule.apply(x, jnp.float32(sigma), rule.init(x))[0])(x0)
    for guess, got in zip(x0, out, strict=True):
        start = np.ravel(problem.to_volume(guess, frame))
        right = weight * matrix.T @ np.ravel(problem.tilts) + precision @ start
        normal = weight * matrix.T @ matrix + precision
        solved = np.linalg.solve(normal, right).reshape(wide.volume_shape)
        expected = problem.to_variable(jnp.asarray(solved), frame)
        np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.slow
def test_sampler_draws_from_the_posterior_of_a_gaussian_prior(geometry):
    """N(0, 1) voxels, linear rays: mean and covariance are known in closed form."""
    weight, count = 2.0, 512
    rng = np.random.default_rng(3)
    matrix = dense(geometry)
    truth = rng.normal(size=NZ * NX)
    tilts = matrix @ truth + rng.normal(size=len(matrix)) / np.sqrt(weight)
    problem = Problem(
        geometry,
        jnp.asarray(tilts.reshape(geometry.tilts_shape), jnp.float32),
        jnp.full((len(ANGLES), 1, 1), weight, jnp.float32),
        Units(jnp.float32(0.0), jnp.float32(1.0)),
    )
    frame = Frame(jnp.zeros(geometry.volume_shape), jnp.float32(1.0))
    # From 80 on: what a start around 0 instead of the mean leaves behind is small.
    sigmas = schedule.karras(50, sigma_max=80.0)

    @jax.jit
    def program(key, x, problem):
        data = problem.measurement(frame)
        rule = consistency.proximal_consistency(data, Metric(0.0, 1.0), num_iters=16)
        guess = algebra.predictor(lambda x, sigma: x / (1 + sigma**2))
        kernel = algebra.ddim(algebra.constrain(guess, rule), eta=0.0)
        return algebra.run(kernel, key, x, sigmas)[0].x

    start = sigmas[0] * jax.random.normal(jax.random.key(0), (count, NZ, NX, NY))
    samples = np.asarray(program(jax.random.key(1), start, problem), np.float64)
    samples = samples.reshape(count, -1)
    precision = weight * matrix.T @ matrix
    covariance = np.linalg.inv(precision + np.eye(NZ * NX))
    mean = covariance @ (weight * matrix.T @ tilts)
    error = (samples.mean(axis=0) - mean) / (samples.std(axis=0) / np.sqrt(count))
    assert np.max(np.abs(error)) < 4.0
    # In the eigenbasis of the data, where directions are independent.
    strength, basis = np.linalg.eigh(precision)
    ratio = np.var(samples @ basis, axis=0) * (1.0 + strength)
    measured, unseen = ratio[strength > 1.0], ratio[strength < 0.1]
    assert measured.size > 5 and unseen.size > 5
    assert 0.8 < measured.mean() < 1.25
    assert 0.8 < unseen.mean() < 1.25


# Rules on a generic operator, with a small matrix in double precision.
DIM, ROWS = 8, 5


def matrix_problem(*, seed=0, positive=False, weight=None):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(ROWS, DIM)) / 2
    if positive:
        matrix = np.abs(matrix)
        matrix[:, 3] = 0.0  # a voxel of no ray
        matrix[2] = 0.0  # a ray of no length
    weight = rng.uniform(0.5, 4.0, ROWS) if weight is None else weight
    problem = Measurement(
        lambda x: jnp.asarray(matrix) @ x,
        lambda r: jnp.asarray(matrix).T @ r,
        jnp.asarray(rng.normal(size=ROWS)),
        jnp.asarray(weight),
    )
    return problem, matrix, jnp.asarray(rng.normal(size=(3, DIM)))


def applied(rule, x0, sigma=0.8):
    return np.asarray(jax.jit(rule.apply)(x0, sigma, rule.init(x0))[0])


def test_proximal_is_the_minimiser(x64):
    problem, matrix, x0 = matrix_problem()
    weight = np.diag(problem.precision.weight)
    rho = 2.0 * (1 + 1 / 0.8**2)
    rule = consistency.proximal(
        problem, consistency.white_precision(2.0), num_iters=DIM
    )
    normal = matrix.T @ weight @ matrix
    right = matrix.T @ weight @ np.asarray(problem.data) + rho * np.asarray(x0)
    expected = np.linalg.solve(normal + rho * np.eye(DIM), right.T).T
    np.testing.assert_allclose(applied(rule, x0), expected, rtol=1e-9)


def test_p3_is_the_minimiser_and_p2_for_a_constant_variance(x64):
    problem, matrix, x0 = matrix_problem()
    weight = np.diag(problem.precision.weight)
    variance = np.linspace(0.0, 2.0, DIM)
    rule = consistency.proximal_voxelwise(
        problem, lambda x0, sigma: jnp.asarray(variance), num_iters=DIM + 2
    )
    got = applied(rule, x0)
    # x0 + V A^T (A V A^T + 1/W)^-1 (y - A x0) also holds where V is singular.
    gain = np.diag(variance) @ matrix.T
    gain = gain @ np.linalg.inv(matrix @ gain + np.linalg.inv(weight))
    expected = x0 + (np.asarray(problem.data) - x0 @ matrix.T) @ gain.T
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    np.testing.assert_array_equal(got[:, 0], x0[:, 0])
    # The same conjugate-gradient steps, converged or not.
    for steps in (2, DIM):
        p2 = consistency.proximal(problem, num_iters=steps)
        p3 = consistency.proximal_voxelwise(
            problem, lambda x0, s: s**2 / (1 + s**2), num_iters=steps
        )
        np.testing.assert_allclose(applied(p3, x0), applied(p2, x0), rtol=1e-9)


def test_p3_may_take_the_spread_of_the_batch(x64):
    problem, _, x0 = matrix_problem()
    x0 = x0.at[:, 2].set(0.5)
    rule = consistency.proximal_voxelwise(
        problem, lambda x0, sigma: jnp.var(x0, axis=0), num_iters=DIM
    )
    got = applied(rule, x0)
    np.testing.assert_array_equal(got[:, 2], 0.5)
    assert np.min(np.abs(got - x0)[:, [0, 1, 3]]) > 1e-4


def test_replace_range_is_the_limit_of_p2_for_sure_data(x64):
    problem, matrix, x0 = matrix_problem()
    got = applied(consistency.replace_range(problem, num_iters=40), x0)
    inverse = np.linalg.pinv(matrix)
    data = np.asarray(problem.data)
    expected = x0 + (data - x0 @ matrix.T) @ inverse.T
    np.testing.assert_allclose(got, expected, atol=1e-9)
    sure = dataclasses.replace(problem, precision=jnp.asarray(1e8))
    limit = applied(consistency.proximal(sure, num_iters=40), x0)
    np.testing.assert_allclose(limit, expected, atol=1e-5)
    found = consistency.pseudo_inverse(problem, num_iters=40)
    np.testing.assert_allclose(found, inverse @ data, atol=1e-9)
    few = applied(consistency.replace_range(problem, num_iters=2), x0)
    residuals = [np.linalg.norm(data - x @ matrix.T) for x in (x0, few, got)]
    assert residuals[0] > residuals[1] > residuals[2]


@pytest.mark.slow
def test_replace_range_ignores_masked_data_and_bears_dependent_rows(x64):
    problem, matrix, x0 = matrix_problem(weight=np.asarray([1.0, 3.0, 0.0, 0.0, 2.0]))
    kept = matrix[[0, 1, 4]]
    data = np.asarray(problem.data)[[0, 1, 4]]
    got = applied(consistency.replace_range(problem, num_iters=40), x0)
    expected = x0 + (data - x0 @ kept.T) @ np.linalg.pinv(kept).T
    np.testing.assert_allclose(got, expected, atol=1e-9)
    np.testing.assert_allclose(
        problem.noise_std(), np.sqrt(np.mean([1, 1 / 3, 1 / 2])), rtol=1e-9
    )
    twice = Measurement(
        lambda x: jnp.repeat(problem.forward(x), 2),
        lambda r: problem.adjoint(r[::2] + r[1::2]),
        jnp.repeat(problem.data, 2) + jnp.asarray([0.1, -0.1] * ROWS),
        jnp.ones(()),
    )
    inverse = np.linalg.pinv(matrix)
    again = applied(consistency.replace_range(twice, num_iters=40), x0)
    expected = x0 + (np.asarray(problem.data) - x0 @ matrix.T) @ inverse.T
    np.testing.assert_allclose(again, expected, atol=1e-8)


def test_gradient_and_curvature(x64):
    problem, matrix, x0 = matrix_problem()
    normal = matrix.T @ np.diag(problem.precision.weight) @ matrix
    largest = np.linalg.eigvalsh(normal)[-1]
    found = consistency.largest_curvature(problem, num_iters=100)
    np.testing.assert_allclose(found, largest, rtol=1e-6)
    got = applied(consistency.gradient(problem, 0.3), x0)
    pulled = (problem.data - x0 @ matrix.T) * problem.precision.weight @ matrix
    np.testing.assert_allclose(got, x0 + 0.3 * pulled, rtol=1e-9)


def test_sart_sweeps_of_its_definition_and_sirt_without_weights(x64):
    problem, matrix, x0 = matrix_problem(positive=True)
    lengths, weight = matrix.sum(axis=1), np.asarray(problem.precision.weight)
    rays = lengths > 0

    def sweep(x, weight):
        per_length = weight * (np.asarray(problem.data) - x @ matrix.T)
        per_length = np.where(rays, per_length / np.where(rays, lengths, 1), 0)
        total = weight @ matrix
        seen = total > 0
        return x + 0.7 * np.where(
            seen, per_length @ matrix / np.where(seen, total, 1), 0
        )

    got = applied(consistency.sart(problem, relaxation=0.7), x0)
    np.testing.assert_allclose(got, sweep(np.asarray(x0), weight), rtol=1e-9)
    np.testing.assert_array_equal(got[:, 3], x0[:, 3])
    got = applied(consistency.sirt(problem, relaxation=0.7, num_sweeps=2), x0)
    ones = np.ones(ROWS)
    expected = sweep(sweep(np.asarray(x0), ones), ones)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


RULES = {
    "proximal": lambda p: consistency.proximal(p, num_iters=4),
    "voxelwise": lambda p: consistency.proximal_voxelwise(
        p, lambda x0, sigma: jnp.ones(DIM), num_iters=4
    ),
    "gradient": lambda p: consistency.gradient(p, 0.2),
    "sart": lambda p: consistency.sart(p, num_sweeps=2),
    "sirt": lambda p: consistency.sirt(p, num_sweeps=2),
    "replace_range": lambda p: consistency.replace_range(p, num_iters=4),
}


@pytest.mark.parametrize("name", RULES)
def test_weight_zero_is_the_identity_and_new_numbers_compile_nothing(name, x64):
    problem, _, x0 = matrix_problem(positive=True)

    @jax.jit
    def program(x0, sigma, data, weight):
        here = dataclasses.replace(problem, data=data, precision=weight)
        rule = RULES[name](here)
        return rule.apply(x0, sigma, rule.init(x0))[0]

    zero = jnp.zeros(ROWS)
    np.testing.assert_array_equal(program(x0, 0.8, problem.data, zero), x0)
    moved = program(2 * x0, 0.3, 3 * problem.data, problem.precision.weight)
    assert np.max(np.abs(moved - 2 * x0)) > 1e-2
    assert program._cache_size() == 1
    # One sample at a time gives the same as the batch.
    one = program(2 * x0[1:2], 0.3, 3 * problem.data, problem.precision.weight)
    np.testing.assert_allclose(one[0], moved[1], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact", "langevin"])
def test_conditional_draws_have_the_law_of_data_and_guess(name, x64):
    problem, matrix, x0 = matrix_problem()
    variance, count = 0.4, 4000
    if name == "exact":
        draw = consistency.perturb_and_solve(problem, num_iters=2 * DIM)
    else:
        draw = consistency.langevin(problem, num_steps=400, step=0.05)
    many = jnp.broadcast_to(x0[0], (count, DIM))
    samples = np.asarray(jax.jit(draw)(jax.random.key(0), many, variance))
    weight = np.asarray(problem.precision.weight)
    precision = matrix.T @ np.diag(weight) @ matrix + np.eye(DIM) / variance
    covariance = np.linalg.inv(precision)
    right = matrix.T @ (weight * problem.data) + x0[0] / variance
    error = samples.mean(axis=0) - covariance @ np.asarray(right)
    assert np.max(np.abs(error) / np.sqrt(np.diag(covariance) / count)) < 4
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.035)


def test_the_projector_as_measurement_gives_the_default_update(wide):
    """P2 written for tilts and P2 on functions are one rule, inside the margin."""
    whole, frame = problem_for(wide, 3.0, unit=0.5)
    problem = whole.measurement(frame)
    x = residuals()[0]
    tilts = jnp.asarray(np.random.default_rng(1).normal(size=wide.tilts_shape))
    left = jnp.vdot(problem.forward(x), tilts)
    np.testing.assert_allclose(left, jnp.vdot(x, problem.adjoint(tilts)), rtol=1e-4)
    full = whole.to_volume(x, frame)
    expected = whole.tilts - project(full, wide)
    np.testing.assert_allclose(problem.residual(x), expected, atol=1e-4)


@pytest.mark.slow
def test_p2_on_functions_is_p2_on_tilts(geometry):
    (problem, frame), x0 = problem_for(geometry, 4.0, unit=0.5), residuals()
    generic = consistency.proximal(problem.measurement(frame), num_iters=40)
    got = jax.jit(generic.apply)(x0, 0.7, ())[0]
    expected = pull(problem, frame, Metric(0.0, 1.0 / 0.5**2), 0.7, x0)
    np.testing.assert_allclose(got, expected, atol=2e-4)
