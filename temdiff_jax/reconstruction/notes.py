"""What is said about a finished run, from its record: decisions and doubts.

The terminal, the page, the labels of the volumes and the JSON all say the same lines.
"""

from __future__ import annotations

from typing import Any

from temdiff_jax.series import intensity

WARNING = "warning: "
# Root mean square of the shifts of tilts that is worth a word, pixels.
VISIBLE_PX = 0.3
# Share of the tilts.
MOST = 0.5


def decisions(provenance: dict[str, Any]) -> list[str]:
    """What was decided about intensities and alignment, a line each, no warnings."""
    lines = [x for x in intensity.said(provenance["intensity"]) if WARNING not in x]
    if not provenance["alignment"].startswith("none"):
        lines.append(f"shifts and turns: {provenance['alignment']}")
    weighed = provenance["weighting"]
    if weighed.get("misalignment_px") and weighed.get("shift_px", 0.0) <= VISIBLE_PX:
        lines.append(
            f"shifts of the tilts {weighed['shift_px']:.2f} pixels by the estimate; "
            "what it leaves over was allowed for as if they were "
            f"{weighed['misalignment_px']:.1f}"
        )
    return lines


def warnings(provenance: dict[str, Any]) -> list[str]:
    """Doubts about the tilts and the model, a line each."""
    found = [x for x in intensity.said(provenance["intensity"]) if WARNING in x]
    return [x.removeprefix(WARNING) for x in found] + doubts(provenance["weighting"])


def doubts(record: dict[str, Any]) -> list[str]:
    """Misalignment, and tilts that disagree, a line each.

    Where most tilts disagree, none of them is to blame but what all have in common.

    Args:
      record: Of the weighting, see ``series.preparation.prepare``.
    """
    lines = []
    if record.get("misalignment_px") and record.get("shift_px", 0.0) > VISIBLE_PX:
        lines.append(
            f"tilts are off by some {record['shift_px']:.1f} pixels and were trusted "
            "accordingly; align them better for a better volume"
        )
    bad, count = record.get("unreliable", ()), len(record.get("factors", ()))
    if len(bad) > MOST * count:
        who = f"all {count}" if len(bad) == count else f"{len(bad)} of {count}"
        return [
            *lines,
            f"{who} tilts differ from what any volume would show; no single tilt is to "
            "blame but what they share: check thickness, direction of the tilt axis, "
            "order and sign of the angles, logarithm (--log) and contrast",
        ]
    return lines + [
        f"tilt at {tilt['angle_deg']:g} degrees disagrees with the others, weight "
        f"factor {tilt['factor']:.2f}"
        for tilt in bad
    ]
