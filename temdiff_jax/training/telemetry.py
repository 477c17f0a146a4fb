"""Metrics and pictures of a run as TensorBoard event files.

Written by tensorboardX, an optional package of 90 kB that needs protobuf and neither
TensorFlow nor PyTorch; to look at them, install ``tensorboard`` anywhere and pass it
the folder.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from temdiff_jax.errors import InputError

# A run that is killed loses the curves of so many seconds.
FLUSH_SECONDS = 30
# Black and white of a picture.
GREY_PERCENTILES = (0.5, 99.5)


class EventFiles:
    """A folder of event files; use it as a context manager.

    The file is begun with the first value.  A run that goes on after a crash repeats
    steps: what an earlier file says from its first step on is then hidden.

    Args:
      folder: Made if it is missing.

    Raises:
      InputError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | Path):
        try:
            self._library: Any = importlib.import_module("tensorboardX")
        except ModuleNotFoundError as error:
            raise InputError(
                "tensorboard: expected the package tensorboardX, got none; install it "
                "with pip install 'temdiff_jax[train]', or leave event files out"
            ) from error
        self._folder = Path(folder)
        self._writer: Any = None

    def __enter__(self) -> EventFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves at a step; ``a/b`` is curve b of group a.

        Values that are not finite are left out: TensorBoard draws them at the edge.
        """
        writer = self._begun(step)
        for name, value in values.items():
            if math.isfinite(value):
                writer.add_scalar(name, float(value), step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Grey pictures ``[row, column]`` of any range, row 0 at the bottom."""
        writer = self._begun(step)
        for name, picture in pictures.items():
            writer.add_image(name, grey(picture), step, dataformats="HW")

    def flush(self) -> None:
        """Brings everything to the disk."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _begun(self, step: int) -> Any:
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = self._library.SummaryWriter(
                str(self._folder),
                purge_step=step,
                flush_secs=FLUSH_SECONDS,
                # Names hold whole seconds, and a file of the same name is replaced.
                filename_suffix=f".{step}",
            )
        return self._writer


def grey(picture: np.ndarray) -> np.ndarray:
    """``[row, column]`` as uint8 between its percentiles, row 0 turned to the bottom.

    Raises:
      ValueError: Not two axes, or not finite.
    """
    values = np.asarray(picture, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(
            f"picture: expected finite values [row, column], got shape {values.shape}; "
            "cut volumes into slices first"
        )
    low, high = np.percentile(values, GREY_PERCENTILES)
    share = (values - low) / max(high - low, 1e-12)
    return np.rint(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8)[::-1]
