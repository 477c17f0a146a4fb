"""A reader that dies takes nobody with it."""

import sys

import pytest

from temdiff_jax.io.formats import apart
from temdiff_jax.io.gate import InputError

DEADLY = """
import os, signal
def parse(path, limit):
    assert limit == 2.5
    if path.endswith("bad"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.endswith("wrong"):
        raise ValueError("met by the caller itself")
"""


def test_a_signal_is_one_line_and_an_exception_is_the_callers(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("good", "wrong"):
        apart.try_parse("deadly", tmp_path / name, 2.5)
    with pytest.raises(InputError, match=r"ends its reader \(signal 11\)") as error:
        apart.try_parse("deadly", tmp_path / "bad", 2.5)
    assert "\n" not in str(error.value)
