"""From specimens to tilt series, with the truth of everything that was drawn."""

from temdiff_jax.simulator.errors import ALIGNED as ALIGNED
from temdiff_jax.simulator.errors import IMPERFECT as IMPERFECT
from temdiff_jax.simulator.errors import DrawnErrors as DrawnErrors
from temdiff_jax.simulator.errors import ErrorConfig as ErrorConfig
from temdiff_jax.simulator.imaging import DETECTORS as DETECTORS
from temdiff_jax.simulator.imaging import ImagingConfig as ImagingConfig
from temdiff_jax.simulator.imaging import SimulatedSeries as SimulatedSeries
from temdiff_jax.simulator.imaging import simulate_series as simulate_series
from temdiff_jax.simulator.stain import SourceBank as SourceBank
from temdiff_jax.simulator.stain import StainConfig as StainConfig
from temdiff_jax.simulator.stain import grey_to_stain as grey_to_stain
from temdiff_jax.simulator.stain import make_bank as make_bank
from temdiff_jax.simulator.stain import sample_stain as sample_stain
