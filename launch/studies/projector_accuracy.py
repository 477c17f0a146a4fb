"""Errors of the projector against exact line integrals, and of other projectors.

    python -m launch.studies.projector_accuracy
    python -m launch.studies.projector_accuracy --library=Phantom3DLibrary.dat
    make peers
    python -m launch.studies.projector_accuracy --parts=peers

Prints three Markdown tables (--parts):

- ``orders``: bodies of each kind in ``temdiff_jax.simulator.analytic``, put on grids
  that become finer (--resolutions), their projections against the closed forms: error
  and the order at which it falls. With --library also the bodies of TomoPhantom's
  table of 3-D phantoms, all stationary models and the first frame of the others.
- ``angles``: what two taps do to one voxel, by tilt: the sum of its weights over the
  detector, which is 1 for an exact projector, and the blur.
- ``peers``: every installed peer on the same volumes, against the closed forms and
  against ours. Extents are odd, so that centres agree with scikit-image's.

The table of TomoPhantom (https://github.com/dkazanc/TomoPhantom, Apache-2.0) is not
part of this repository. Its x becomes x, its y becomes z and its z, the axis its
phantoms are turned about, becomes the tilt axis y. Cuboids lie where the table says;
the programs of TomoPhantom draw them at twice their x and y
(Core/TomoP3DModel_core.c).
"""

from __future__ import annotations

import math
import os
import pathlib
import tempfile
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from launch import program
from launch.benchmarking import peers as peers_lib
from launch.benchmarking.report import table
from temdiff_jax import geometry as geometry_lib
from temdiff_jax import layout, projector
from temdiff_jax.errors import InputError
from temdiff_jax.simulator import analytic
from temdiff_jax.simulator.analytic import Body

PARTS = ("orders", "angles", "peers")
ORDER_ANGLES = (-60.0, -45.0, -37.0, -9.0, 0.0, 21.0, 52.0)
# Half widths of the field across the tilt axis and along it, where the bodies and the
# tails of the Gaussians lie within +-1 of the centre or little beyond.
FIELD, HEIGHT = 1.5, 1.0
SUPERSAMPLE = 3
PEER_EXTENTS = (65, 17, 65)
PEER_ANGLES = np.arange(-60.0, 61.0, 5.0)
TIMEOUT_S = 120.0


def turned_about_y(degrees: float) -> np.ndarray:
    """Axes of a body of TomoPhantom turned by its first angle; third along y."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0.0, s], [-s, 0.0, c], [0.0, 1.0, 0.0]])


def read_library(path: pathlib.Path) -> dict[int, list[Body]]:
    """Bodies of each model of a table of TomoPhantom's 3-D phantoms.

    Raises:
      InputError: No such file, an object that cannot be read, or one turned about
        another axis than its third, which no stationary model has.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(
            f"library: expected a readable table, got {path} ({error.strerror}); "
            "download Phantom3DLibrary.dat of TomoPhantom"
        ) from error
    models: dict[int, list[Body]] = {}
    current: list[Body] = []
    for number, line in enumerate(lines, 1):
        name, _, rest = line.partition(":")
        words = rest.replace(";", " ").split()
        if name.strip() == "Model":
            current = models.setdefault(int(words[0]), [])
        elif name.strip() == "Object":
            current.append(_body_of(words, f"{path}, line {number}"))
    return models


def _body_of(words: list[str], where: str) -> Body:
    try:
        kind, *texts = words
        values = [float(text) for text in texts]
        amplitude, x, y, z, a, b, c, turn = values[:8]
    except ValueError as error:
        raise InputError(
            f"{where}: expected kind, intensity, centre, sizes and angles, got "
            f"{' '.join(words)!r}; correct the line"
        ) from error
    if any(values[8:]):
        raise InputError(
            f"{where}: expected zero for the second and third angle, got "
            f"{values[8:]}; leave the object out"
        )
    # A table gives the full extents of cuboids and the semi-axes of all others.
    share = 0.5 if kind == "cuboid" else 1.0
    sizes = (share * a, share * b, share * c)
    return Body(kind, amplitude, (x, z, y), sizes, turned_about_y(turn))


