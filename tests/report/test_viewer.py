"""The report as HTML: what it holds is what was given, within its size."""

import base64
import html.parser
import json
import re
import zlib

import numpy as np
import pytest

from temdiff_jax import baselines, projector, report
from temdiff_jax.errors import InputError
from temdiff_jax.geometry import TiltGeometry
from temdiff_jax.report import packed, tables, viewer

HOSTILE = "</script><script>alert('a & b')</script><img src=x onerror=alert(1)>"
ANGLES = np.linspace(-4.0, 4.0, 5)


def run(shape=(6, 10, 14), title="series: 5 tilts", **changes):
    """A run with a ramp and noise for volumes."""
    rng = np.random.default_rng(3)
    ramp = np.linspace(0.0, 1.0, np.prod(shape), dtype=np.float32).reshape(shape)
    tilts = rng.normal(size=(5, *shape[1:])).astype(np.float32)
    page = report.Page(
        volumes={
            "fbp": 40.0 * ramp,
            "tikhonov": ramp,
            "mean": ramp + 0.01 * rng.normal(size=shape).astype(np.float32),
            "std": 0.1 + 0.01 * ramp,
        },
        tilts=tilts,
        reprojection=0.9 * tilts,
        residual=-0.1 * tilts,
        angles_deg=ANGLES,
        chi2=np.array([0.9, 1.0, 1.1, 3.0, np.nan]),
        title=title,
        voxel_size_angstrom=25.0,
    )
    values = {
        "page": page,
        "record": {"run": "r1", "weights": np.ones(5), "chi2": [1.0, float("nan")]},
        "decisions": ["logarithm off (by the images)"],
        "again": {"In Python": "reconstruct(tilts, angles)"},
        "cover": "series_report.png",
    }
    return viewer.Run(**values | changes)


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, and the text of the scripts by their id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.held, self._id = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._id = dict(attrs).get("id", "script") if tag == "script" else None

    def handle_endtag(self, tag):
        self._id = None

    def handle_data(self, data):
        if self._id is not None:
            self.held[self._id] = self.held.get(self._id, "") + data


def volume_of(parsed, number, shape):
    """The bytes of a volume, as the script of the page takes them apart."""
    steps = zlib.decompress(base64.b64decode(parsed.held[f"volume-{number}"]))
    steps = np.frombuffer(steps, np.uint8).reshape(shape)
    return np.cumsum(steps, axis=0, dtype=np.uint8)


def test_planes_come_back_within_a_grey_level():
    given = run()
    parsed = Parsed(viewer.html_of(given))
    page = json.loads(parsed.held["page"])
    assert page["shape"] == [6, 10, 14] and page["factor"] == 1
    labels = ["FBP", "quadratic estimate", "mean", "standard deviation"]
    assert [volume["label"] for volume in page["volumes"]] == labels
    assert len({volume["low"] for volume in page["volumes"][:3]}) == 1
    for number, name in enumerate(given.page.volumes):
        low, high = (page["volumes"][number][end] for end in ("low", "high"))
        values = low + volume_of(parsed, number, (6, 10, 14)) / 255 * (high - low)
        right = np.clip(given.page.volumes[name], low, high)
        np.testing.assert_allclose(values, right, atol=(high - low) / 255)


def test_the_record_in_the_page_is_that_of_the_run():
    record = {"name": HOSTILE, "chi2": [1.0, float("nan")], "a": np.arange(3)}
    parsed = Parsed(viewer.html_of(run(record=record)))
    right = {"name": HOSTILE, "chi2": [1.0, None], "a": [0, 1, 2]}
    assert json.loads(parsed.held["record"]) == right


