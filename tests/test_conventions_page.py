"""The snippets of docs/conventions.md run one after another, as a reader would."""

import re
from pathlib import Path

import pytest

from temdiff_jax.projector import kernels

PAGE = Path(__file__).resolve().parent.parent / "docs" / "conventions.md"


def snippets() -> list[tuple[int, str]]:
    """Line of the page and source of every python block."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, m.start()) + 2, m[1]) for m in blocks]


@pytest.mark.slow
def test_every_snippet_runs(monkeypatch: pytest.MonkeyPatch):
    # Loop bodies of one plane compile in a fraction of the time.
    monkeypatch.setattr(kernels, "UNROLL", 1)
    names: dict[str, object] = {}
    found = snippets()
    assert len(found) > 10
    for line, source in found:
        # Blank lines in front, so that a traceback names the line of the page.
        exec(compile("\n" * (line - 1) + source, str(PAGE), "exec"), names)
    # The last one projects with both signs; at -30 degrees the other tilt is seen.
    assert names["plus"].shape == names["minus"].shape == (20, 24)


def test_every_package_with_a_conversion_has_a_snippet():
    source = "".join(text for _, text in snippets())
    for name in ("imod", "aretomo", "relion", "warp"):
        assert f"packages.from_{name}(" in source
