"""Pictures of one reconstruction; the only folder that imports matplotlib."""

from temdiff_jax.report.blocks import grey_limits
from temdiff_jax.report.page import draw_page, write_page

__all__ = ["draw_page", "grey_limits", "write_page"]
