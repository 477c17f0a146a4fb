import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.inverse import precision
from temdiff_jax.series.weighting import robust

SHAPE = (4, 30, 25)


@pytest.mark.slow
def test_chi2_of_expected_errors_is_one_with_any_precision():
    weight = jnp.linspace(0.5, 3.0, 4)[:, None, None] * jnp.ones(SHAPE)
    keep = jnp.ones(SHAPE).at[:, :6].set(0.0).at[3].set(0.0)
    columns = 2 * jax.random.normal(jax.random.key(1), (4, 2, *SHAPE[1:]))
    for built in (
        precision.diagonal(weight * keep),
        precision.low_rank(weight * keep, columns),
    ):
        residual = built.sample(jax.random.key(0), SHAPE)
        chi2 = robust.chi2_per_tilt(residual, built, keep)
        # Five standard errors of 600 squares.
        np.testing.assert_allclose(chi2[:3], 1.0, atol=5 * np.sqrt(2 / 600))
        assert float(chi2[3]) == 0
        spoilt = jnp.where(keep > 0, residual, 1e3)
        np.testing.assert_allclose(
            robust.chi2_per_tilt(spoilt, built, keep), chi2, rtol=1e-5
        )
    plain = jnp.asarray(weight * keep)
    residual = jax.random.normal(jax.random.key(2), SHAPE)
    np.testing.assert_allclose(
        robust.chi2_per_tilt(residual, plain),
        robust.chi2_per_tilt(residual, precision.diagonal(plain)),
        rtol=1e-6,
    )


def test_factors_never_raise_a_weight():
    chi2 = jnp.asarray([0.0, 0.5, 1.0, 4.0, 100.0])
    np.testing.assert_allclose(robust.tilt_factors(chi2), [1, 1, 1, 0.25, 0.01])
    np.testing.assert_allclose(
        robust.tilt_factors(chi2, jnp.median(chi2[1:])), [1, 1, 1, 0.625, 0.025]
    )
