"""Files in and out, on the host: nothing here knows about devices.

Every reader stands behind `gate`, which compares what a header declares with the
bytes that are there before memory is taken. Bad input is one line, an `InputError`.
"""

from temdiff_jax.io.aln import AlnTable, read_aln
from temdiff_jax.io.axis import tilts_from_file, volume_to_file
from temdiff_jax.io.binning import bin_stack
from temdiff_jax.io.conventions import Alignment
from temdiff_jax.io.gate import DEFAULT_MAX_INPUT_GB
from temdiff_jax.io.mrc import MrcImage, read_mrc
from temdiff_jax.io.npz import NpzImage, read_npz
from temdiff_jax.io.package_files import read_relion_star, read_warp_xml
from temdiff_jax.io.side_files import (
    AngleTable,
    MdocTable,
    XfTable,
    read_angles,
    read_mdoc,
    read_xf,
)
from temdiff_jax.io.tiff import TiffImage, read_tiff, write_tiff
from temdiff_jax.io.tilt_series import (
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
    "MdocTable",
    "MrcImage",
    "NpzImage",
    "TiffImage",
    "TiltSeries",
    "XfTable",
    "bin_stack",
    "check_output",
    "file_sha256",
    "load_tilt_series",
    "read_aln",
    "read_angles",
    "read_mdoc",
    "read_mrc",
    "read_npz",
    "read_relion_star",
    "read_tiff",
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