def own_bodies() -> dict[str, list[Body]]:
    """Three bodies of each kind, and three balls, in no special place."""
    found: dict[str, list[Body]] = {
        "ball": [
            Body("ellipsoid", 1.0, (0.31, -0.22, 0.17), (0.4, 0.4, 0.4)),
            Body("ellipsoid", 0.7, (-0.43, 0.35, -0.29), (0.25, 0.25, 0.25)),
            Body("ellipsoid", 0.5, (-0.12, -0.56, 0.41), (0.2, 0.2, 0.2)),
        ]
    }
    for kind in analytic.KINDS:
        found[kind] = [
            Body(kind, 1.0, (0.27, 0.11, -0.21), (0.5, 0.3, 0.4), turned_about_y(24)),
            Body(kind, 0.8, (-0.38, 0.4, 0.33), (0.2, 0.35, 0.3), turned_about_y(-51)),
            Body(kind, 0.6, (0.09, -0.47, 0.46), (0.3, 0.2, 0.25), turned_about_y(73)),
        ]
    return found


def project_volume(volume: np.ndarray, angles_deg: Sequence[float]) -> np.ndarray:
    """Tilts ``[n_tilts, y, x]`` of a volume ``[z, y, x]`` as wide as the detector."""
    geometry = geometry_lib.TiltGeometry.from_degrees(
        angles_deg,
        thickness=volume.shape[0],
        height=volume.shape[1],
        width=volume.shape[2],
        lateral_margin=0,
    )
    core = layout.volume_to_core(jnp.asarray(volume, jnp.float32))
    return np.asarray(layout.tilts_from_core(projector.project(core, geometry)))


def errors_at(bodies: Sequence[Body], count: int) -> np.ndarray:
    """Squared error, squared norm, largest error, largest value of all tilts.

    Voxels hold means of the density, so tilts are compared with means over pixels.
    """
    pitch = 2 * FIELD / count
    shape = (count, max(2, round(2 * HEIGHT / pitch)), count)
    volume = analytic.volume(bodies, shape, pitch, SUPERSAMPLE)
    exact = analytic.tilts(bodies, ORDER_ANGLES, shape[1:], pitch, SUPERSAMPLE)
    gap = pitch * project_volume(volume, ORDER_ANGLES) - exact
    tops = (np.max(np.abs(gap)), np.max(np.abs(exact)))
    return np.array([np.sum(gap**2), np.sum(exact**2), *tops])


def order_row(
    name: str, groups: Sequence[Sequence[Body]], resolutions: Sequence[int]
) -> list[str]:
    """Relative L2 and largest error of groups of bodies, each group one volume."""
    l2, largest = [], []
    for count in resolutions:
        found = np.array([errors_at(bodies, count) for bodies in groups])
        l2.append(math.sqrt(found[:, 0].sum() / found[:, 1].sum()))
        largest.append(found[:, 2].max() / found[:, 3].max())
    cells = [name, str(sum(map(len, groups)))]
    for values in (l2, largest):
        cells += [f"{value:.1e}" for value in values]
        step = math.log(resolutions[-1] / resolutions[-2])
        cells.append(f"{math.log(values[-2] / values[-1]) / step:.2f}")
    return cells


def orders_table(
    resolutions: Sequence[int], library: dict[int, list[Body]] | None
) -> str:
    """Error against voxel size."""
    rows = [
        order_row(name, [bodies], resolutions) for name, bodies in own_bodies().items()
    ]
    for kind in analytic.KINDS if library else ():
        models = [[b for b in bodies if b.kind == kind] for bodies in library.values()]
        groups = [bodies for bodies in models if bodies]
        if groups:
            rows.append(order_row(f"{kind}, TomoPhantom", groups, resolutions))
            logging.info("%s done", kind)
    counts = [str(count) for count in resolutions]
    header = ["body", "number", *(f"L2, {count}" for count in counts), "order"]
    return table([*header, *(f"max, {count}" for count in counts), "order"], rows)


