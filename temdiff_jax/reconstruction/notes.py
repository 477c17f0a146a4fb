"""What is said about a finished run, from its record: verdict, decisions and doubts.

The terminal, the page, the labels of the volumes and the JSON all say the same lines.
"""

from __future__ import annotations

from typing import Any

from temdiff_jax.series import intensity

WARNING = "warning: "


def verdict(provenance: dict[str, Any]) -> list[str]:
    """How far the result can be relied on, at most four sentences; see ``trust``."""
    found = provenance.get("trust")
    return list(found["sentences"]) if found else []


def decisions(provenance: dict[str, Any]) -> list[str]:
    """What was decided about intensities and alignment, a line each, no warnings."""
    lines = [x for x in intensity.said(provenance["intensity"]) if WARNING not in x]
    if not provenance["alignment"].startswith("none"):
        lines.append(f"shifts and turns: {provenance['alignment']}")
    assumed = provenance["weighting"].get("misalignment_px")
    if assumed:
        lines.append(
            f"the weights allow for shifts of the tilts of {assumed:.1f} pixels"
        )
    return lines


def warnings(provenance: dict[str, Any]) -> list[str]:
    """Doubts about the intensities, a line each."""
    found = [x for x in intensity.said(provenance["intensity"]) if WARNING in x]
    return [x.removeprefix(WARNING) for x in found]
