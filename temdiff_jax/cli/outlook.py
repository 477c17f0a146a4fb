"""What a run will need: printed for --dry-run, refused where the machine has less."""

import dataclasses
import datetime
import json
from typing import TYPE_CHECKING, Any

import typer

from temdiff_jax.cli import outputs
from temdiff_jax.errors import InputError
from temdiff_jax.io import gate

if TYPE_CHECKING:
    from temdiff_jax.reconstruction.forecast import Forecast
    from temdiff_jax.reconstruction.plan import Plan

GIB = 2**30
# The page and the record, and the unfinished samples' part beside the volumes.
_SMALL_FILES = 8 * 2**20


@dataclasses.dataclass(frozen=True)
class Outlook:
    """A forecast beside what there is.

    Attributes:
      forecast: Of the library.
      planned: What it is about.
      resident: Bytes of this process as it is.
      free: Bytes it may still take; None where nobody knows.
      limit: Bytes of the device where it is not the host; None where unknown.
      disk: Bytes that files will take, by what they are.
    """

    forecast: "Forecast"
    planned: "Plan"
    resident: int
    free: int | None
    limit: int | None
    disk: dict[str, int]

    @classmethod
    def of(cls, planned: "Plan", *, keeps: bool) -> "Outlook":
        """The outlook of a run; ``keeps`` says whether it keeps its state."""
        from temdiff_jax.reconstruction import forecast

        size = forecast.Size.of(planned)
        found = forecast.of_plan(planned)
        disk = {"volumes": 2 * size.field, "page and record": _SMALL_FILES}
        if keeps:
            drawn = planned.choice.settings.num_samples
            parts = 10 * size.tilts + (4 + 4 * drawn) * size.wide
            disk["unfinished state"] = parts
        return cls(
            found,
            planned,
            gate.resident_bytes() or 0,
            gate.free_memory_bytes(),
            forecast.device_limit(),
            disk,
        )

    @property
    def peak(self) -> int:
        """Memory of the process at most, bytes."""
        return self.resident + self.forecast.added()

    def fits(self, found: "Forecast") -> bool:
        """Whether a run of this forecast fits into memory."""
        if self.free is not None and found.added() > self.free:
            return False
        on_device = self.limit is not None and not found.on_host
        return not (on_device and found.device_bytes > 0.9 * (self.limit or 0))

    def check(self, files: outputs.Outputs) -> None:
        """Refuses what cannot fit.

        Raises:
          InputError: With the need, what is free, and the setting that would fit.
        """
        from temdiff_jax.reconstruction import forecast

        if not self.fits(self.forecast):
            size = forecast.Size.of(self.planned)
            factor = forecast.fitting(size, self.planned, self.fits)
            advice = "no binning up to 16 fits; use a larger machine"
            if factor is not None:
                advice = f"--bin {factor} times as coarse would fit"
            device = "" if self.forecast.on_host else " on host and device"
            need = self.forecast.added() + (
                0 if self.forecast.on_host else self.forecast.device_bytes
            )
            raise InputError(
                f"memory: expected {need / GIB:.2f} GiB{device} for this run, got "
                f"{(self.free or 0) / GIB:.2f} GiB free; {advice}, or pass a smaller "
                "--thickness"
            )
        outputs.check_disk(files, self.disk)

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        found = self.forecast
        return {
            "memory_bytes": self.peak,
            "device_bytes": found.device_bytes,
            "free_bytes": self.free,
            "seconds": round(found.seconds, 1),
            "disk_bytes": sum(self.disk.values()),
            "window": found.windows,
            "windows": found.num_windows,
            "network_calls": found.calls,
            "projector_pairs": found.pairs,
            "stages": [stage._asdict() for stage in found.stages],
        }

    def line(self) -> str:
        """The need in one line."""
        free = "unknown" if self.free is None else f"{self.free / GIB:.2f} GiB free"
        return (
            f"{self.peak / GIB:.2f} GiB of memory at most ({free}), "
            f"{clock(self.forecast.seconds)} on an idle machine if compiled anew, "
            f"{sum(self.disk.values()) / GIB:.2f} GiB of disk"
        )

    def show(self, *, as_json: bool) -> None:
        """Print it, on standard output."""
        if as_json:
            typer.echo(json.dumps({"forecast": self.record()}, indent=2))
            return
        found = self.forecast
        free = "unknown" if self.free is None else f"{self.free / GIB:.2f} GiB free"
        typer.echo(f"memory    {self.peak / GIB:.2f} GiB of the host at most, {free}")
        if not found.on_host:
            limit = "unknown" if self.limit is None else f"{self.limit / GIB:.2f} GiB"
            typer.echo(f"device    {found.device_bytes / GIB:.2f} GiB of {limit}")
        for stage in found.stages:
            typer.echo(
                f"stage     {stage.name}: {clock(stage.seconds)}, arrays of "
                f"{stage.bytes / GIB:.3f} GiB"
            )
        typer.echo(
            f"time      {clock(found.seconds)} on an idle machine, if compiled anew"
        )
        disk = ", ".join(f"{n} {b / GIB:.3f}" for n, b in self.disk.items())
        typer.echo(f"disk      {sum(self.disk.values()) / GIB:.3f} GiB ({disk})")
        if found.windows is not None:
            extents = " x ".join(str(n) for n in found.windows)
            typer.echo(f"windows   {found.num_windows} of {extents} voxels (z, x, y)")
        pairs = "an unknown number of" if found.pairs is None else found.pairs
        typer.echo(f"calls     {found.calls} of the network, {pairs} projector pairs")
        if not self.fits(found):
            typer.echo("warning: this run does not fit and would be refused")


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(datetime.timedelta(seconds=round(seconds)))
