"""Weights in a few bits, for networks that are shipped for comparison.

A kernel is stored as whole numbers with one scale for each output channel.  The step is
a share of the root mean square of the channel: small steps cost bits, large ones
accuracy.  Numbers near zero are the most frequent, which an entropy coder uses.  With a
step of 0.2 a weight takes 4.5 bits and is off by 6 % of the channel's root mean square
(step / sqrt(12)).

The file is a safetensors file with one tensor of bytes: another one, compressed.
"""

from __future__ import annotations

import lzma

import numpy as np
import safetensors.numpy

BYTES = "xz"
SCALE = "scale of "
FEWEST = 1024  # weights; smaller tensors stay float16
LARGEST = 2**28  # bytes of the unpacked file
# Bytes of whole numbers depend on nothing before them: no context.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0}]


def pack(tensors: dict[str, np.ndarray], step: float) -> dict[str, np.ndarray]:
    """Tensors of a file that is small.

    Args:
      tensors: Float weights by name; the last axis of a kernel is its output channel.
      step: Step of the whole numbers over the RMS of the channel; larger where the
        largest weight would need more than 127 steps.

    Returns:
      One tensor of bytes.
    """
    inner = {}
    for name, values in tensors.items():
        weights = np.asarray(values, np.float32)
        if weights.ndim < 2 or weights.size < FEWEST:
            inner[name] = weights.astype(np.float16)
            continue
        axes = tuple(range(weights.ndim - 1))
        scale = step * np.sqrt(np.mean(weights**2, axis=axes, keepdims=True))
        scale = np.maximum(scale, np.abs(weights).max(axis=axes, keepdims=True) / 127)
        scale = np.where(scale == 0, 1, scale).astype(np.float32)
        inner[name] = np.clip(np.rint(weights / scale), -127, 127).astype(np.int8)
        inner[SCALE + name] = scale
    data = lzma.compress(safetensors.numpy.save(inner), filters=_FILTERS)
    return {BYTES: np.frombuffer(data, np.uint8)}


def unpack(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of a packed file; those of any other file as they are.

    Raises:
      ValueError: The bytes are damaged, or larger than `LARGEST` when unpacked.
    """
    if set(tensors) != {BYTES}:
        return tensors
    decoder = lzma.LZMADecompressor(memlimit=2**30)
    try:
        data = decoder.decompress(tensors[BYTES].tobytes(), max_length=LARGEST)
    except lzma.LZMAError as error:
        raise ValueError(f"packed weights that do not unpack ({error})") from error
    if not decoder.eof:
        raise ValueError(f"packed weights that end early or pass {LARGEST} bytes")
    inner = safetensors.numpy.load(data)
    return {
        name: values.astype(np.float32) * inner[SCALE + name]
        if values.dtype == np.int8
        else values
        for name, values in inner.items()
        if not name.startswith(SCALE)
    }
