"""What a program sets up before the first computation."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# jaxlib 0.10 hands convolutions to YNNPACK, whose gradient with respect to a kernel
# takes four times as long as XLA's own; matrix products are faster there
# (docs/training.md).
OPTION = "xla_cpu_experimental_ynn_fusion_type"
VALUE = "individual_dot"


def prefer_own_convolutions(environ: MutableMapping[str, str] = os.environ) -> None:
    """Adds to XLA_FLAGS what makes training steps faster on a CPU.

    An option that the user gave stays.  Call it before jax meets its first array.
    """
    given = environ.get("XLA_FLAGS", "")
    if OPTION not in given:
        environ["XLA_FLAGS"] = f"{given} --{OPTION}={VALUE}".strip()
