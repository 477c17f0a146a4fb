"""Every rule and every published sampler under every form of precision."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.diffusion import algebra, guidance, methods, schedule
from temdiff_jax.inverse import precision
from temdiff_jax.inverse.problem import Measurement

TILTS, ROWS, HEIGHT = 3, 4, 2  # data [n, u, y]
VOLUME = (2, 4, 2)  # z, x, y
FORMS = ("array", "masked", "low-rank")
# Take W = 1, masked data apart, by their papers.
UNWEIGHTED = ("sirt", "replace-range", "none")
UNWEIGHTED_SAMPLERS = (
    *("ddnm", "dds", "dds-3d", "resample", "fmct", "efmct", "red-diff"),
    *("diffusion-mbir", "dolce"),
)


def weights(form: str):
    """An array ``[n, u, y]``, or a precision with modes."""
    rng = np.random.default_rng(4)
    weight = rng.uniform(0.5, 2.0, (TILTS, ROWS, HEIGHT)).astype(np.float32)
    if form != "array":
        weight[1, 2, 0] = weight[2, :, 1] = 0.0
    if form != "low-rank":
        return jnp.asarray(weight)
    columns = 2.0 * rng.normal(size=(TILTS, 2, ROWS, HEIGHT)).astype(np.float32)
    return precision.low_rank(jnp.asarray(weight), jnp.asarray(columns))


def measurement(form: str) -> Measurement:
    return weighted(weights(form))


def weighted(built) -> Measurement:
    """One non-negative matrix for every row of y, as tilts about y are."""
    rng = np.random.default_rng(3)
    matrix = jnp.asarray(rng.uniform(0.0, 1.0, (TILTS * ROWS, 8)), jnp.float32)
    data = jnp.asarray(rng.normal(size=(TILTS, ROWS, HEIGHT)), jnp.float32)
    return Measurement(
        lambda x: (matrix @ x.reshape(8, HEIGHT)).reshape(data.shape),
        lambda r: (matrix.T @ r.reshape(-1, HEIGHT)).reshape(VOLUME),
        data,
        built,
    )


def misfit(data: Measurement, volumes) -> np.ndarray:
    def one(x):
        residual = data.residual(x)
        return jnp.sum(residual * (data.precision * residual))

    return np.asarray(jax.vmap(one)(volumes))


@functools.cache
def pulled(name: str, form: str):
    data = measurement(form)
    rule = methods.RULES[name](data)
    x0 = jax.random.normal(jax.random.key(0), (2, *VOLUME))
    moved, _ = jax.jit(rule.apply)(x0, jnp.float32(3.0), rule.init(x0))
    return x0, moved


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", methods.RULES)
def test_a_rule_pulls_toward_the_data_in_its_own_norm(name, form):
    x0, moved = pulled(name, form)
    assert moved.shape == x0.shape and moved.dtype == x0.dtype
    data = measurement(form)
    norm = data.unweighted() if name in UNWEIGHTED else data
    before, after = misfit(norm, x0), misfit(norm, moved)
    if name == "none":
        np.testing.assert_array_equal(moved, x0)
    else:
        assert np.all(after < before)


@pytest.mark.parametrize("name", methods.RULES)
def test_coherent_errors_matter_to_every_rule_that_takes_weights(name):
    masked, coherent = pulled(name, "masked")[1], pulled(name, "low-rank")[1]
    change = float(jnp.max(jnp.abs(masked - coherent)))
    assert change < 1e-5 if name in UNWEIGHTED else change > 1e-3


def denoise(x, sigma):
    """The exact denoiser of white data."""
    return x / (1.0 + sigma**2)


def cheap(name: str):
    make = methods.SAMPLERS[name]
    known = inspect.signature(make).parameters
    few = {"num_iters": 3, "inner_steps": 3, "ode_steps": 2, "every": 2, "average": 2}
    return functools.partial(make, **{k: v for k, v in few.items() if k in known})


@functools.cache
def program(name: str):
    """Compiled once for weights and masks, once more for modes."""

    @jax.jit
    def draw(key, built):
        sampler = cheap(name)(denoise, weighted(built), sigmas=schedule.karras(4))
        return algebra.draw(sampler, key, (2, *VOLUME))

    return draw


@functools.cache
def drawn(name: str, form: str):
    return np.asarray(program(name)(jax.random.key(1), weights(form)))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", methods.SAMPLERS)
def test_a_sampler_takes_every_form_of_precision(name, form):
    samples = drawn(name, form)
    assert samples.shape == (2, *VOLUME) and np.all(np.isfinite(samples))


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.SAMPLERS)
def test_coherent_errors_matter_to_every_sampler_that_takes_weights(name):
    change = np.max(np.abs(drawn(name, "masked") - drawn(name, "low-rank")))
    assert change < 1e-3 if name in UNWEIGHTED_SAMPLERS else change > 1e-4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", ["sure_guess", "residual_norm", "white_guess"])
def test_guidance_takes_every_form_of_precision(direction, form):
    make = getattr(guidance, direction)
    options = {"num_iters": 4} if direction == "white_guess" else {}
    q = make(measurement(form), **options)
    x0 = jax.random.normal(jax.random.key(0), (2, *VOLUME))
    assert np.all(np.isfinite(q(x0, jnp.float32(0.7))))


@pytest.mark.parametrize("name", ["dps", "pigdm", "mcg"])
def test_value_and_gradient_come_from_one_call_of_the_network(name):
    sampler = cheap(name)(denoise, measurement("array"), sigmas=schedule.karras(2))
    assert (sampler.calls, sampler.backward) == (1, 1)
    calls = []

    def counted(x, sigma):
        calls.append(1)
        return denoise(x, sigma)

    with jax.disable_jit():
        method = cheap(name)(counted, measurement("array"), sigmas=schedule.karras(2))
        algebra.draw(method, jax.random.key(0), (1, *VOLUME))
    assert len(calls) == 2
