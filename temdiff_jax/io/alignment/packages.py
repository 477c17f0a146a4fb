"""The packages whose alignments are known: records and conversions, by name.

Everything is converted to one statement.  Content at r, in voxels from the volume's
centre (n - 1) / 2, appears at p, in pixels from the image's centre:

    p = t + m Rz(psi) ((a, 0) + [Ry(theta) Rx(chi) r] without z)

Packages differ from it in the sign of the angles, in the direction of the shift,
in its unit and in the index that they call the centre.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from temdiff_jax.io import gate
from temdiff_jax.io.alignment.aln import AreTomoAlignment, from_aretomo, to_aretomo
from temdiff_jax.io.alignment.imod import ImodAlignment, from_imod, to_imod
from temdiff_jax.io.alignment.record import Alignment
from temdiff_jax.io.alignment.relion import RelionAlignment, from_relion, to_relion
from temdiff_jax.io.alignment.warp import WarpAlignment, from_warp, to_warp


class Package(NamedTuple):
    """What is known of a package: its record and the two conversions."""

    record: type
    to_own: Callable[..., Alignment]
    from_own: Callable[..., NamedTuple]


PACKAGES = {
    "imod": Package(ImodAlignment, from_imod, to_imod),
    "aretomo": Package(AreTomoAlignment, from_aretomo, to_aretomo),
    "relion": Package(RelionAlignment, from_relion, to_relion),
    "warp": Package(WarpAlignment, from_warp, to_warp),
}


def find(name: str) -> Package:
    """The package of this name; refuses those whose signs nobody has checked."""
    if name.lower() not in PACKAGES:
        raise gate.bad_input(
            "package",
            f"one of {', '.join(PACKAGES)}",
            repr(name),
            "its signs are not known here; find them with a reprojection and fill an "
            "io.alignment.Alignment",
        )
    return PACKAGES[name.lower()]
