"""A small tilt series on disk, and a library that answers at once.

The fake stands for `temdiff_jax.reconstruction`, whose own tests say whether it is
right; here the question is what the command passes in and what it does with the answer.
Neither is the page drawn, which takes longer than all the rest.
"""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest

from temdiff_jax import baselines, report
from temdiff_jax.cli import environment
from temdiff_jax.geometry import CONVENTION
from temdiff_jax.io import write
from temdiff_jax.model import NetworkConfig
from temdiff_jax.reconstruction import api, plan, watch

ANGLES = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
NUM_TILTS, HEIGHT, WIDTH = 5, 10, 14


@dataclasses.dataclass
class Series:
    """Paths of a series on disk: 5 tilts of 10 x 14 pixels of 20 Angstrom."""

    stack: Path
    angles: Path
    tilts: np.ndarray


@pytest.fixture
def series(tmp_path) -> Series:
    tilts = np.random.default_rng(0).normal(5.0, 1.0, (NUM_TILTS, HEIGHT, WIDTH))
    tilts = tilts.astype(np.float32)
    stack, angles = tmp_path / "grid.mrc", tmp_path / "grid.tlt"
    write.write_mrc(stack, tilts, 20.0, is_stack=True)
    write.write_tlt(angles, ANGLES)
    return Series(stack, angles, tilts)


@dataclasses.dataclass
class Library:
    """What the fake library was asked, call by call."""

    calls: list[dict]
    error: Exception | None = None
    weighting: dict = dataclasses.field(default_factory=dict)
    trust: dict | None = None


@pytest.fixture
def library(monkeypatch, tmp_path) -> Library:
    record = Library([])

    def run(planned, *, state, on_progress):
        job, choice = planned.job, planned.choice
        tilts, thickness = job.series.tilts, job.options.thickness
        record.calls.append(
            {
                "tilts": tilts,
                "angles": job.series.angles_deg,
                "thickness": thickness,
                "prior": choice.prior.name,
                "method": choice.method,
                "settings": choice.settings,
                "key": plan.key_data(planned.key)[-1],
                "log": job.options.log,
                "weighting": job.options.weighting,
                "voxel_size_angstrom": job.series.voxel_size_angstrom,
            }
        )
        if record.error is not None:
            raise record.error
        shape = (thickness or 6, *tilts.shape[1:])
        mean = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        for done in range(3):
            on_progress(done, 2, "sampling")
        return types.SimpleNamespace(
            mean=mean,
            std=np.full(shape, 0.5, np.float32)
            if "num_samples" in choice.method.takes
            else None,
            samples=None,
            residual=np.full(tilts.shape, -0.25, np.float32),
            reprojection=tilts - 0.25,
            chi2=np.linspace(0.9, 1.1, len(tilts)),
            weights=np.ones(len(tilts)),
            tikhonov=0.5 * mean,
            provenance={
                "num_samples": choice.settings.num_samples,
                "num_steps": choice.settings.num_steps,
                "prior_sha256": choice.prior.sha256,
                "run": watch.run_id(planned.identity()),
                "weighting": record.weighting,
                "trust": record.trust,
                "method": choice.method.name,
                "prior": {"name": choice.prior.name},
                "key": plan.key_data(planned.key),
                "draws": "num_samples" in choice.method.takes,
                "intervals": {"uncalibrated": "no factors"},
                "intensity": job.intensity,
                "warnings": [*job.series.warnings],
                "alignment": "none: the tilts are taken as aligned",
                "angles_deg": list(job.series.angles_deg),
                "voxel_size_angstrom": job.series.voxel_size_angstrom,
                "convention": CONVENTION,
            },
            alignment=None,
        )

    def linear(tilts, angles, *, thickness, **_):
        return np.ones((thickness, *tilts.shape[1:]), np.float32)

    def page(path, page, *, overwrite):
        with write.atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_bytes(b"a page")

    def prior(method, name, settings):
        """Names are checked by the library itself; no network is read."""
        network = types.SimpleNamespace(config=NetworkConfig())
        return types.SimpleNamespace(
            name=name,
            network=network,
            params={},
            sha256="ab" * 32,
            card={"name": name},
        )

    monkeypatch.setattr(plan, "_prior", prior)
    monkeypatch.setattr(api, "run", run)
    monkeypatch.setattr(baselines, "fbp", linear, raising=False)
    monkeypatch.setattr(baselines, "tikhonov", linear, raising=False)
    monkeypatch.setattr(report, "write_page", page)
    # The setting is global to jax and would outlive the test.
    monkeypatch.setattr(environment, "prepare_jax", lambda: tmp_path)
    return record
