"""The network, a U-Net behind ``(init, apply)``; the only use of Flax."""

from temdiff_jax.model.network import KINDS as KINDS
from temdiff_jax.model.network import NUM_FEATURES as NUM_FEATURES
from temdiff_jax.model.network import NUM_SERIES as NUM_SERIES
from temdiff_jax.model.network import Condition as Condition
from temdiff_jax.model.network import Network as Network
from temdiff_jax.model.network import NetworkConfig as NetworkConfig
from temdiff_jax.model.network import make_network as make_network
from temdiff_jax.model.unet import NORMS as NORMS
