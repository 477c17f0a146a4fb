"""`temdiff convert`: a stack or a volume in another container, nothing else changed."""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from temdiff_jax.cli import options

if TYPE_CHECKING:
    from temdiff_jax.io.formats import Image

_ENDINGS = ".mrc .st .rec .tif .tiff .npz .zarr"


def convert(
    source: Annotated[
        pathlib.Path, typer.Argument(metavar="FROM", help="Stack or volume.")
    ],
    target: Annotated[
        pathlib.Path,
        typer.Argument(metavar="TO", help=f"New file, ending in one of {_ENDINGS}."),
    ],
    voxel_size: Annotated[
        float | None,
        typer.Option(metavar="ANGSTROM", help="Voxel size; overrules the file."),
    ] = None,
    ome_version: Annotated[
        str, typer.Option(metavar="0.4|0.5", help="Version of OME-Zarr.")
    ] = "0.4",
    overwrite: options.Overwrite = False,
) -> None:
    """Write a stack or a volume in another format.

    Grey values, voxel size, origin and tilt angles are kept; angles go into a .tlt
    beside formats that have no place for them. Row 0 stays the bottom of the picture.
    """
    writers = _writers(ome_version)
    suffix = target.suffix.lower()
    if suffix not in writers:
        raise options.InputError(
            f"convert: expected a name ending in one of {' '.join(writers)}, got "
            f"{target.name}; choose one"
        )

    from temdiff_jax.io import formats, write

    if voxel_size is not None:
        options.check_positive("--voxel-size", voxel_size)
    image = formats.read_image(source)
    size = image.voxel_size_angstrom if voxel_size is None else (voxel_size,) * 3
    writers[suffix](target, image, size, overwrite)
    typer.echo(f"wrote {target}")
    holds_angles = suffix in (".npz", ".zarr")
    if image.angles_deg is not None and not holds_angles:
        tlt = target.with_suffix(".tlt")
        write.write_tlt(tlt, image.angles_deg, overwrite=overwrite)
        typer.echo(f"wrote {tlt}")
    for line in image.warnings:
        typer.echo(f"warning: {line}")


Size = tuple[float, float, float] | None


def _writers(
    ome_version: str,
) -> dict[str, Callable[[pathlib.Path, "Image", Size, bool], None]]:
    """Writer by ending."""

    def as_zarr(path: pathlib.Path, image: "Image", size: Size, over: bool) -> None:
        from temdiff_jax.io.formats import ome_zarr

        ome_zarr.write_ome_zarr(
            path,
            image.data,
            size,
            angles_deg=image.angles_deg,
            version=ome_version,
            overwrite=over,
        )

    return {
        **dict.fromkeys((".mrc", ".st", ".rec"), _as_mrc),
        **dict.fromkeys((".tif", ".tiff"), _as_tiff),
        ".npz": _as_npz,
        ".zarr": as_zarr,
    }


def _as_mrc(path: pathlib.Path, image: "Image", size: Size, overwrite: bool) -> None:
    from temdiff_jax.io import write

    write.write_mrc(
        path,
        image.data,
        size,
        origin=image.origin_angstrom,
        labels=[*image.labels[: write.MAX_LABELS - 1], "converted by temdiff_jax"],
        is_stack=image.angles_deg is not None or path.suffix.lower() == ".st",
        overwrite=overwrite,
    )


def _as_tiff(path: pathlib.Path, image: "Image", size: Size, overwrite: bool) -> None:
    from temdiff_jax.io.formats import tiff

    tiff.write_tiff(path, image.data, size, overwrite=overwrite)


def _as_npz(path: pathlib.Path, image: "Image", size: Size, overwrite: bool) -> None:
    import numpy as np

    from temdiff_jax.io import write

    arrays: dict[str, np.ndarray] = {"volume": image.data}
    if image.angles_deg is not None:
        arrays = {"tilts": image.data, "angles_deg": np.asarray(image.angles_deg)}
    if size is not None:
        arrays["voxel_size_angstrom"] = np.array(size[2], np.float64)
    with write.atomic_path(path, overwrite=overwrite) as temporary:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
