"""How the tilts of a series lie: one record, and what every package writes about it."""

from temdiff_jax.io.alignment.angles import AngleTable, read_angles
from temdiff_jax.io.alignment.mdoc import MdocTable, read_mdoc
from temdiff_jax.io.alignment.record import Alignment

__all__ = ["Alignment", "AngleTable", "MdocTable", "read_angles", "read_mdoc"]
