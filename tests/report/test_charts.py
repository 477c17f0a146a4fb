import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from temdiff_jax.errors import InputError
from temdiff_jax.evaluation.publish import Panel
from temdiff_jax.report import charts, panels

LINES = {
    "ours": [(1.0, 0.1), (2.0, None), (None, None)],
    "tv": [(0.5, 0.2), (1.5, 0.1), (2.5, 0.1)],
}
LINE = Panel("a title", "RMSE", ("8/2", "10/1", "20/2"), LINES)
BARS = Panel("bars", "dB", ("one", "two"), {"": [(-1.0, 0.5), (2.0, None)]}, bars=True)


def test_lines_hold_the_values_and_gaps_at_their_places():
    figure = charts.draw_charts([LINE, BARS], title="t")
    axes = figure.axes[0]
    assert axes.get_title() == "a title" and axes.get_ylabel() == "RMSE"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["8/2", "10/1", "20/2"]
    found = {c.get_label(): c.lines[0] for c in axes.containers}
    for name, values in LINES.items():
        expected = [np.nan if v is None else v for v, _ in values]
        np.testing.assert_array_equal(found[name].get_ydata(), expected)
        assert np.abs(found[name].get_xdata() - np.arange(3)).max() <= 0.15
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["ours", "tv"]


def test_a_name_has_one_colour_in_all_panels():
    other = Panel("b", "PSNR", ("8/2",), {"tv": [(1.0, None)]})
    figure = charts.draw_charts([LINE, other], title="t")
    colours = [
        {c.get_label(): c.lines[0].get_color() for c in axes.containers}
        for axes in figure.axes
    ]
    assert colours[0]["tv"] == colours[1]["tv"] != colours[0]["ours"]


def test_bars_are_named_from_the_top():
    figure = charts.draw_charts([BARS], title="t")
    axes = figure.axes[0]
    assert [p.get_width() for p in axes.patches] == [-1.0, 2.0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["one", "two"]
    low, high = axes.get_ylim()
    assert low > high
    seconds = Panel("s", "s", ("a",), {"": [(3.0, None)]}, bars=True, logarithmic=True)
    axes = charts.draw_charts([seconds], title="t").axes[0]
    assert axes.get_xscale() == "log"


def test_file_is_a_picture_and_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "c.png"
    charts.write_charts(path, [LINE] * 4, title="t")
    assert matplotlib.image.imread(path).ndim == 3
    with pytest.raises(InputError, match="exists"):
        charts.write_charts(path, [LINE], title="t")
    charts.write_charts(path, [BARS], title="t", overwrite=True)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="at least one panel"):
        charts.draw_charts([], title="t")
    short = Panel("x", "y", ("a", "b"), {"ours": [(1.0, None)]})
    with pytest.raises(ValueError, match=r"expected 2 values a line.*\['ours'\]"):
        charts.draw_charts([short], title="t")


def test_the_palette_of_the_file_changes_no_line_visibly(tmp_path):
    small = tmp_path / "small.png"
    full = tmp_path / "full.png"
    charts.write_charts(small, [LINE, BARS], title="t")
    figure = charts.draw_charts([LINE, BARS], title="t")
    panels.write_png(
        full, figure, "t", dpi=charts.DOTS_PER_INCH, overwrite=False, colours=None
    )
    with Image.open(small) as image, Image.open(full) as before:
        assert image.mode == "P" and image.text == before.text
        got, expected = (np.int32(i.convert("RGB")) for i in (image, before))
    assert got.shape == expected.shape
    assert np.max(np.abs(got - expected)) <= 64
    assert np.mean(np.abs(got - expected)) < 1.0
    assert small.stat().st_size < 0.6 * full.stat().st_size
