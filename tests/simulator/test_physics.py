import numpy as np
import pytest

from temdiff_jax.simulator import physics


def test_resin_at_the_usual_voltages():
    """Malis et al.'s formula for Z = 6 and 10 mrad, computed by hand to 1 nm."""
    path = physics.inelastic_mean_free_path_nm([80, 120, 200, 300])
    np.testing.assert_allclose(path, [100, 126, 161, 187], atol=1.0)


def test_faster_electrons_go_further_and_heavier_atoms_stop_more():
    path = physics.inelastic_mean_free_path_nm(np.linspace(60, 300, 20))
    assert np.all(np.diff(path) > 0)
    heavy = physics.inelastic_mean_free_path_nm(200, effective_number=30)
    assert heavy < physics.inelastic_mean_free_path_nm(200)


def test_a_tilted_section_is_thicker():
    flat = physics.relative_thickness(161.0, 200)
    assert flat == pytest.approx(1.0, abs=0.01)
    assert physics.relative_thickness(161.0, 200, tilt_deg=60) == pytest.approx(
        2 * flat
    )


def test_no_voltage_is_refused():
    with pytest.raises(ValueError, match="kilovolts above zero, got 0.0"):
        physics.inelastic_mean_free_path_nm(0)
