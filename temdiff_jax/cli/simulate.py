"""`temdiff simulate`: the tilt series of a volume that is known."""

import pathlib
from typing import Annotated

import numpy as np
import typer

from temdiff_jax.cli import options

RECORD_FORMAT = "temdiff-simulation-1"


def simulate(
    volume: Annotated[
        pathlib.Path,
        typer.Argument(metavar="VOLUME", help="Truth [z, y, x] of any format."),
    ],
    angles: Annotated[
        str, typer.Option(metavar="LO:HI:STEP", help="Tilt angles, degrees.")
    ],
    noise: Annotated[
        float,
        typer.Option(
            min=0.0, help="Noise, as a share of the standard deviation of the tilts."
        ),
    ] = 0.1,
    seed: options.Seed = 0,
    out: options.Out = pathlib.Path(),
    overwrite: options.Overwrite = False,
) -> None:
    """Project a known volume to a tilt series with white noise.

    Writes NAME_tilts.mrc, NAME_tilts.tlt and NAME_tilts.json with every parameter. The
    series is aligned and holds line integrals, dense matter as in the volume.
    """
    degrees = parse_angles(angles)

    import jax
    import jax.numpy as jnp

    from temdiff_jax import geometry as geometries
    from temdiff_jax.cli import environment, outputs
    from temdiff_jax.io import formats, tilt_series, write
    from temdiff_jax.projector.project import project

    image = formats.read_image(volume)
    name = f"{formats.stem(volume)}_tilts"
    paths = [out / f"{name}{ending}" for ending in (".mrc", ".tlt", ".json")]
    outputs.prepare(out, paths, overwrite=overwrite, inputs=[volume])
    environment.prepare_jax()
    depth, height, width = image.data.shape
    geometry = geometries.TiltGeometry.from_degrees(
        degrees, thickness=depth, width=width, height=height
    )
    edge = float(np.median(image.data[:, :, [0, -1]]))
    core = jnp.asarray(np.ascontiguousarray(np.swapaxes(image.data, 1, 2)))
    clean = jax.jit(project)(geometry.pad_lateral(core, edge), geometry)
    tilts = np.swapaxes(np.asarray(clean), 1, 2)
    sigma = noise * float(tilts.std())
    rng = np.random.default_rng(seed)
    tilts = (tilts + sigma * rng.standard_normal(tilts.shape)).astype(np.float32)
    size = image.voxel_size_angstrom
    pitch = None if size is None else size[2]
    write.write_mrc(paths[0], tilts, pitch, is_stack=True, overwrite=overwrite)
    write.write_tlt(paths[1], degrees, overwrite=overwrite)
    digest = tilt_series.file_sha256(volume) if volume.is_file() else None
    write.write_json(
        paths[2],
        {
            "format": RECORD_FORMAT,
            "truth": volume,
            "truth_sha256": digest,
            "convention": geometries.CONVENTION,
            "angles_deg": degrees,
            "thickness": depth,
            "beyond_the_sides": edge,
            "noise_share": noise,
            "noise_std": sigma,
            "seed": seed,
            "voxel_size_angstrom": pitch,
            "temdiff_jax": environment.own_version(),
        },
        overwrite=overwrite,
    )
    for path in paths:
        typer.echo(f"wrote {path}")


def parse_angles(text: str) -> np.ndarray:
    """Degrees of "LO:HI:STEP", both ends included.

    Raises:
      InputError: another form, an empty range, angles beyond 90 degrees, more than
        1000 of them.
    """
    wrong = options.InputError(
        f"--angles: expected LO:HI:STEP in degrees within 90, got {text[:80]!r}; write "
        "for example --angles=-5:5:1"
    )
    try:
        low, high, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise wrong from None
    if not (-90 <= low <= high <= 90 and step > 0 and (high - low) / step < 1000):
        raise wrong
    return low + step * np.arange(int(round((high - low) / step, 6)) + 1)
