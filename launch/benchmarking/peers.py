"""Other projects' projectors as processes that answer requests.

Each peer runs in an environment of its own, behind the adapter of
``third_party/peers`` that speaks its language; this is the other end of
``harness.Session``.  A peer stays alive over all cases, so that the start of its
interpreter and of its libraries is paid once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags, logging

from temdiff_jax.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[2]
ADAPTERS = ROOT / "third_party" / "peers"


@dataclasses.dataclass(frozen=True)
class Spec:
    """How a peer is started.

    Attributes:
      environment: Folder of ``third_party/peers`` with its requirements.
      adapter: Program there.
      words: Added to its command line.
      compiles: Whether its first call compiles, and so tells nothing of the next.
    """

    environment: str
    adapter: str
    words: tuple[str, ...] = ()
    compiles: bool = False


PEERS: dict[str, Spec] = {
    "astra": Spec("astra", "astra_peer.py"),
    "mbirjax": Spec("mbirjax", "mbirjax_peer.py", compiles=True),
    "svmbir": Spec("svmbir", "svmbir_peer.py"),
    "scico": Spec("scico", "scico_peer.py", compiles=True),
    "scico-2d": Spec("scico", "scico_peer.py", ("--method", "2d"), compiles=True),
    "skimage": Spec("skimage", "skimage_peer.py"),
}


class PeerError(RuntimeError):
    """A peer refused, died or did not answer in time."""


class PeerTimeout(PeerError):
    """A peer did not answer in time and was ended."""


def define_flags() -> None:
    """Defines --peers and one --NAME_python for each environment."""
    flags.DEFINE_list("peers", list(PEERS), "Peers to run beside ours.")
    for name in sorted({spec.environment for spec in PEERS.values()}):
        flags.DEFINE_string(
            f"{name}_python",
            f".venv-peers/{name}/bin/python",
            f"Interpreter of the environment with {name}, absolute or from the root.",
        )


def installed(given: flags.FlagValues) -> dict[str, Peer]:
    """The peers asked for whose interpreter exists; the others are logged."""
    unknown = sorted(set(given.peers) - set(PEERS))
    if unknown:
        raise InputError(
            f"--peers: expected some of {', '.join(PEERS)}, got {unknown[0]}; "
            "correct the name"
        )
    found = {}
    for name in given.peers:
        python = ROOT / getattr(given, f"{PEERS[name].environment}_python")
        if os.access(python, os.X_OK):
            found[name] = Peer(name, PEERS[name], python)
        else:
            logging.warning("%s left out: no %s; run `make peers`", name, python)
    return found


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what would make a peer import from another environment than its own."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "XLA_FLAGS")
    return {key: value for key, value in environment.items() if key not in ours}


class Peer:
    """A peer's process, started at the first request and again after a failure."""

    def __init__(self, name: str, spec: Spec, python: pathlib.Path) -> None:
        self.name = name
        self.compiles = spec.compiles
        adapter = str(ADAPTERS / spec.adapter)
        self._command = [str(python), adapter, *spec.words, "--serve"]
        self._process: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        # A file, not a pipe: nobody reads while the peer works.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._answers: queue.Queue[str] = queue.Queue()
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=clean_environment(os.environ),
        )

        def read(answers: queue.Queue[str] = self._answers) -> None:
            assert process.stdout is not None
            for line in process.stdout:
                answers.put(line)
            answers.put("")

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        return process

    def ask(self, do: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """The answer to one request of ``harness.Session``.

        Args:
          do: ``open``, ``time``, ``check``, ``project`` or ``close``.
          timeout_s: Seconds after which the process is ended.
          **fields: What the request needs.

        Raises:
          PeerTimeout: No answer in time.
          PeerError: The process ended, or the answer is an error.
        """
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self.stop()
            raise PeerTimeout(f"stopped after {timeout_s:.0f} s") from None
        except OSError:
            line = ""
        if not line:
            raise PeerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        """What a process that ended by itself says of it."""
        assert self._process is not None
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        self.stop()
        return f"ended with code {code}: {lines[-1] if lines else 'no message'}"

    def stop(self) -> None:
        """Ends the process; the next request starts another one."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        # It must have seen the end of the stream before that is closed under it.
        self._reader.join(timeout=5.0)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # what was not sent cannot be flushed to a dead process
                pass
        self._process = None


def stop_all(peers: Sequence[Peer]) -> None:
    """Ends all processes."""
    for peer in peers:
        peer.stop()
