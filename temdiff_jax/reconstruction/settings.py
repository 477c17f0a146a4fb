"""What may be chosen about a method, as one frozen record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from temdiff_jax.diffusion import algebra, consistency, methods
from temdiff_jax.errors import InputError
from temdiff_jax.inverse.problem import Measurement
from temdiff_jax.model import Network
from temdiff_jax.reconstruction import tiling

Rule = Callable[[Measurement], algebra.Constraint]
Solver = Callable[[algebra.Predictor], algebra.Kernel]
Schedule = Callable[[int], jax.Array]

DEFAULT_SOLVER = "dpm++2m_sde"
DEFAULT_SCHEDULE = "karras"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Choices of a method; each takes those that are its business.

    The defaults are those of the default method and were chosen from table T7
    (docs/reports/samplers.md, "Which to choose").

    Attributes:
      num_samples, num_steps: Posterior samples, and noise levels of each.
      rule: How guesses are pulled to the tilts: None for the method's own, a name of
        ``diffusion.methods.RULES``, or a function from a ``Measurement`` to a
        ``Constraint``.
      solver: Of the reverse process, a name of ``diffusion.methods.SOLVERS`` or a
        function from a predictor to a kernel.
      schedule: A name of ``diffusion.methods.SCHEDULES`` or a function from a number
        of steps to noise levels; None for the method's own.
      window: Largest extent given to the network at once, voxels.
      lateral: The same across the beam, along x and y, where it is smaller; 0 for
        ``window``.  Of use to networks whose norms take their statistics over space
        (docs/reports/ablations.md).
      rows: The same along y, the tilt axis; 0 for that of x.  On a mesh whose devices
        share the rows it is all of them.
      cg_iters: Conjugate-gradient steps of a consistency update.
      mean_cg_iters: The same for the one-call estimate.
      mirrors: Whether the one-call estimate is averaged over the eight mirror
        images of the problem: eight times the cost for nothing that could be measured
        (docs/reports/samplers.md, table T7); the tables were made with it.
      eta: Share of fresh noise in a step of "ddim", in [0, 1].
      prior_precision: lambda_c, factor on the metric of the guess.
      consistency_from: Largest noise level at which the data pull.
      outside: Standard deviation of a guess beside the field of view over that
        inside in series of wide range, of the one-call estimate as well, see
        ``consistency.guess_spread``; 1 for everywhere alike.
    """

    num_samples: int = 8
    num_steps: int = 8
    rule: str | Rule | None = None
    solver: str | Solver = DEFAULT_SOLVER
    schedule: str | Schedule | None = None
    window: int = 128
    lateral: int = 0
    rows: int = 0
    cg_iters: int = 8
    mean_cg_iters: int = 20
    mirrors: bool = False
    eta: float = 0.85
    prior_precision: float = 1.0
    consistency_from: float = 80.0
    outside: float = consistency.OUTSIDE

    @property
    def windows(self) -> tuple[int, int, int]:
        """Largest extents along z, x and y that the network is given."""
        across = min(self.window, self.lateral or self.window)
        return (self.window, across, self.rows or across)

    def the_rule(self) -> Rule | None:
        """The function that is meant by ``rule``."""
        return methods.named("rule", self.rule, methods.RULES)

    def the_solver(self) -> Solver:
        """The function that is meant by ``solver``."""
        return methods.named("solver", self.solver, methods.SOLVERS)

    def the_schedule(self) -> Schedule:
        """The function that is meant by ``schedule``."""
        chosen = DEFAULT_SCHEDULE if self.schedule is None else self.schedule
        return methods.named("schedule", chosen, methods.SCHEDULES)

    def describe(self) -> dict[str, object]:
        """JSON-ready: functions by their names."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            key: getattr(value, "__name__", str(value)) if callable(value) else value
            for key, value in values.items()
        }


def check_windows(settings: Settings, network: Network) -> None:
    """Refuses a window that does not fit network and blending.

    Raises:
      InputError: Not a multiple of the network's, or not above the overlap.
    """
    multiple = network.config.multiple
    for name in ("window", "lateral", "rows"):
        window = getattr(settings, name)
        if name != "window" and window == 0:
            continue
        if window % multiple or window <= tiling.OVERLAP:
            raise InputError(
                f"settings.{name}: expected a multiple of {multiple} above "
                f"{tiling.OVERLAP}, got {window}; {16 * multiple} is such a number"
            )
