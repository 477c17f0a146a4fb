"""Obligations of every published sampler, and what is known of some of them."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, gaussian, methods, schedule
from temdiff_jax.diffusion.methods import unguided
from temdiff_jax.errors import InputError

# Each of these compiles for seconds.

PROBLEM = gaussian.make_problem(4, 2, seed=3)
STEPS = 4
NAMES = list(methods.SAMPLERS)
# Those that compile in a second or two; the others are among the slow tests.
QUICK = ("proximal-ddim", "ddnm", "dds", "diffpir")
# Those that draw nothing after their start.
DETERMINISTIC = ("fmct", "efmct")


def cheap(name):
    """The sampler with few solver iterations, where it has any."""
    make = methods.SAMPLERS[name]
    known = inspect.signature(make).parameters
    few = {"num_iters": 3, "inner_steps": 3, "ode_steps": 2, "every": 2, "average": 2}
    return functools.partial(make, **{k: v for k, v in few.items() if k in known})


def build(name, sigmas, problem=PROBLEM):
    return cheap(name)(
        gaussian.denoiser(problem.prior), gaussian.measurement(problem), sigmas=sigmas
    )


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_obligations(name):
    """One program for all numbers; the key decides; chunks, vmap give the same."""
    sigmas = schedule.karras(STEPS)

    @jax.jit
    def run(key, problem, sigmas, x):
        # The whole state, as chunks return it: what nobody reads is compiled away,
        # and the rest may then be rounded in another order.
        return algebra.run(build(name, sigmas, problem).kernel, key, x, sigmas)[0]

    def program(*arguments):
        return run(*arguments).x

    @jax.jit
    def two_steps(key, problem, sigmas, state, start):
        kernel = build(name, sigmas, problem).kernel
        return algebra.run_steps(kernel, key, state, sigmas, start, 2)[0]

    key, method = jax.random.key(0), build(name, sigmas)
    x = method.start(jax.random.key(2), (3, 4))
    assert x.shape == (3, 4)
    first = program(key, PROBLEM, sigmas, x)
    assert first.shape == (3, 4) and first.dtype == sigmas.dtype
    assert np.all(np.isfinite(first))
    np.testing.assert_array_equal(program(key, PROBLEM, sigmas, x), first)
    other = np.max(np.abs(program(jax.random.key(1), PROBLEM, sigmas, x) - first))
    assert other == 0 if name in DETERMINISTIC else other > 1e-5
    louder = PROBLEM._replace(data=PROBLEM.data + 1, noise_std=jnp.float32(0.3))
    assert np.max(np.abs(program(key, louder, 0.9 * sigmas, x) - first)) > 1e-3
    assert run._cache_size() == 1

    state = method.kernel.init(x)
    for start in range(0, STEPS, 2):
        state = two_steps(key, PROBLEM, sigmas, state, jnp.int32(start))
    assert two_steps._cache_size() == 1
    np.testing.assert_array_equal(state.x, first)

    keys = jnp.stack([jax.random.key(1), key])
    many = jax.jit(jax.vmap(program, (0, None, None, None)))(keys, PROBLEM, sigmas, x)
    np.testing.assert_allclose(many[1], first, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dps", "mmps", "sitcom", "pnp-flow"])
def test_network_calls_are_as_many_as_stated(name):
    sigmas, calls = schedule.karras(2), []
    inner = gaussian.denoiser(PROBLEM.prior)

    def denoise(x, sigma):
        calls.append(float(sigma))
        return inner(x, sigma)

    with jax.disable_jit():
        method = cheap(name)(denoise, gaussian.measurement(PROBLEM), sigmas=sigmas)
        algebra.draw(method, jax.random.key(0), (1, 4))
    assert len(calls) == 2 * method.calls


def scores(make, condition, count=2048, **options):
    problem = gaussian.make_problem(condition=condition, seed=6)
    key = jax.random.key(0)
    return gaussian.score(
        lambda denoise, data: make(denoise, data, **options), problem, key, count=count
    )


# Name -> (prior, options with which it is exact but for the steps).
EXACT = {
    "proximal-ddim": (1.0, {"num_iters": 16, "eta": 0.0}),
    "mmps": (10.0, {"num_iters": 8, "eta": 0.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_exact_rules_draw_from_the_posterior(name, x64):
    condition, options = EXACT[name]
    sigmas = schedule.karras(150, sigma_max=80.0, sigma_min=0.005)
    make = methods.SAMPLERS[name]
    found = scores(make, condition, sigmas=sigmas, **options)
    assert np.all(np.abs(found.mean_error) < 4 * found.standard_error())
    assert np.all((found.variance_ratio > 0.8) & (found.variance_ratio < 1.25))


@pytest.mark.slow
def test_hard_consistency_fits_the_noise_by_construction(x64):
    found = scores(unguided.ddnm, 10.0, count=256, sigmas=schedule.karras(30))
    seen = found.seen()
    assert np.all(found.variance_ratio[seen] < 1e-6)
    assert np.all(found.variance_ratio[~seen] > 0.3)


@pytest.mark.slow
def test_decoupled_draws_spread_too_far_where_the_data_are_silent(x64):
    """The fixed point of V <- (V + s^2) / (1 + s^2) + s^2 is 2 + s^2, not 1."""
    sigmas = schedule.karras(120, sigma_min=0.1)
    found = scores(unguided.daps, 1.0, count=1024, sigmas=sigmas)
    assert np.all(found.variance_ratio[~found.seen()] > 1.3)


@pytest.mark.usefixtures("optimised")
def test_dds_with_many_steps_is_ddnm():
    sigmas = schedule.karras(STEPS)
    data, denoise = gaussian.measurement(PROBLEM), gaussian.denoiser(PROBLEM.prior)
    key = jax.random.key(0)
    dds = unguided.dds(denoise, data, sigmas=sigmas, num_iters=30)
    ddnm = unguided.ddnm(denoise, data, sigmas=sigmas)
    np.testing.assert_array_equal(
        algebra.draw(dds, key, (2, 4)), algebra.draw(ddnm, key, (2, 4))
    )


@pytest.mark.slow
def test_a_step_of_dps_is_that_of_the_paper_in_its_own_scale(x64):
    """Variance preserving: x' = ancestral - zeta grad |y - A x0(x_vp)|."""
    problem = gaussian.make_problem(4, 2, seed=3)
    data, denoise = gaussian.measurement(problem), gaussian.denoiser(problem.prior)
    sigma, after = 1.7, 1.1
    ab, ab_next = 1 / (1 + sigma**2), 1 / (1 + after**2)
    method = methods.SAMPLERS["dps"](
        denoise, data, sigmas=jnp.asarray([sigma, after]), scale=0.7
    )
    x = jnp.asarray([[0.3, -1.0, 2.0, 0.1]])
    kernel, key = method.kernel, jax.random.key(0)
    got = kernel.step(key, kernel.init(x), sigma, after)[0].x * jnp.sqrt(ab_next)

    def norm(x_vp):
        x0 = denoise(x_vp / jnp.sqrt(ab), sigma)
        return jnp.linalg.norm(data.residual(x0[0]))

    x_vp = x * jnp.sqrt(ab)
    x0, ratio = denoise(x, sigma), ab / ab_next
    mean = (
        jnp.sqrt(ab_next) * (1 - ratio) * x0 + jnp.sqrt(ratio) * (1 - ab_next) * x_vp
    ) / (1 - ab)
    spread = jnp.sqrt((1 - ab_next) / (1 - ab) * (1 - ratio))
    noise = jax.random.normal(key, x.shape, x.dtype)
    zeta = 0.7 * 0.1 * np.sqrt(2)
    expected = mean + spread * noise - zeta * jax.grad(norm)(x_vp)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.slow
