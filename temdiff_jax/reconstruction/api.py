"""From tilts and angles to a volume with its uncertainty, in the input's units."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from temdiff_jax import parallel
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import CONVENTION
from temdiff_jax.inverse.problem import Problem
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.io.alignment import record
from temdiff_jax.io.alignment.record import Alignment
from temdiff_jax.io.tilt_series import TiltSeries
from temdiff_jax.priors import Prior, range_verdict
from temdiff_jax.reconstruction import examine, intervals, save
from temdiff_jax.reconstruction.denoiser import regressed
from temdiff_jax.reconstruction.method import Estimate, Method, on_host
from temdiff_jax.reconstruction.methods import RESAMPLE, method_of
from temdiff_jax.reconstruction.plan import (
    Choice,
    Plan,
    choose,
    doubts_of,
    key_data,
    make_plan,
    prepared,
)
from temdiff_jax.reconstruction.sample import MakeSampler
from temdiff_jax.reconstruction.settings import Rule, Schedule, Settings, Solver
from temdiff_jax.reconstruction.watch import Watch, open_folder, run_id
from temdiff_jax.series import checks, inputs, preparation
from temdiff_jax.series import weighting as weighting_lib

# By table T1, see docs/weighting.md.
DEFAULT_WEIGHTING = "adaptive"
Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """A reconstruction; volumes ``[z, y, x]``, tilts ``[n_tilts, y, x]``, float32.

    Everything per tilt is in the order of the tilts that were given.

    Attributes:
      mean: The best guess of the method: for "default" the conditional mean by one
        call of the network and one pull to the tilts.
      std: Standard deviation over the posterior samples, uncalibrated; None where
        fewer than two were drawn.
      samples: ``[s, z, y, x]`` when asked for and drawn.
      tikhonov: The quadratic estimate from the same tilts, for comparison.
      reprojection: ``mean`` projected, in line integrals of the sense of the input.
      residual: ``reprojection`` minus measured line integrals.
      chi2: Per tilt, mean squared residual over its variance, masked pixels apart; 1
        is what was expected.  The factor of a tilt that disagrees does not hide in it.
      weights: Data precision per tilt, inverse squared input units, ``[n_tilts]``.
      provenance: JSON-ready record of everything that led here.
      alignment: How the tilts lie, if they are not aligned.
    """

    mean: np.ndarray
    std: np.ndarray | None
    samples: np.ndarray | None
    tikhonov: np.ndarray
    reprojection: np.ndarray
    residual: np.ndarray
    chi2: np.ndarray
    weights: np.ndarray
    provenance: dict[str, Any]
    alignment: Alignment | None = None

    def interval(self, level: float = 0.9, cell: int = 1) -> intervals.Interval:
        """Where the truth is expected: ``mean -+ factor * std``.

        Args:
          level: Share of the truth that lies within.
          cell: Edge of the cells whose means are meant, voxels; more than 1 needs
            ``samples``.

        Returns:
          Lower and upper ends, and whether the level was found to hold on specimens of
          known truth, see ``reconstruction.intervals``.

        Raises:
          InputError: No spread was drawn, no samples kept, or a level or cell that
            does not exist.
        """
        return intervals.interval(
            self.mean, self.std, self.samples, self.provenance, level, cell
        )

    def save(
        self,
        folder: str | Path,
        name: str = "tilts",
        *,
        volume_format: str = "mrc",
        tilt_axis: str = "y",
        overwrite: bool = False,
    ) -> list[Path]:
        """Writes what `temdiff reconstruct` writes: volumes, record and page.

        Args:
          folder: Made if it is not there.
          name: First part of every file name.
          volume_format: "mrc" or "ome-zarr" (a pyramid).
          tilt_axis: "x" writes in the axes of a file whose tilt axis runs along x.
          overwrite: Replace files of an earlier run.

        Returns:
          The files, the record last.

        Raises:
          InputError: A file is in the way, or cannot be written.
        """
        return save.save(
            self,
            folder,
            name,
            volume_format=volume_format,
            tilt_axis=tilt_axis,
            overwrite=overwrite,
        )


def reconstruct(
    tilts: ArrayLike | TiltSeries,
    angles: ArrayLike | None = None,
    *,
    alignment: Alignment | None = None,
    thickness: int | None = None,
    prior: str | Path | Prior = "default",
    method: str | Method | MakeSampler = "default",
    rule: str | Rule | None = None,
    solver: str | Solver | None = None,
    schedule: str | Schedule | None = None,
    num_samples: int | None = None,
    num_steps: int | None = None,
    settings: Settings | None = None,
    key: int | jax.Array = 0,
    voxel_size_angstrom: float | None = None,
    log: str = "auto",
    contrast: str = "auto",
    tilt_weights: ArrayLike | None = None,
    weighting: str = DEFAULT_WEIGHTING,
    spread: weighting_lib.Spread | None = None,
    keep_samples: bool = False,
    examined: bool = True,
    state: str | Path | None = None,
    mesh: Mesh | None = None,
    on_progress: Progress | None = None,
) -> Result:
    """Reconstructs a volume from a tilt series of any range.

    Args:
      tilts: Line integrals or intensities (see ``log``) ``[n_tilts, y, x]``, tilt
        axis along y; any unit.  Or a series of ``load_tilt_series``, with its angles,
        alignment and voxel size.
      angles: Degrees, one per tilt, in any order.
      alignment: How the tilts lie in their images, for the projector, which shifts and
        turns the volume's projections to them: no pixel is interpolated.  None for
        tilts that are aligned.
      thickness: Slab thickness in voxels; default the tilts' width.
      prior: Name or path of a released prior, or a loaded one.
      method: A name of ``methods.table()``, which `temdiff methods` prints, a row of
        it, or a function as those of ``diffusion.methods``.  "default" takes the mean
        from one call of the network and the spread from posterior samples; "mean"
        leaves out the samples, "posterior" the call (the mean of a few samples still
        holds their scatter: docs/reports/results.md).
      rule: How guesses are pulled to the tilts, a name of ``diffusion.methods.RULES``
        or a function from a ``Measurement`` to a ``Constraint``; of "default", "mean"
        and "posterior", in volume and samples alike.
      solver, schedule: A name of ``diffusion.methods.SOLVERS``, of ``SCHEDULES``, or a
        function, see ``Settings``.
      num_samples, num_steps: Posterior samples, and noise levels of each; default
        those of the method: of ours 4 samples on a CPU, 16 elsewhere, of 8 steps.
      settings: Further choices; what is given beside it overrules it.
      key: Seed or typed JAX key.
      voxel_size_angstrom: Recorded in the provenance.
      log: "auto" decides by the data whether -log is taken, and records its verdict;
        "off": tilts are line integrals; "on": they are bright-field intensities.
      contrast: Sense of dense matter in the line integrals: "bright", "dark" or
        "auto" (by the levels of a slab, else by the tail of the grey values); the
        volume keeps the sense of the tilts.
      tilt_weights: Trust in each tilt, [0, 1]; 0 leaves it out.
      weighting: "off", one noise level per tilt; "robust", masks and a factor for
        each tilt that disagrees; "adaptive", the variances of a misalignment as well,
        estimated from the series; "low-rank" or, pixel by pixel, "diagonal", of one as
        large as ``spread`` (docs/weighting.md, "Which to choose").
      spread: What is known of that misalignment; ``None``: nothing.
      keep_samples: Return all samples.
      examined: Whether ``provenance["trust"]`` says how far the result can be relied
        on; takes seconds.  Never on a mesh.
      state: Folder that keeps what is finished; a run that was stopped goes on from
        there, with the bits of one that was not.  It stays when the run is over.
      mesh: Devices that share the work, of ``parallel.sampling_mesh``: samples over
        its first axis, slabs of y over its second.  With several processes all must
        call alike, ``state`` is a folder that they share, and each gets the result.
        Equal to one device but for rounding, where the network is given all rows at
        once (``Settings.rows``).
      on_progress: Called with (done, total, message) as work proceeds.

    Raises:
      InputError: Anything wrong with the input; one line with expected, got and
        what to do.
    """
    said: tuple[str, ...] = ()
    if isinstance(tilts, TiltSeries):
        said = tilts.warnings
        angles, alignment = tilts.angles_deg, tilts.alignment
        voxel_size_angstrom = voxel_size_angstrom or tilts.voxel_size_angstrom
        tilts = tilts.tilts
    if angles is None:
        raise InputError(
            "angles: expected degrees, one per tilt, got none; pass them, or a series "
            "of load_tilt_series"
        )
    options = preparation.SeriesOptions(
        thickness,
        voxel_size_angstrom,
        log,
        contrast,
        tilt_weights,
        weighting,
        spread,
        alignment,
        said,
    )

    def make() -> Plan:
        choice = choose(
            method,
            prior,
            settings,
            rule=rule,
            solver=solver,
            schedule=schedule,
            num_samples=num_samples,
            num_steps=num_steps,
        )
        return make_plan(tilts, angles, choice, options, key=key, mesh=mesh)

    planned = make() if mesh is None else parallel.all_succeed("input", make)
    return run(
        planned,
        keep_samples=keep_samples,
        examined=examined,
        state=state,
        on_progress=on_progress,
    )


def run(
    planned: Plan,
    *,
    keep_samples: bool = False,
    examined: bool = True,
    state: str | Path | None = None,
    on_progress: Progress | None = None,
) -> Result:
    """Does what was planned.

    Args:
      planned: Of ``make_plan``.
      keep_samples, examined, state, on_progress: As for ``reconstruct``.

    Raises:
      InputError: The folder ``state`` was left by another run, or is damaged; or the
        processes of a mesh were given different input.
    """
    started = time.monotonic()
    choice, job = planned.choice, planned.job
    folder, identity = None if state is None else Path(state), planned.identity()
    if planned.mesh is not None:
        parallel.check_alike("input", json.dumps(identity, sort_keys=True))
    if folder is not None:
        first = jax.process_index() == 0
        parallel.all_succeed("state", lambda: first and open_folder(folder, identity))

    def tell(done: int, text: str) -> None:
        if on_progress is not None:
            on_progress(done, planned.total, text)

    watch = Watch(tell, folder)
    watch(0, "quadratic estimate")
    problem, weighed = prepared(job, watch)
    watch(1, "first result")
    found = _run(choice, planned.key, problem, watch.after(1))
    made = _provenance(choice, job, planned.key) | {"weighting": weighed}
    made["run"] = run_id(identity)
    made["seconds"] = time.monotonic() - started
    if examined and planned.mesh is None:
        tell(planned.total, "how far it can be relied on")
        predicted = None
        if examine.affordable(choice):
            who = method_of("mean")
            predicted = examine.hold_out(choice, planned.key, problem, job, who)
        seen = examine.series(problem, job)
        made["trust"] = examine.result(seen, choice, problem, job, found, predicted)
    return _result(found, problem, job, keep_samples, made)


def make_problem(
    tilts: ArrayLike,
    angles: ArrayLike,
    options: preparation.SeriesOptions | None = None,
) -> Problem:
    """The inverse problem of a series, as every method of the table takes it.

    Args:
      tilts: ``[n_tilts, y, x]``, tilt axis along y, aligned.
      angles: Degrees, one per tilt, in any order; the problem has them ascending.
      options: Thickness, weighting and so on.

    Returns:
      The problem with the inputs of a network; dense matter is bright.

    Raises:
      InputError: Anything wrong with the input.
    """
    job = preparation.check_series(
        tilts, angles, options or preparation.SeriesOptions()
    )
    return preparation.prepare(job, settings_for(job.series.angles_deg))[0]


def compare(
    tilts: ArrayLike,
    angles: ArrayLike,
    choices: Mapping[str, Choice],
    *,
    options: preparation.SeriesOptions | None = None,
    key: int | jax.Array = 0,
    on_progress: Progress | None = None,
) -> dict[str, Result]:
    """Several methods on one series, which is checked, weighed and estimated once.

    Args:
      tilts, angles: As for ``reconstruct``.
      choices: Of ``choose``, by any names.
      options: Of the series.
      key: Of every method that draws.
      on_progress: As for ``reconstruct``, over all methods.

    Returns:
      Results by the same names; ``provenance["seconds"]`` is that of the method alone.
    """
    seed = checks.check_key(key)
    job = preparation.check_series(
        tilts, angles, options or preparation.SeriesOptions()
    )
    report = on_progress or (lambda done, total, text: None)
    total = 1 + sum(c.method.steps(c.settings) for c in choices.values())
    report(0, total, "quadratic estimate")
    problem, weighed = preparation.prepare(job, settings_for(job.series.angles_deg))
    found, before = {}, 1
    seen = examine.series(problem, job)
    for name, choice in choices.items():
        report(before, total, name)
        started = time.monotonic()

        def tell(done: int, text: str, name: str = name) -> None:
            report(done, total, f"{name}: {text}")

        estimate = _run(choice, seed, problem, Watch(tell, before=before))
        made = _provenance(choice, job, seed) | {"weighting": weighed}
        made["seconds"] = time.monotonic() - started
        made["trust"] = examine.result(seen, choice, problem, job, estimate)
        found[name] = _result(estimate, problem, job, False, made)
        before += choice.method.steps(choice.settings)
    return found


def _run(choice: Choice, key: jax.Array, problem: Problem, watch: Watch) -> Estimate:
    problem = regressed(problem, choice.prior, choice.settings.windows)
    return choice.method.run(key, problem, choice.prior, choice.settings, watch)


_judge = jax.jit(inputs.judge)


def _to_file(array: ArrayLike) -> np.ndarray:
    """Core layout to file layout on the host, contiguous."""
    whole = parallel.to_host(array) if isinstance(array, jax.Array) else array
    return np.ascontiguousarray(np.swapaxes(np.asarray(whole), -1, -2))


def _result(
    found: Estimate,
    problem: Problem,
    job: preparation.Job,
    keep_samples: bool,
    provenance: dict[str, Any],
) -> Result:
    """Back to the sense, the layout and the order of the input."""
    sign, rows = np.float32(job.intensity["sign"]), job.rows
    lying = job.series.alignment
    projected, chi2 = _judge(found.wide, problem)
    reprojection = sign * _to_file(projected)[rows]
    tikhonov = on_host(problem, problem.shown.tikhonov)
    samples = found.samples
    spread = None
    if samples is not None and len(samples) > 1:
        spread = _to_file(samples.std(axis=0, ddof=1))
    precision = problem.precision.per_tilt(problem.geometry.tilts_shape)
    weights = parallel.to_host(precision)[:, 0, 0] / float(problem.units.contrast) ** 2
    factors = np.array(provenance["weighting"].get("factors", 1.0), np.float32)
    return Result(
        mean=sign * _to_file(found.volume),
        std=spread,
        samples=None
        if samples is None or not keep_samples
        else sign * _to_file(samples),
        tikhonov=sign * _to_file(tikhonov),
        reprojection=reprojection,
        residual=reprojection - sign * job.tilts[rows],
        chi2=parallel.to_host(chi2)[rows] / np.maximum(factors, np.float32(1e-30)),
        weights=weights[rows],
        provenance=provenance,
        alignment=None if lying is None else record.taken(lying, rows),
    )


def _provenance(choice: Choice, job: preparation.Job, key: jax.Array) -> dict[str, Any]:
    """JSON-ready record of a run."""
    series, prior, settings = job.series, choice.prior, choice.settings
    network = None
    seen = "no prior"
    if prior is not None:
        network = {"name": prior.card.get("name"), "sha256": prior.sha256}
        seen = range_verdict(prior, series.angles_deg)
    return {
        "convention": CONVENTION,
        "method": choice.method.name,
        "num_samples": settings.num_samples,
        "num_steps": settings.num_steps,
        "key": key_data(key),
        "thickness": job.geometry.volume_shape[0],
        "lateral_margin": job.geometry.margin,
        "alignment": _alignment(choice.method.name, series),
        "draws": "num_samples" in choice.method.takes,
        "input_sha256": series.sha256,
        "voxel_size_angstrom": series.voxel_size_angstrom,
        "angles_deg": [float(a) for a in series.angles_deg[job.rows]],
        "tilt_weights": [float(t) for t in job.trust[job.rows]],
        "intensity": job.intensity,
        "settings": settings.describe(),
        "numbers": {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in choice.method.numbers.items()
        },
        "tikhonov": settings_for(series.angles_deg)._asdict(),
        "prior": network,
        "intervals": _intervals(choice, job),
        "range_seen_in_training": seen,
        "warnings": [*series.warnings, *doubts_of(choice, job)],
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def _intervals(choice: Choice, job: preparation.Job) -> dict[str, Any]:
    """Factors by which the spread becomes an interval, or why there are none."""
    angles, prior = job.series.angles_deg, choice.prior
    if choice.method.name != "default":
        return {"uncalibrated": "factors are those of the method default"}
    half = 0.5 * float(np.max(angles) - np.min(angles))
    card = None if prior is None else prior.card
    return intervals.describe(card, half, doubts_of(choice, job))


def _alignment(method: str, series: TiltSeries) -> str:
    """Where shifts and turns of the tilts are made up for."""
    if series.alignment is None:
        return "none: the tilts are taken as aligned"
    if method in RESAMPLE:
        return f"one resampling of the tilts, for {method}"
    return "the projector: the tilts are not resampled"
