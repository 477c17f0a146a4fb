"""`temdiff evaluate`: scores on simulated tilt series of volumes that are known."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temdiff_jax.cli import options
from temdiff_jax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

STAINS = ("dark", "bright")
REGIMES = ("aligned", "imperfect")
# The window of the structural similarity alone spans 11 voxels.
_SMALLEST = 16
_ROWS = "evaluation.jsonl"
_TABLE = "evaluation.md"


def evaluate(
    volumes: Annotated[
        list[pathlib.Path],
        typer.Argument(
            metavar="VOLUME...", help="Truth: MRC family, TIFF, .npz, .npy."
        ),
    ],
    cases: Annotated[
        str,
        typer.Option(metavar="RANGE/STEP,...", help="Tilt schemes, degrees."),
    ] = "10/1,20/2",
    methods: Annotated[
        str, typer.Option(metavar="NAME,...", help="See temdiff methods.")
    ] = "fbp,sirt,tikhonov,posterior",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples of `posterior`.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of `posterior`.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise and samples.")] = 0,
    crop: Annotated[
        int, typer.Option(min=_SMALLEST, help="Edge of the central cube taken, voxels.")
    ] = 96,
    stain: Annotated[
        str,
        typer.Option(
            metavar="dark|bright",
            help="Grey level of heavy stain: dark in FIB-SEM, bright in a density.",
        ),
    ] = "dark",
    regime: Annotated[
        str,
        typer.Option(
            metavar="aligned|imperfect",
            help="Whether the series has the errors of a series aligned by hand: "
            "shifts, tilt, rotation, dose. Its rows are kept in files of their own.",
        ),
    ] = "aligned",
    prior: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE", help="Prior of `mean` and `posterior`, for each --out."
        ),
    ] = "default",
    weighting: Annotated[
        str,
        typer.Option(
            metavar="|".join(options.WEIGHTINGS),
            help="Of `mean` and `posterior`, which by default weigh tilts as every "
            "method does; the same in all rows of an --out.",
        ),
    ] = "off",
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="DIR",
            help=f"Keep the rows ({_ROWS}) and the table ({_TABLE}); a second run with "
            "the same folder continues.",
        ),
    ] = None,
) -> None:
    """Score methods on simulated series of known volumes."""
    names = tuple(dict.fromkeys(name.strip() for name in methods.split(",")))
    options.check_choice("--stain", stain, STAINS)
    options.check_choice("--regime", regime, REGIMES)
    options.check_choice("--weighting", weighting, options.WEIGHTINGS)

    from temdiff_jax.evaluation import protocol, results, tables

    schemes = [protocol.Case.from_name(case) for case in cases.split(",")]
    truths = _truths(volumes, crop, stain_is_dark=stain == "dark")
    rows_path = None if out is None else _prepare(out, regime)

    from temdiff_jax.cli import environment, session
    from temdiff_jax.evaluation import runner
    from temdiff_jax.reconstruction import plan
    from temdiff_jax.reconstruction.settings import Settings
    from temdiff_jax.simulator import IMPERFECT

    environment.prepare_jax()
    samples, steps = samples or plan.default_samples(), steps or Settings.num_steps
    ui = session.Session()
    made = _made(names, samples, steps, seed, prior, weighting)
    if "posterior" in names:
        ui.say_later([f"posterior: {samples} samples of {steps} steps"])
    rows = protocol.evaluate(
        truths,
        schemes,
        made,
        runner.make_simulate(errors=IMPERFECT)
        if regime == "imperfect"
        else runner.simulate_case,
        seed=seed,
        store=results.ResultStore(rows_path),
        on_row=lambda row: _report(ui, row),
    )
    accuracy = tables.t1(rows).markdown(f"Accuracy, {regime} series")
    seconds, _ = tables.seconds_table(rows)
    text = f"{accuracy}\n{seconds}"
    if out is not None:
        from temdiff_jax.io import write

        write.write_text(out / _named(_TABLE, regime), text, overwrite=True)
    typer.echo(text, nl=False)


def _made(
    names: Sequence[str],
    samples: int,
    steps: int,
    seed: int,
    prior: str,
    weighting: str,
) -> dict[str, Any]:
    """The methods bound to their weights, by name."""
    from temdiff_jax.evaluation.methods import make_method
    from temdiff_jax.evaluation.plan import Run
    from temdiff_jax.reconstruction.methods import method_of

    made = {}
    for name in names:
        learned = method_of(name).needs == "prior"
        run = Run(
            name=name,
            samples=samples,
            steps=steps,
            settings={"weighting": weighting} if learned else {},
        )
        made[name] = make_method(run, seed, {"default": prior})
    return made


def _named(file: str, regime: str) -> str:
    """Rows of two regimes never share a file."""
    stem, _, ending = file.partition(".")
    return file if regime == "aligned" else f"{stem}_{regime}.{ending}"


def _prepare(folder: pathlib.Path, regime: str) -> pathlib.Path:
    """Makes the folder and gives the file of rows in it."""
    from temdiff_jax.cli import outputs

    rows = folder / _named(_ROWS, regime)
    outputs.prepare(folder, [rows, folder / _named(_TABLE, regime)], overwrite=True)
    return rows


def _truths(
    paths: Sequence[pathlib.Path], crop: int, *, stain_is_dark: bool
) -> dict[str, "np.ndarray"]:
    """Central cubes [z, y, x] of the volumes as stain density, by file name."""
    from temdiff_jax.io import formats
    from temdiff_jax.simulator import grey_to_stain

    truths = {}
    for path in paths:
        if path.name in truths:
            raise InputError(
                f"volumes: expected different file names, got {path.name} twice; "
                "rename one"
            )
        volume = formats.read_image(path).data
        if min(volume.shape) < _SMALLEST:
            raise InputError(
                f"{path}: expected at least {_SMALLEST} voxels along every axis, got "
                f"{list(volume.shape)}; pass a volume"
            )
        middle = tuple(
            slice((n - min(n, crop)) // 2, (n - min(n, crop)) // 2 + min(n, crop))
            for n in volume.shape
        )
        density = grey_to_stain(volume, stain_is_dark=stain_is_dark)
        truths[path.name] = density[middle]
    return truths


def _report(ui: Any, row: dict[str, Any]) -> None:
    """Prints one line per finished method."""
    ui.begin()
    score = row["failed"] or f"PSNR {row['matched']['psnr']:.2f} dB"
    estimate = f"{row['volume']} {row['case']} {row['method']}"
    ui.say(f"{estimate}: {score}, {row['seconds']:.1f} s")
