"""A first reading in a process of its own, for libraries that damaged files crash.

The HDF5 library reads addresses from the file and follows them; a flipped bit can end
the process.  So a child reads the file first, and what kills it is refused here.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from temdiff_jax.io import gate

_TIMEOUT_S = 600.0
_CODE = (
    "import importlib, json, sys; module, path, limit, places = sys.argv[1:]; "
    "sys.path[:0] = json.loads(places); "
    "importlib.import_module(module).parse(path, float(limit))"
)


def try_parse(module: str, path: pathlib.Path, max_input_gb: float) -> None:
    """Run ``parse(path, max_input_gb)`` of a module in a child process.

    Exceptions of the child do not matter: the caller meets them itself.

    Raises:
      InputError: the child was ended by a signal, or took ten minutes.
    """
    places = json.dumps([place for place in sys.path if place])
    words = [sys.executable, "-c", _CODE, module, str(path), str(max_input_gb), places]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise gate.bad_input(
            path, "a file that is read in ten minutes", "none", "export it as MRC"
        ) from None
    if done.returncode < 0:
        raise gate.bad_input(
            path,
            "a sound file",
            f"one that ends its reader (signal {-done.returncode})",
            "it is damaged; copy or export it again",
        )
