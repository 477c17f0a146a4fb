"""What will be done, checked before any of it is: a method, its network, a series."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from temdiff_jax import parallel
from temdiff_jax.errors import InputError
from temdiff_jax.inverse.precision import Precision
from temdiff_jax.inverse.problem import Inputs, Problem, Units
from temdiff_jax.inverse.tikhonov import settings_for
from temdiff_jax.priors import Prior, load_prior, not_covered
from temdiff_jax.reconstruction.method import Method
from temdiff_jax.reconstruction.methods import check_network, method_of
from temdiff_jax.reconstruction.sample import MakeSampler, largest_divisor
from temdiff_jax.reconstruction.settings import Settings, check_windows
from temdiff_jax.reconstruction.watch import Arrays, Watch
from temdiff_jax.series import checks, preparation


@dataclasses.dataclass(frozen=True)
class Choice:
    """A method with its network and its settings, checked; see ``choose``."""

    method: Method
    prior: Prior | None
    settings: Settings


@dataclasses.dataclass(frozen=True)
class Plan:
    """A reconstruction that was checked and has not begun; see ``make_plan``."""

    choice: Choice
    job: preparation.Job
    key: jax.Array

    def identity(self) -> dict[str, Any]:
        """JSON-ready: all that decides the bits of the result."""
        choice, job = self.choice, self.job
        lying = job.series.alignment
        digest = hashlib.sha256()
        for array in (job.tilts, job.series.angles_deg, job.trust):
            digest.update(np.ascontiguousarray(array).tobytes())
        return {
            "input": digest.hexdigest(),
            "tilts": list(job.tilts.shape),
            "thickness": job.geometry.volume_shape[0],
            "voxel_size_angstrom": job.series.voxel_size_angstrom,
            "method": choice.method.name,
            "settings": choice.settings.describe(),
            "numbers": {n: str(v) for n, v in choice.method.numbers.items()},
            "prior": None if choice.prior is None else choice.prior.sha256,
            "weighting": job.options.weighting,
            "alignment": None if lying is None else lying.motion_fields(),
            "spread": None if job.options.spread is None else str(job.options.spread),
            "intensity": job.intensity,
            "key": key_data(self.key),
            "jax": [jax.__version__, metadata.version("jaxlib")],
            "device": jax.devices()[0].device_kind,
            "mesh": None if self.mesh is None else list(self.mesh.devices.shape),
        }

    @property
    def mesh(self) -> Mesh | None:
        """Devices that share the work; None for one device."""
        return self.job.geometry.mesh

    @property
    def doubts(self) -> tuple[str, ...]:
        """What of the series the training of the prior did not cover, a line each."""
        return doubts_of(self.choice, self.job)

    @property
    def total(self) -> int:
        """Steps that a run tells of."""
        return 1 + self.choice.method.steps(self.choice.settings)


def doubts_of(choice: Choice, job: preparation.Job) -> tuple[str, ...]:
    """What of a series the training of a prior did not cover; see ``not_covered``."""
    if choice.prior is None:
        return ()
    size = job.series.voxel_size_angstrom
    voxel_nm = None if size is None else size / 10.0
    return not_covered(choice.prior, job.series.angles_deg, voxel_nm)


def default_samples() -> int:
    """Samples where nobody says how many: a first result on a CPU costs minutes.

    More make the spread surer (docs/reports/samplers.md).
    """
    return 4 if jax.default_backend() == "cpu" else 16


def choose(
    method: str | Method | MakeSampler = "default",
    prior: str | Path | Prior = "default",
    settings: Settings | None = None,
    **given: Any,
) -> Choice:
    """A method with its network, checked before any work; the network is read last.

    Args:
      method, prior, settings: As for ``reconstruct``.
      given: ``rule``, ``solver``, ``schedule``, ``num_samples``, ``num_steps``; None
        for those of the settings, or of the method where there are none either
        (``default_samples``).

    Raises:
      InputError: Unknown names, settings that a method does not take, or a network
        that is not there or of another kind.
    """
    chosen = method_of(method)
    own = _settings(chosen, settings, given)
    return Choice(chosen, _prior(chosen, prior, own), own)


def make_plan(
    tilts: ArrayLike,
    angles: ArrayLike,
    choice: Choice,
    options: preparation.SeriesOptions | None = None,
    *,
    key: int | jax.Array = 0,
    mesh: Mesh | None = None,
) -> Plan:
    """Checks a reconstruction and computes nothing; ``api.run`` does it.

    Args:
      tilts, angles, key, mesh: As for ``reconstruct``.
      choice: Of ``choose``.
      options: Of the series.

    Raises:
      InputError: Anything wrong with the input.
    """
    options = options or preparation.SeriesOptions()
    seed = checks.check_key(key)
    job = preparation.check_series(tilts, angles, options)
    return Plan(choice, job, seed) if mesh is None else on_mesh(choice, job, seed, mesh)


def division(choice: Choice, rows: int, devices: int) -> tuple[int, int]:
    """Extents of a mesh of so many devices, see ``parallel.shared_out``.

    Args:
      choice: Whose samples are shared out.
      rows: Of the tilts, along the tilt axis.
      devices: To be used.
    """
    draws = "num_samples" in choice.method.takes
    samples = choice.settings.num_samples if draws else 1
    multiple = 1 if choice.prior is None else choice.prior.network.config.multiple
    return parallel.shared_out(devices, samples, rows, multiple)


def on_mesh(choice: Choice, job: preparation.Job, key: jax.Array, mesh: Mesh) -> Plan:
    """The plan of a reconstruction that devices share, checked.

    Raises:
      InputError: The mesh does not divide the work, or the method or the series cannot
        be divided.
    """
    shares, slabs = mesh.devices.shape
    draws = "num_samples" in choice.method.takes
    samples = choice.settings.num_samples if draws else 1
    multiple = 1 if choice.prior is None else choice.prior.network.config.multiple
    rows = job.geometry.volume_shape[2]
    if draws and choice.prior is not None and choice.prior.network.config.refines:
        raise InputError(
            "mesh: expected a prior that draws samples on one grid, got one that goes "
            "from coarse to fine; use one device, or --method mean"
        )
    if samples % shares:
        raise InputError(
            f"mesh: expected a number of samples that {shares} shares divide, got "
            f"{samples}; draw {-(-samples // shares) * shares}, or use a mesh of "
            f"{largest_divisor(samples, shares)} x {slabs}"
        )
    if rows % (slabs * multiple):
        unit = slabs * multiple
        raise InputError(
            f"mesh: expected rows along the tilt axis that are a multiple of {unit} "
            f"({slabs} slabs of {multiple}), got {rows}; pad the tilts to "
            f"{-(-rows // unit) * unit} rows, or use fewer slabs"
        )
    if slabs > 1 and job.geometry.motion is not None:
        raise InputError(
            f"mesh: expected aligned tilts for {slabs} slabs of y, got an alignment, "
            "which mixes their rows; resample the tilts first, or use one slab"
        )
    if slabs > 1:
        settings = dataclasses.replace(choice.settings, rows=rows)
        choice = dataclasses.replace(choice, settings=settings)
    geometry = dataclasses.replace(job.geometry, mesh=mesh)
    return Plan(choice, job._replace(geometry=geometry), key)


def prepared(job: preparation.Job, watch: Watch) -> tuple[Problem, dict[str, Any]]:
    """The problem of a series and what weighs less, made or found as it was kept."""

    def make() -> Arrays:
        problem, weighed = preparation.prepare(job, settings_for(job.series.angles_deg))
        precision = {
            field.name: getattr(problem.precision, field.name)
            for field in dataclasses.fields(Precision)
        }
        shown = problem.shown._asdict()
        return {
            "tilts": problem.tilts,
            "voxel_nm": problem.voxel_nm,
            "weighting": np.array(json.dumps(weighed)),
            **{f"precision.{k}": v for k, v in precision.items() if v is not None},
            **{f"units.{k}": v for k, v in problem.units._asdict().items()},
            **{f"inputs.{k}": v for k, v in shown.items() if v is not None},
        }

    found = watch.part("problem", make)
    weighed = json.loads(str(found["weighting"]))

    mesh = job.geometry.mesh

    def fields(of: str) -> dict[str, Any]:
        return {
            name.removeprefix(f"{of}."): parallel.on_mesh(value, mesh)
            for name, value in found.items()
            if name.startswith(f"{of}.")
        }

    problem = Problem(
        job.geometry,
        parallel.on_mesh(found["tilts"], mesh),
        Precision(**fields("precision")),
        Units(**fields("units")),
        Inputs(**fields("inputs")),
        parallel.on_mesh(found["voxel_nm"], mesh),
    )
    return problem, weighed


def _settings(
    method: Method, settings: Settings | None, given: dict[str, Any]
) -> Settings:
    """The settings of a run: what was given, else the settings, else the method's."""
    named = {name: value for name, value in given.items() if value is not None}
    strange = [name for name in named if name not in method.takes]
    samples = ("num_samples", "num_steps")  # nothing to a method that draws nothing
    wrong = [name for name in strange if name not in samples]
    for name in samples:
        if name in named:
            smallest = 1 if name == "num_samples" else 2
            named[name] = checks.check_count(name, named[name], smallest)
    if wrong:
        raise InputError(
            f"{wrong[0]}: expected a method that takes one, got {method.name}, which "
            f"has its own; leave it out, or choose default, mean or posterior"
        )
    named = {name: value for name, value in named.items() if name not in strange}
    base = method.settings if settings is None else settings
    ours = method.sampling is None and "num_samples" in method.takes
    if settings is None and ours:
        named.setdefault("num_samples", default_samples())
    chosen = dataclasses.replace(base, **named)
    chosen.the_rule(), chosen.the_solver(), chosen.the_schedule()  # known names
    if "num_samples" not in method.takes:
        chosen = dataclasses.replace(chosen, num_samples=1, num_steps=1)
    return chosen


def _prior(
    method: Method, prior: str | Path | Prior, settings: Settings
) -> Prior | None:
    """The network of a method, checked; None where it needs none."""
    if not method.needs:
        return None
    if method.needs != "prior" and prior == "default":
        raise InputError(
            f"prior: expected weights of its own for {method.name}, got none; pass the "
            f"file {method.needs}.safetensors of the folder releases/baselines of the "
            "sources, or train it (docs/reports/learned_baselines.md)"
        )
    loaded = prior if isinstance(prior, Prior) else load_prior(prior)
    check_network(method, loaded)
    check_windows(settings, loaded.network)
    return loaded


def key_data(key: jax.Array) -> list[int]:
    """The numbers of a key."""
    return [int(k) for k in np.ravel(jax.random.key_data(key))]
