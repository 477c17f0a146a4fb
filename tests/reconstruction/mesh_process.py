"""Reconstructs on one device and on a mesh, and says how far apart the results are.

    python mesh_process.py PRIOR SAMPLES SLABS [COORDINATOR NUM_PROCESSES PROCESS_ID]

One line of JSON: largest differences as shares of the largest values, and what the
program of the sampling steps sends between devices.  Without progress it ends itself.
"""

import faulthandler
import json
import re
import sys
import tempfile

import jax
import numpy as np

from temdiff_jax import parallel
from temdiff_jax.diffusion import chunked
from temdiff_jax.projector import kernels
from temdiff_jax.reconstruction import api

LIMIT_S = 900
NAMES = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter|"
NAMES += "collective-broadcast|ragged-all-to-all"
CALL = re.compile(r"= *(.*?) (" + NAMES + r")(?:-start)?[(]")
COMPARED = ("mean", "std", "samples", "tikhonov", "reprojection", "chi2", "weights")
ANGLES = (-20.0, -8.0, 8.0, 20.0)


def tilts():
    rng = np.random.default_rng(0)
    fine = rng.normal(size=(len(ANGLES), 16, 12)).cumsum(axis=1).cumsum(axis=2)
    return np.float32(fine + 2.0 * rng.normal(size=fine.shape))


def compiled_texts(monkey) -> list[str]:
    """Texts of the programs of sampling steps, as they are compiled."""
    texts: list[str] = []
    step = monkey._chunk

    def spy(*args, **kwargs):
        texts.append(step.lower(*args, **kwargs).compile().as_text())
        return step(*args, **kwargs)

    monkey._chunk = spy
    return texts


def main(prior: str, shape: tuple[int, int]) -> None:
    kernels.UNROLL = 1
    options = {
        "thickness": 8,
        "prior": prior,
        "num_samples": 2 * shape[0],
        "num_steps": 2,
        "weighting": "off",
        "contrast": "bright",
        "keep_samples": True,
    }
    alone = api.reconstruct(tilts(), ANGLES, **options)
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    texts = compiled_texts(chunked)
    mesh = parallel.sampling_mesh(*shape)
    together = api.reconstruct(tilts(), ANGLES, mesh=mesh, **options)
    errors = {}
    for name in COMPARED:
        one, many = getattr(alone, name), getattr(together, name)
        scale = alone.mean if name in ("std", "samples") else one
        errors[name] = float(np.max(np.abs(one - many)) / np.max(np.abs(scale)))
    sent = sorted({(call, form) for form, call in CALL.findall(texts[0])})
    print(json.dumps({"errors": errors, "sent": sent}), flush=True)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    path, samples, slabs, *others = sys.argv[1:]
    if others:
        jax.distributed.initialize(
            others[0],
            int(others[1]),
            int(others[2]),
            cluster_detection_method="deactivate",
            coordinator_bind_address=others[0] if others[2] == "0" else None,
        )
    with tempfile.TemporaryDirectory() as cache:
        # What is compiled to be looked at is not compiled again to be run.
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        main(path, (int(samples), int(slabs)))
    if others:
        jax.distributed.shutdown()