def test_resampling_has_the_law_of_the_paper_in_its_own_scale():
    """N((q sqrt(ab') xf + (1-ab') x') / (q + 1-ab'), q (1-ab') / (q + 1-ab'))."""
    data, denoise = gaussian.measurement(PROBLEM), gaussian.denoiser(PROBLEM.prior)
    sigma, after = 1.7, 1.1
    ab, ab_next = 1 / (1 + sigma**2), 1 / (1 + after**2)
    method = unguided.resample(denoise, data, sigmas=jnp.ones(2), every=1)
    x = jnp.broadcast_to(jnp.asarray([0.3, -1.0, 2.0, 0.1]), (20000, 4))
    kernel = method.kernel
    levels = jnp.asarray([sigma, after])
    got = kernel.step(jax.random.key(0), kernel.init(x), *levels)[0].x
    got = np.asarray(got) * np.sqrt(ab_next)
    x0 = np.asarray(denoise(x[:1], sigma))[0]
    matrix = np.asarray(PROBLEM.matrix)
    fitted = x0 + np.linalg.pinv(matrix) @ (np.asarray(PROBLEM.data) - matrix @ x0)
    plain = np.sqrt(ab_next) * (x0 + after * (np.asarray(x[0]) - x0) / sigma)
    q = 40 * (1 - ab_next) / (1 - ab) * (1 - ab / ab_next)
    total = q + 1 - ab_next
    mean = (q * np.sqrt(ab_next) * fitted + (1 - ab_next) * plain) / total
    np.testing.assert_allclose(got.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(got.var(axis=0), q * (1 - ab_next) / total, rtol=0.05)


@pytest.mark.parametrize(
    "table", [methods.RULES, methods.SAMPLERS, methods.SOLVERS, methods.SCHEDULES]
)
def test_tables_find_their_names_and_list_them_otherwise(table):
    for name, entry in table.items():
        assert methods.named("rule", name, table) is entry
        assert methods.named("rule", entry, table) is entry
        assert inspect.getdoc(entry)
    near = f"rule: expected one of.*{min(table)}.*got '{min(table)}x'; did you mean"
    with pytest.raises(InputError, match=near):
        methods.named("rule", min(table) + "x", table)
