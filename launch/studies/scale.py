"""What reconstructions of large volumes need, by arithmetic: docs/scale.md.

    python -m launch.studies.scale --out=docs/scale_table.md

Every figure follows from extents, the configuration of the network and the numbers of
`Machine`, which are assumptions about a device, not measurements.  What the formulas
say of small cases is compared with compiled programs in
tests/launch/studies/test_scale.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags

from launch import program
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import lateral_margin_for
from temdiff_jax.io import write
from temdiff_jax.model import NetworkConfig
from temdiff_jax.reconstruction import forecast, plan, tiling

FLOAT = 4
FIELDS = 3  # what a network is shown a voxel: noisy volume, estimate, coverage
# Operations of a projection with its adjoint, per tilt and voxel: two taps each way, a
# product and a sum each.
PAIR_FLOP = 8
# Bytes of the same where no tap is found in a cache: two taps read each way.
PAIR_BYTES = 4 * FLOAT
SAMPLES, STEPS, NUM_TILTS, HALF_RANGE_DEG = 8, 8, 41, 20.0
VOLUMES = ((512, 512, 128), (1024, 1024, 256), (4096, 4096, 512))
DEVICES = (1, 8, 256)


@dataclasses.dataclass(frozen=True)
class Machine:
    """A device as it is assumed: an accelerator of 80 GB and its links.

    Attributes:
      flops: Operations a second that a network reaches.
      memory_bytes: Of the device.
      bandwidth: Bytes a second of its memory.
      link: Bytes a second to a neighbour.
      host_bytes: Memory of the host of a process.
    """

    flops: float = 100e12
    memory_bytes: float = 80e9
    bandwidth: float = 2e12
    link: float = 50e9
    host_bytes: float = 1e12


class Layer(NamedTuple):
    """A convolution: edge of its voxels, channels in and out, taps along an axis."""

    edge: int
    channels: int
    features: int
    taps: int


def layers(config: NetworkConfig) -> Iterator[Layer]:
    """Convolutions and dense layers of the U-Net of a 3-D network, in no order."""
    patch, widths = config.patch, config.channels
    fields = (FIELDS + config.refines) * patch**3
    yield Layer(patch, fields, widths[0], 3 if patch == 2 else 1)
    last = len(widths) - 1
    for level, (width, blocks) in enumerate(zip(widths, config.blocks)):
        edge = patch * 2**level
        for _ in range(2 * (blocks + (level < last))):
            yield Layer(edge, width, width, 3)
        if level:
            yield Layer(edge, 8 * widths[level - 1], width, 1)
        if level < last:
            # Computed on the coarser level, eight voxels at once.
            yield Layer(2 * edge, widths[level + 1], 8 * width, 1)
            yield Layer(edge, 2 * width, width, 1)
    yield Layer(patch, widths[0], patch**3, 3)
    if config.log_variance:
        yield Layer(patch, widths[0], patch**3, 3)
    if config.filters:
        yield Layer(patch, patch**3, config.filters * patch**3, 1)


def network_flop(config: NetworkConfig) -> float:
    """Operations of one call per voxel."""
    return sum(
        2.0 * layer.taps**3 * layer.channels * layer.features / layer.edge**3
        for layer in layers(config)
    )


def halo_bytes(config: NetworkConfig, face: int) -> float:
    """Bytes that a device sends in one call to both neighbours along y.

    Args:
      config: Of the network.
      face: Voxels of a slice of constant y.
    """
    return sum(
        2.0 * FLOAT * layer.channels * face / layer.edge**2
        for layer in layers(config)
        if layer.taps > 1
    )


class Need(NamedTuple):
    """What one device of a mesh needs, bytes, operations and seconds."""

    shares: int
    slabs: int
    memory: float
    host: float
    network_flop: float
    projector_flop: float
    projector_bytes: float
    halo: float
    storage: float
    seconds: float
    breaks: str


def window_share(
    extents: tuple[int, int, int], choice: plan.Choice, *, whole_rows: bool
) -> float:
    """Voxels that the network works on over those of a volume: windows overlap.

    Of extents ``(z, x, y)``; on slabs of y it is given all rows at once.
    """
    assert choice.prior is not None
    multiple = choice.prior.network.config.multiple
    share = 1.0
    windows = choice.settings.windows
    if whole_rows:
        windows = (*windows[:2], extents[2])
    for n, most in zip(extents, windows, strict=True):
        padded = n + -n % multiple
        size = min(padded, most)
        share *= size * len(tiling.window_starts(padded, size)) / n
    return share


def need(
    extents: tuple[int, int, int],
    devices: int,
    choice: plan.Choice,
    machine: Machine,
) -> Need:
    """What a volume ``(x, y, z)`` needs on so many devices.

    Raises:
      InputError: They do not divide the work.
    """
    assert choice.prior is not None
    width, height, depth = extents
    config, settings = choice.prior.network.config, choice.settings
    shares, slabs = plan.division(choice, height, devices)
    angles = np.linspace(-HALF_RANGE_DEG, HALF_RANGE_DEG, NUM_TILTS)
    margin = lateral_margin_for(angles, depth, width)
    rows = height // slabs
    drawn = settings.num_samples // shares
    local = forecast.Size(NUM_TILTS, rows, width, depth, margin)
    whole = forecast.Size(NUM_TILTS, height, width, depth, margin)
    here = dataclasses.replace(
        choice,
        settings=dataclasses.replace(settings, rows=rows, num_samples=drawn),
    )
    found = forecast.predict(local, here, "adaptive", angles)
    calls, voxels = 1 + drawn * settings.num_steps, depth * width * rows
    share = window_share((depth, width, height), choice, whole_rows=slabs > 1)
    flop = network_flop(config) * voxels * share * calls
    solves = (1 + forecast.SOLVES["adaptive"]) * 41 + settings.mean_cg_iters + 1
    pairs = solves + drawn * settings.num_steps * (settings.cg_iters + 1)
    rays = NUM_TILTS * local.wide / FLOAT
    # A window is exchanged by itself; the Laplacian of every solve exchanges a slice.
    face = depth * width * share
    halo = halo_bytes(config, int(face)) * calls + 2.0 * local.wide / rows * pairs
    halo = halo if slabs > 1 else 0.0
    host = 4.0 * whole.tilts + (6 + 3 * settings.num_samples) * whole.field
    seconds = (
        flop / machine.flops
        + rays * PAIR_BYTES * pairs / machine.bandwidth
        + halo / machine.link
    )
    broken = []
    if found.device_bytes > machine.memory_bytes:
        broken.append("device memory")
    if host > machine.host_bytes:
        broken.append("host memory")
    return Need(
        shares,
        slabs,
        float(found.device_bytes),
        host,
        flop,
        rays * PAIR_FLOP * pairs,
        rays * PAIR_BYTES * pairs,
        halo,
        whole.tilts + (2.0 + settings.num_samples) * whole.field,
        seconds,
        ", ".join(broken),
    )


def table(choice: plan.Choice, machine: Machine) -> Iterator[str]:
    """Lines of a table in Markdown, a row for each volume and number of devices."""
    yield (
        "| volume (x, y, z) | devices | mesh | memory a device, GB | host, GB "
        "| network, TFLOP a device | projector, TFLOP | projector, TB | halo, GB "
        "| storage, GB | minutes | breaks at |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for extents in VOLUMES:
        name = " x ".join(map(str, extents))
        for devices in DEVICES:
            try:
                row = need(extents, devices, choice, machine)
            except InputError:
                yield f"| {name} | {devices} | none |" + " |" * 8 + " division |"
                continue
            cells = [
                f"{row.shares} x {row.slabs}",
                f"{row.memory / 1e9:.1f}",
                f"{row.host / 1e9:.0f}",
                f"{row.network_flop / 1e12:.0f}",
                f"{row.projector_flop / 1e12:.1f}",
                f"{row.projector_bytes / 1e12:.1f}",
                f"{row.halo / 1e9:.1f}",
                f"{row.storage / 1e9:.0f}",
                f"{row.seconds / 60:.1f}",
                row.breaks or "-",
            ]
            yield f"| {name} | {devices} | " + " | ".join(cells) + " |"


def main(argv: Sequence[str]) -> None:
    """Writes the table, or prints it."""
    given = flags.FLAGS
    with program.refusals("scale", argv):
        choice = plan.choose(num_samples=SAMPLES, num_steps=STEPS)
        text = "".join(f"{line}\n" for line in table(choice, Machine()))
        if given.out:
            write.write_text(given.out, text, overwrite=True)
        print(text, end="")


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Where the table is written; default nowhere.")
    app.run(main)