def angle_row(angle: float, extent: int = 33) -> list[str]:
    """What two taps do to voxels at one tilt: sums of weights, blur, error."""
    shape = (extent, 1, extent)
    geometry = geometry_lib.TiltGeometry.from_degrees(
        [angle], thickness=extent, height=1, width=extent, lateral_margin=0
    )
    spread = projector.backproject(jnp.ones(geometry.tilts_shape), geometry)
    inner = slice(extent // 4, -(extent // 4))
    sums = np.asarray(spread)[inner, inner]
    u = analytic.places(extent, 1.0)
    variances, gaps, norms = [], [], []
    width = 4.0 / (2 * math.sqrt(2 * math.log(2)))
    for dx, dz in np.random.default_rng(0).uniform(-0.5, 0.5, (16, 2)):
        body = Body("gaussian", 1.0, (dx, 0.0, dz), (4.0, 4.0, 4.0))
        # The density at the voxel's centre: what is lost is the projector's alone.
        volume = analytic.volume([body], shape, supersample=1)
        profile = project_volume(volume, [angle])[0, 0]
        exact = analytic.tilts([body], [angle], shape[1:])[0, 0]
        mean = np.average(u, weights=profile)
        variances.append(np.average((u - mean) ** 2, weights=profile) - width**2)
        gaps.append(np.sum((profile - exact) ** 2))
        norms.append(np.sum(exact**2))
    return [
        f"{angle:g}",
        f"{sums.min():.2f}",
        f"{sums.max():.2f}",
        f"{np.sqrt(np.mean((sums - 1) ** 2)):.3f}",
        f"{np.mean(variances):.3f}",
        f"{math.sqrt(sum(gaps) / sum(norms)):.1e}",
    ]


def angles_table() -> str:
    """The bias of two taps by tilt."""
    header = ["tilt, degrees", "least sum", "largest sum", "rms of sum - 1"]
    header += ["blur, px^2", "Gaussian, L2"]
    angles = (0.0, 5.0, 15.0, 30.0, 40.0, 45.0, 50.0, 60.0, 75.0, 90.0)
    return table(header, [angle_row(angle) for angle in angles])


def peer_volumes() -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Volumes ``[z, y, x]`` and, where known, their exact tilts, in voxels."""
    smooth = [
        Body("gaussian", 1.0, (4.3, 1.2, -6.1), (9.0, 9.0, 9.0)),
        Body("gaussian", -0.6, (-8.2, -2.4, 3.7), (7.0, 12.0, 10.0)),
        Body("gaussian", 0.8, (1.6, 0.0, 9.4), (12.0, 8.0, 6.0)),
    ]
    sharp = [
        Body("ellipsoid", 1.0, (2.4, 0.6, -3.3), (13.0, 13.0, 13.0)),
        Body("ellipsoid", -0.5, (-1.7, 0.3, 2.2), (5.0, 5.0, 5.0)),
    ]
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, bodies in (("Gaussians", smooth), ("balls", sharp)):
        volume = analytic.volume(bodies, PEER_EXTENTS)
        exact = analytic.tilts(bodies, PEER_ANGLES, PEER_EXTENTS[1:])
        found[name] = (volume.astype(np.float32), exact)
    noise = np.random.default_rng(0).normal(size=PEER_EXTENTS)
    # Inside the cylinder that every ray of every package sees.
    x, z = (analytic.places(PEER_EXTENTS[axis], 1.0) for axis in (2, 0))
    round_mask = (z[:, None] ** 2 + x[None, :] ** 2) < (PEER_EXTENTS[0] / 2 - 3) ** 2
    found["noise"] = ((noise * round_mask[:, None, :]).astype(np.float32), None)
    return found


def project_by_peer(peer: peers_lib.Peer, volume: np.ndarray) -> np.ndarray:
    """Tilts ``[n_tilts, y, x]`` of ``[z, y, x]``, by a peer whose case is open."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/volume.npy", f"{folder}/tilts.npy"
        np.save(source, volume)
        peer.ask("project", TIMEOUT_S, volume=source, out=target)
        return np.load(target, allow_pickle=False)


def distance(tilts: np.ndarray, reference: np.ndarray) -> str:
    """Relative L2 distance as a cell."""
    return f"{np.linalg.norm(tilts - reference) / np.linalg.norm(reference):.1e}"


def by_tilt(tilts: np.ndarray, exact: np.ndarray) -> list[str]:
    """The median and the largest of the errors of single tilts, and which that is."""
    errors = np.linalg.norm(tilts - exact, axis=(1, 2))
    errors = errors / np.linalg.norm(exact, axis=(1, 2))
    worst = int(np.argmax(errors))
    at = f"{errors[worst]:.1e} at {PEER_ANGLES[worst]:g} degrees"
    return [f"{np.median(errors):.1e}", at]


def peers_table(peers: dict[str, peers_lib.Peer]) -> str:
    """Errors of every projector, and its distance from ours."""
    volumes = peer_volumes()
    ours = {name: project_volume(v, PEER_ANGLES) for name, (v, _) in volumes.items()}
    rows = []
    for peer in [None, *peers.values()]:
        tilts = ours
        if peer is not None:
            angles = PEER_ANGLES.tolist()
            peer.ask("open", TIMEOUT_S, shape=PEER_EXTENTS, angles_deg=angles)
            tilts = {
                name: project_by_peer(peer, volume)
                for name, (volume, _) in volumes.items()
            }
            peer.stop()
        cells = ["temdiff_jax" if peer is None else peer.name]
        for name, (_, exact) in volumes.items():
            if exact is not None:
                cells.append(distance(tilts[name], exact))
        cells += by_tilt(tilts["Gaussians"], volumes["Gaussians"][1])
        for name in volumes:
            cells.append("-" if peer is None else distance(tilts[name], ours[name]))
        rows.append(cells)
    header = ["projector"]
    header += [f"{name}, error" for name, (_, e) in volumes.items() if e is not None]
    header += ["median tilt", "worst tilt"]
    return table([*header, *(f"{name}, from ours" for name in volumes)], rows)


def run(given: flags.FlagValues) -> str:
    """The tables asked for."""
    unknown = sorted(set(given.parts) - set(PARTS))
    try:
        resolutions = [int(word) for word in given.resolutions]
    except ValueError:
        resolutions = []
    if unknown or len(resolutions) < 2 or min(resolutions) < 8:
        raise InputError(
            f"accuracy: expected --parts among {','.join(PARTS)} and at least two "
            f"--resolutions of 8 voxels or more, got {','.join(given.parts)} and "
            f"{','.join(given.resolutions)}; correct them"
        )
    parts = []
    if "orders" in given.parts:
        library = read_library(pathlib.Path(given.library)) if given.library else None
        parts.append(orders_table(sorted(resolutions), library))
    if "angles" in given.parts:
        parts.append(angles_table())
    if "peers" in given.parts:
        peers = peers_lib.installed(given)
        try:
            parts.append(peers_table(peers))
        finally:
            peers_lib.stop_all(list(peers.values()))
    return "\n\n".join(parts)


def define_flags() -> None:
    """Defines the flags; not on import, so that programs can be imported together."""
    flags.DEFINE_list("parts", list(PARTS), "Tables to print.")
    flags.DEFINE_list("resolutions", ["48", "96", "192"], "Voxels across the field.")
    flags.DEFINE_string("library", None, "Phantom3DLibrary.dat of TomoPhantom.")
    peers_lib.define_flags()


def main(argv: Sequence[str]) -> None:
    """Prints the tables."""
    with program.refusals("projector_accuracy", argv):
        try:
            print(run(flags.FLAGS))
        except peers_lib.PeerError as error:
            raise InputError(str(error)) from error


if __name__ == "__main__":
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
    define_flags()
    app.run(main)
