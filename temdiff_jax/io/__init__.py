"""Files in and out, on the host: nothing here knows about devices.

Every reader stands behind `gate`, which compares what a header declares with the
bytes that are there before memory is taken. Bad input is one line, an `InputError`.
"""

from temdiff_jax.io.alignment.aln import AlnTable, read_aln
from temdiff_jax.io.alignment.angles import AngleTable, read_angles
from temdiff_jax.io.alignment.imod import XfTable, read_xf
from temdiff_jax.io.alignment.mdoc import MdocTable, read_mdoc
from temdiff_jax.io.alignment.record import Alignment
from temdiff_jax.io.alignment.relion import read_relion_star
from temdiff_jax.io.alignment.warp import read_warp_xml
from temdiff_jax.io.axis import tilts_from_file, volume_to_file
from temdiff_jax.io.binning import bin_stack
from temdiff_jax.io.formats import Image, read_image
from temdiff_jax.io.formats.tiff import write_tiff
from temdiff_jax.io.gate import DEFAULT_MAX_INPUT_GB
from temdiff_jax.io.projects import Decision
from temdiff_jax.io.tilt_series import (
    Selection,
    TiltSeries,
    file_sha256,
    load_tilt_series,
    tilt_series_from_arrays,
)
from temdiff_jax.io.write import (
    check_output,
    write_bytes,
    write_json,
    write_mrc,
    write_text,
    write_tlt,
)

__all__ = [
    "DEFAULT_MAX_INPUT_GB",
    "Alignment",
    "AlnTable",
    "AngleTable",
    "Decision",
    "Image",
    "MdocTable",
    "Selection",
    "TiltSeries",
    "XfTable",
    "bin_stack",
    "check_output",
    "file_sha256",
    "load_tilt_series",
    "read_aln",
    "read_angles",
    "read_image",
    "read_mdoc",
    "read_relion_star",
    "read_warp_xml",
    "read_xf",
    "tilt_series_from_arrays",
    "tilts_from_file",
    "volume_to_file",
    "write_bytes",
    "write_json",
    "write_mrc",
    "write_text",
    "write_tiff",
    "write_tlt",
]
