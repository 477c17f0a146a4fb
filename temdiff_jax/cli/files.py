"""Reads an image file of any known format, chosen by the ending of its name."""

import pathlib

from temdiff_jax.errors import InputError
from temdiff_jax.io import mrc, npz, tiff

Image = mrc.MrcImage | npz.NpzImage | tiff.TiffImage


def read_image(path: pathlib.Path) -> Image:
    """Volume [z, y, x] or stack [n_tilts, y, x] with what its file says about it.

    Raises:
      InputError: If the ending is unknown or the file is damaged.
    """
    suffix = path.suffix.lower()
    if mrc.is_mrc_name(path):
        return mrc.read_mrc(path)
    if suffix in (".tif", ".tiff"):
        return tiff.read_tiff(path)
    if suffix in (".npz", ".npy"):
        return npz.read_npz(path)
    raise InputError(
        f"{path}: expected a file of the MRC family, .tif, .npz or .npy, got "
        f"{suffix or 'no ending'}; rename or convert the file"
    )


def carries_angles(image: Image) -> bool:
    """Whether the file itself has tilt angles."""
    if isinstance(image, mrc.MrcImage):
        return image.tilt_angles_deg is not None
    return isinstance(image, npz.NpzImage) and image.angles_deg is not None
