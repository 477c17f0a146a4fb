"""Mean free paths: from a section's thickness and the voltage to its opacity."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

REST_ENERGY_KEV = 511.0
# Effective atomic number of epoxy resin.
RESIN_NUMBER = 6.0
# Half-angle that an objective aperture lets through, milliradians.
APERTURE_MRAD = 10.0


def inelastic_mean_free_path_nm(
    voltage_kv: ArrayLike,
    *,
    effective_number: float = RESIN_NUMBER,
    aperture_mrad: float = APERTURE_MRAD,
) -> np.ndarray:
    """Mean distance between inelastic events of an electron, within 20 %.

        Lambda = 106 F E0 / (Em ln(2 beta E0 / Em)),   Em = 7.6 Z^0.36
        F = (1 + E0 / 1022) / (1 + E0 / 511)^2

    with E0 in keV, Em in eV and beta in milliradians.

    Args:
      voltage_kv: Acceleration voltage, any shape.
      effective_number: Z of the material.
      aperture_mrad: Half-angle of what is counted as transmitted.

    Returns:
      Nanometres, the shape of ``voltage_kv``.

    Raises:
      ValueError: A voltage that is not positive.

    Source: Malis, Cheng and Egerton, J. Electron Microsc. Tech. 8, 193 (1988).
    """
    energy = np.asarray(voltage_kv, np.float64)
    if not np.all(energy > 0):
        raise ValueError(
            f"voltage: expected kilovolts above zero, got {energy}; pass 80 to 300"
        )
    relativistic = (1 + energy / (2 * REST_ENERGY_KEV)) / (
        1 + energy / REST_ENERGY_KEV
    ) ** 2
    loss = 7.6 * effective_number**0.36
    return (
        106 * relativistic * energy / (loss * np.log(2 * aperture_mrad * energy / loss))
    )


def relative_thickness(
    thickness_nm: ArrayLike, voltage_kv: ArrayLike, *, tilt_deg: ArrayLike = 0.0
) -> np.ndarray:
    """``t / (Lambda cos(theta))`` of resin, what ``ImagingConfig.resin_path`` asks for.

    Args:
      thickness_nm: Section thickness.
      voltage_kv: Acceleration voltage.
      tilt_deg: Tilt, degrees, below 90.

    Returns:
      Path in mean free paths, broadcast over the arguments.
    """
    path = np.asarray(thickness_nm, np.float64) / np.cos(np.deg2rad(tilt_deg))
    return path / inelastic_mean_free_path_nm(voltage_kv)
