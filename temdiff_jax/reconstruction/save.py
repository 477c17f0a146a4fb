"""The files of a finished run, the same from the command and from Python."""

from __future__ import annotations

import datetime
import hashlib
import pathlib
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from temdiff_jax import baselines
from temdiff_jax.io import axis, images, write
from temdiff_jax.io.formats import ome_zarr
from temdiff_jax.reconstruction import again, intervals, notes
from temdiff_jax.trust import verdict

if TYPE_CHECKING:
    from temdiff_jax import report
    from temdiff_jax.reconstruction.api import Result

RECORD_FORMAT = "temdiff-run-1"
# Endings of volumes by the name of their format.
VOLUMES = {"mrc": ".mrc", "ome-zarr": ".ome.zarr"}
CAVEAT = verdict.CAVEAT


def labels(result: Result, digest: str) -> list[str]:
    """What tells a lost file's origin, a line of at most 80 characters each.

    Args:
      result: Of the run.
      digest: SHA-256 of the input.
    """
    made = result.provenance
    prior = made["prior"]["name"] if made["prior"] else "none"
    drawn = [f"{made['num_samples']} samples of {made['num_steps']} steps"]
    grey, angles = made["intensity"], made["angles_deg"]
    return [
        f"prior {prior}, seed {made['key'][-1]}, method {made['method']}",
        *(drawn if made["draws"] else []),
        f"logarithm {grey['log']}, dense matter is {grey['dense_is']}",
        f"run {made.get('run', 'of several')}, input sha256 {digest[:16]}",
        f"{len(angles)} tilts from {min(angles):g} to {max(angles):g} degrees",
    ]


def write_volumes(
    result: Result,
    paths: Sequence[pathlib.Path],
    origin: Sequence[str],
    *,
    tilt_axis: str = "y",
    overwrite: bool = False,
) -> None:
    """Writes the mean and, if there is a second path, the standard deviation.

    Args:
      result: Of the run.
      paths: Ending in one of `VOLUMES`.
      origin: Of `labels`.
      tilt_axis: In whose axes they are written, see `io.axis`.
      overwrite: Replace what is there.
    """
    kinds = [(result.mean, f"mean, method {result.provenance['method']}")]
    if result.std is not None:
        kinds.append((result.std, intervals.label(result.provenance)))
    size = result.provenance["voxel_size_angstrom"]
    for path, (volume, kind) in zip(paths, kinds):
        turned = axis.volume_to_file(np.asarray(volume), tilt_axis)
        if path.suffix == ".zarr":
            ome_zarr.write_ome_zarr(path, turned, size, overwrite=overwrite)
            continue
        said = [f"temdiff_jax {version()}: {kind}", *origin]
        write.write_mrc(path, turned, size, labels=said, overwrite=overwrite)


def page_of(
    result: Result,
    title: str,
    footer: Sequence[str],
    *,
    tilt_axis: str = "y",
    reference: np.ndarray | None = None,
) -> report.Page:
    """What is drawn of a result: it, and what it was compared with.

    Everything is in the axes in which the volumes are written.
    """
    from temdiff_jax import report

    # The residual is projected minus measured, so this is the measured series after
    # whatever linearisation the library chose.
    measured = np.asarray(result.reprojection) - np.asarray(result.residual)
    angles = np.asarray(result.provenance["angles_deg"])
    fbp = baselines.fbp(
        images.aligned(measured, result.alignment),
        angles,
        thickness=int(result.mean.shape[0]),
    )
    volumes = {"fbp": fbp, "tikhonov": result.tikhonov, "mean": result.mean}
    said = notes.verdict(result.provenance)
    below = [*footer] if said else [*footer, CAVEAT]
    if result.std is not None:
        volumes["std"] = result.std
        below.append(f"std: {intervals.label(result.provenance)}")

    def in_file(array: Any) -> np.ndarray:
        return axis.volume_to_file(np.asarray(array), tilt_axis)

    return report.Page(
        volumes={name: in_file(volume) for name, volume in volumes.items()},
        tilts=in_file(measured),
        reprojection=in_file(result.reprojection),
        residual=in_file(result.residual),
        angles_deg=angles,
        chi2=np.asarray(result.chi2),
        title=title,
        voxel_size_angstrom=result.provenance["voxel_size_angstrom"],
        reference=None if reference is None else in_file(reference),
        verdict=said,
        footer=below,
    )


