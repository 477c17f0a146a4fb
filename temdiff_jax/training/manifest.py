"""A list of SHA-256 digests that tells whether a folder is still what was written.

Array stores detect torn files but not every flipped bit in large arrays, so a folder
that matters carries ``MANIFEST.sha256``: one line a file in the form that
``sha256sum --check`` reads, between a comment with the format version and a comment
with the digest of the lines above.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from temdiff_jax.io import write

NAME = "MANIFEST.sha256"
FORMAT_VERSION = 1
HEADER = f"# temdiff_jax manifest, format_version {FORMAT_VERSION}\n"


class Damaged(Exception):
    """A folder is not what its manifest says; the message names the first file."""


def create(folder: Path) -> None:
    """Makes the files of a folder durable, then writes their manifest.

    The manifest comes last and appears whole or not at all: a folder with one is
    complete.

    Raises:
      OSError: The disk is full or fails.
    """
    names = _files(folder)
    lines = HEADER + "".join(f"{_digest(folder / n)}  {n}\n" for n in names)
    for path in [folder / n for n in names]:
        _sync(path)
    for inner in sorted({(folder / n).parent for n in names} | {folder.parent}):
        _sync(inner)
    write.write_text(folder / NAME, lines + _footer(lines), overwrite=True)


def check(folder: Path) -> None:
    """Compares a folder with its manifest.

    Raises:
      Damaged: The manifest or a file is missing, truncated or changed.
    """
    for name, expected in _read(folder).items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise Damaged(f"{name}: expected a plain file, found none")
        found = _digest(path)
        if found != expected:
            raise Damaged(
                f"{name}: expected sha256 {expected[:12]}..., got {found[:12]}... in "
                f"{path.stat().st_size} bytes"
            )


def _read(folder: Path) -> dict[str, str]:
    try:
        text = (folder / NAME).read_bytes().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{NAME}: expected a readable list, got {error}") from None
    first = text.partition("\n")[0] + "\n"
    if first != HEADER:
        raise Damaged(f"{NAME}: expected {HEADER.strip()!r}, got {first.strip()!r:.80}")
    head, _, _ = text.rpartition("# ")
    if text != head + _footer(head):
        raise Damaged(f"{NAME}: its own digest does not fit; it was cut or changed")
    digests = {}
    for line in head.splitlines()[1:]:
        digest, _, name = line.partition("  ")
        # The list proves itself, yet it never leads outside its folder.
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise Damaged(f"{NAME}: expected names inside the folder, got {name!r}")
        digests[name] = digest
    return digests


def _footer(lines: str) -> str:
    return f"# {hashlib.sha256(lines.encode('ascii')).hexdigest()}\n"


def _files(folder: Path) -> list[str]:
    found = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return sorted(p.relative_to(folder).as_posix() for p in found if p.name != NAME)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
