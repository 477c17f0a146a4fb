"""`temdiff doctor`: what this installation has, for a first look and for a report."""

import importlib.util
import json
import os
import pathlib
import stat
from typing import Any

import typer

from temdiff_jax.cli import options

_OPTIONAL = {
    "h5py": "HDF5 and EMD files",
    "imagecodecs": "TIFF with LZW compression",
    "rsciio": "DM3, DM4, SER, EMI, HyperSpy files (pip install rosettasciio)",
}


def doctor(
    as_json: options.Json = False,
) -> None:
    """Print devices, memory, versions, priors, cache folder and optional packages.

    Ends with exit code 1 when something that every reconstruction needs is missing.
    """
    report = examine()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        for key, value in report.items():
            text = value if isinstance(value, str) else _text(value)
            typer.echo(f"{key:<12} {text}")
    if report["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Everything `temdiff doctor` prints, JSON-ready; starts the jax runtime."""
    import jax

    from temdiff_jax import priors
    from temdiff_jax.cli import environment
    from temdiff_jax.io import gate

    problems = []
    names = priors.prior_names()
    intact = {}
    for name in names:
        try:
            priors.load_prior(name)
            intact[name] = "intact"
        except Exception as error:
            intact[name] = str(error)
            problems.append(f"prior {name}: {error}")
    if not names:
        problems.append("no prior is installed")
    free = gate.free_memory_bytes()
    folder = environment.cache_folder()
    return {
        "temdiff_jax": environment.own_version(),
        "versions": environment.versions(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "cores": os.cpu_count() or 1,
        "free memory": "unknown" if free is None else f"{free / gate.GIB:.1f} GiB",
        "priors": intact,
        "cache": _cache(folder),
        "optional": {
            name: "installed" if importlib.util.find_spec(name) else f"missing: {what}"
            for name, what in _OPTIONAL.items()
        },
        "problems": problems,
    }


def _cache(folder: pathlib.Path) -> str:
    """The folder of compiled programs and who can enter it."""
    if not folder.is_dir():
        return f"{folder}, not there yet"
    mode = stat.S_IMODE(folder.stat().st_mode)
    return f"{folder}, mode {mode:04o}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return str(value)
