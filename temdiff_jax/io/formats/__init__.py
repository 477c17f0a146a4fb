"""Files of images: one record, `record.Image`, and one table of readers, `table`."""

from temdiff_jax.io.formats.record import Image
from temdiff_jax.io.formats.table import FORMATS, Format, format_of, read_image, stem

__all__ = ["FORMATS", "Format", "Image", "format_of", "read_image", "stem"]