def test_hostile_names_are_text_and_nothing_is_asked_for():
    text = viewer.html_of(
        run(
            title=HOSTILE,
            cover=HOSTILE,
            decisions=[HOSTILE],
            again={HOSTILE: HOSTILE},
            spread=HOSTILE,
            caveat=HOSTILE,
            record={"warnings": [HOSTILE], "trust": {"sentences": [HOSTILE]}},
        )
    )
    parsed = Parsed(text)
    assert len([tag for tag, _ in parsed.tags if tag == "script"]) == 2 + 4 + 3 + 1
    attributes = [a for _, attrs in parsed.tags for a in attrs.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    sources = [value for name, value in attributes if name in ("src", "href")]
    assert sources and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert not re.search(r"url\(|fetch\(|XMLHttpRequest|import\(", text)
    assert any("default-src 'none'" in (value or "") for _, value in attributes)


def test_every_picture_and_control_has_a_name():
    parsed = Parsed(viewer.html_of(run()))
    labelled = {a["for"] for tag, a in parsed.tags if tag == "label"}
    for tag, attrs in parsed.tags:
        if tag == "img":
            assert attrs["alt"]
        if tag == "input":
            assert attrs["id"] in labelled
        if tag in ("canvas", "svg") and attrs.get("role"):
            assert attrs["role"] == "img" and attrs["aria-label"]


def test_large_volumes_are_binned_until_the_file_is_small(monkeypatch):
    monkeypatch.setattr(viewer, "LIMIT", 300_000)
    rng = np.random.default_rng(0)
    given = run((33, 40, 70))
    noise = rng.normal(size=(33, 40, 70)).astype(np.float32)
    volumes = {name: noise for name in given.page.volumes}
    object.__setattr__(given.page, "volumes", volumes)
    text = viewer.html_of(given)
    assert len(text.encode()) <= 300_000
    parsed = Parsed(text)
    page = json.loads(parsed.held["page"])
    factor = page["factor"]
    assert factor > 1 and f"binned {factor} times" in text
    assert page["extents"] == {"z": 33, "y": 40, "x": 70}
    assert page["shape"] == [-(-extent // factor) for extent in (33, 40, 70)]
    volume_of(parsed, 0, page["shape"])
    # 2.5 nm a voxel, 70 columns: 50 nm are the longest bar under 0.3 of the width.
    assert page["bar"]["label"] == "50 nm"
    assert page["bar"]["voxels"] == pytest.approx(20 / factor)
    monkeypatch.setattr(viewer, "LIMIT", 1000)
    with pytest.raises(InputError, match="at most 1000 bytes"):
        viewer.html_of(given)


def test_binning_keeps_means_and_the_last_voxels():
    volume = np.arange(2 * 3 * 5.0).reshape(2, 3, 5)
    small = packed.binned(volume, 2)
    assert small.shape == (1, 2, 3)
    assert small[0, 0, 0] == volume[:2, :2, :2].mean()
    assert small[0, 1, 2] == volume[:2, 2:, 4:].mean()


@pytest.mark.parametrize("tilt_axis", ["y", "x"])
def test_the_wedge_lies_where_tilts_of_one_side_put_their_power(tilt_axis):
    """Tilts from 20 to 50 degrees: FBP has power there, none mirrored."""
    from temdiff_jax.io import axis

    angles = np.linspace(20.0, 50.0, 16)
    geometry = TiltGeometry.from_degrees(angles, thickness=48, width=48, height=8)
    rng = np.random.default_rng(0)
    volume = rng.normal(size=geometry.volume_shape).astype(np.float32)
    tilts = np.swapaxes(np.asarray(projector.project(volume, geometry)), 1, 2)
    found = np.asarray(baselines.fbp(tilts, angles, thickness=48))
    power = 10 ** packed.log_power(axis.volume_to_file(found, tilt_axis), tilt_axis)
    drawn = viewer.wedge(angles, tilt_axis)
    centre = packed.SPECTRUM // 2

    def along(mirrored):
        total = 0.0
        for x, z in drawn["tilts"]:
            for radius in np.linspace(0.1, 0.8, 20):
                column = round(centre + mirrored * radius * x * packed.SPECTRUM)
                row = round(centre + radius * z * packed.SPECTRUM)
                total += power[row, column]
        return total

    assert along(1) > 20 * along(-1)


def test_a_verdict_heads_the_page_and_its_figures_stand_in_the_tables():
    found = {
        "verdict": "INCONSISTENT",
        "sentences": ["INCONSISTENT: shifts of 3 pixels.", "More."],
        "tests": [
            {"name": "agreement", "outcome": "failed", "figure": 31.0, "power": "-"}
        ],
        "causes": [],
        "shifts_px": [[1.0, 2.0], None, [0.0, 0.0], [0.5, -0.5], [3.0, 1.0]],
        "shift_errors_px": [[0.1, 0.2], None, [0.1, 0.1], [0.1, 0.1], [0.1, 0.1]],
        "per_tilt": {"chi2_noise": [1.0, 1.1, 1.2, 1.3, 1.4]},
        "held_out": {"angles_deg": [-4.0, 4.0], "z": [1.0, 1.5], "rows": [0, 4]},
    }
    for record in ({"trust": found}, {"library": {"trust": found}}):
        text = viewer.html_of(run(record=record))
        assert 'class="verdict inconsistent"' in text
        assert text.index("shifts of 3 pixels") < text.index("<main>")
        assert "+1.00 \u00b1 0.10" in text and "<td>1.4</td>" in text
        assert 'class="text failed">failed' in text and "Tilts held out" in text
    bare = viewer.html_of(run(record={"trust": None}))
    assert "NO VERDICT" in bare and "was not examined" in bare


def test_facts_name_what_a_record_has_and_nothing_else():
    record = {
        "input": {"path": "a.mrc", "bin": 2, "exclude": None, "decisions": ["d"]},
        "library": {"prior": {"name": "p"}, "alignment": "none"},
    }
    found = list(tables.facts(record, ["logarithm off"]))
    assert found[:2] == [("series", "logarithm off"), ("file", "d")]
    assert dict(found[2:]) == {
        "input": "a.mrc",
        "binning of the images": "2",
        "alignment": "none",
        "prior": "p",
    }


def test_an_existing_file_stays(tmp_path):
    path = tmp_path / "a.html"
    viewer.write_run(path, run())
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists"):
        viewer.write_run(path, run(title="other"))
    assert path.read_bytes() == before
    viewer.write_run(path, run(title="other"), overwrite=True)
    assert path.read_bytes() != before