def write_reports(
    result: Result,
    paths: Sequence[pathlib.Path],
    page: report.Page,
    content: dict[str, Any],
    *,
    tilt_axis: str = "y",
    overwrite: bool = False,
) -> None:
    """Writes what is read of a run: the page as a PNG, and all of it as HTML.

    Args:
      result: Of the run.
      paths: Of the PNG and of the HTML.
      page: Of `page_of`.
      content: Of the JSON file, which the HTML holds as well.
      tilt_axis: In whose axes the page is.
      overwrite: Replace what is there.
    """
    from temdiff_jax import report
    from temdiff_jax.report import viewer

    cover, whole = paths
    report.write_page(cover, page, overwrite=overwrite)
    samples = result.samples
    if samples is not None:
        samples = np.stack([axis.volume_to_file(s, tilt_axis) for s in samples])
    run = viewer.Run(
        page=page,
        record=content,
        decisions=notes.decisions(result.provenance),
        again=again.lines(content, page.volumes, page.voxel_size_angstrom),
        cover=cover.name,
        samples=samples,
        spread=intervals.label(result.provenance),
        tilt_axis=tilt_axis,
        caveat=CAVEAT,
    )
    viewer.write_run(whole, run, overwrite=overwrite)


def warnings(result: Result) -> list[str]:
    """Doubts about files, prior, tilts and model, a line each."""
    made = result.provenance
    return [*made["warnings"], *notes.warnings(made)]


def record(result: Result) -> dict[str, Any]:
    """What is known of a run, ready for JSON."""
    made = result.provenance
    return {
        "format": RECORD_FORMAT,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "convention": made["convention"],
        "voxel_size_angstrom": made["voxel_size_angstrom"],
        "volume_shape": list(result.mean.shape),
        "angles_deg": made["angles_deg"],
        "trust": made.get("trust"),
        "chi2": np.asarray(result.chi2),
        "weights": np.asarray(result.weights),
        "run": made.get("run"),
        "library": {name: v for name, v in made.items() if name != "trust"},
        "warnings": warnings(result),
    }


def footer(
    result: Result, origin: Sequence[str], command: str | None = None
) -> list[str]:
    """What stands below the page: origin, command, decisions and doubts."""
    return [
        f"temdiff_jax {version()}; " + "; ".join(origin),
        *([] if command is None else [command]),
        *notes.decisions(result.provenance),
        *(f"{notes.WARNING}{line}" for line in warnings(result)),
    ]


def save(
    result: Result,
    folder: str | pathlib.Path,
    name: str,
    *,
    volume_format: str = "mrc",
    tilt_axis: str = "y",
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """Writes what `temdiff reconstruct` writes; see ``Result.save``."""
    folder, ending = pathlib.Path(folder), VOLUMES[volume_format]
    folder.mkdir(parents=True, exist_ok=True)
    volumes = [folder / f"{name}_temdiff{ending}"]
    if result.std is not None:
        volumes.append(folder / f"{name}_std{ending}")
    pages = [folder / f"{name}_report{ending}" for ending in (".png", ".html")]
    said = folder / f"{name}.temdiff.json"
    origin = labels(result, result.provenance["input_sha256"])
    write_volumes(result, volumes, origin, tilt_axis=tilt_axis, overwrite=overwrite)
    said_below = footer(result, origin)
    content = record(result)
    content["sha256"] = {path.name: sha256(path) for path in volumes}
    page = page_of(result, name, said_below, tilt_axis=tilt_axis)
    write_reports(
        result, pages, page, content, tilt_axis=tilt_axis, overwrite=overwrite
    )
    write.write_json(said, content, overwrite=overwrite)
    return [*volumes, *pages, said]


def sha256(path: pathlib.Path) -> str:
    """Of a file's bytes, or of those of all files of a store; 64 hex digits."""
    if path.is_dir():
        whole = hashlib.sha256()
        for inside in sorted(p for p in path.rglob("*") if p.is_file()):
            whole.update(bytes.fromhex(sha256(inside)))
        return whole.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def version() -> str:
    """Version of temdiff_jax, "unknown" where it is not installed."""
    try:
        return metadata.version("temdiff_jax")
    except metadata.PackageNotFoundError:
        return "unknown"
