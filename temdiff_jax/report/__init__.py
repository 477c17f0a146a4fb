"""Pictures of one reconstruction; the only folder that imports matplotlib."""

from temdiff_jax.report.blocks import grey_limits
from temdiff_jax.report.page import Page, draw_page, write_page

__all__ = ["Page", "draw_page", "grey_limits", "write_page"]
