"""The rows of the table of methods that are samplers of ``diffusion.methods``."""

from __future__ import annotations

from typing import Any

from temdiff_jax.diffusion import methods as published
from temdiff_jax.reconstruction.method import Method, sampler_method
from temdiff_jax.reconstruction.settings import Settings


def published_rows() -> list[Method]:
    """Samplers of ``diffusion.methods``, and some of them under other numbers."""
    grids = published.GRIDS
    volumes: dict[str, Any] = {"volume": True}
    dolce = volumes | {"needs": "dolce", "conditional": True}
    dolce |= {"schedule": grids["dolce"]}
    mbir = volumes | {"needs": "diffusion_mbir", "conditional": False}
    own = {
        "dolce": dolce | {"settings": Settings(num_samples=8, num_steps=40)},
        "diffusion-mbir": mbir | {"schedule": grids["diffusion-mbir"], "landing": 2},
        "dds-3d": mbir | {"landing": 0},
        "dds": {"schedule": grids["dds"], "landing": 0},
    }
    rows = [
        sampler_method(name, make, **({"schedule": grids[name]} | own.get(name, {})))
        for name, make in published.SAMPLERS.items()
    ]
    samplers = published.SAMPLERS
    # Shorter runs.  Fewer steps make fewer updates of the data, so each is stronger.
    # Numbers that differ from the program's are the best of scans, see
    # docs/reports/learned_baselines.md.
    rows += [
        sampler_method(
            "dolce-fast",
            samplers["dolce"],
            **dolce | {"settings": Settings(num_samples=4, num_steps=20)},
        ),
        sampler_method(
            "diffusion-mbir-fast",
            samplers["diffusion-mbir"],
            numbers={"coupling": 0.006, "threshold": 0.3},
            counts={"num_iters": 3},
            settings=Settings(num_samples=1, num_steps=100),
            **own["diffusion-mbir"],
        ),
        sampler_method(
            "dds-tuned",
            samplers["dds"],
            numbers={"eta": 0.0},
            counts={"num_iters": 1},
            **own["dds"],
        ),
    ]
    return rows
