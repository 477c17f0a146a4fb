import struct
import time

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from temdiff_jax import report
from temdiff_jax.report import blocks, page, panels

SHAPE = (6, 10, 14)  # z, y, x
TILTS = (5, 10, 14)


def arguments(**changes):
    """Arguments of a page whose volumes and tilts hold a ramp and seeded noise."""
    rng = np.random.default_rng(3)
    ramp = np.linspace(0.0, 1.0, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    tilts = rng.normal(size=TILTS).astype(np.float32)
    values = {
        "volumes": {
            "fbp": 40.0 * ramp,
            "tikhonov": ramp,
            "mean": 2.0 * ramp,
            "std": 0.1 + 0.01 * ramp,
        },
        "tilts": tilts,
        "reprojection": 0.9 * tilts,
        "residual": -0.1 * tilts,
        "angles_deg": np.linspace(-4.0, 4.0, TILTS[0]),
        "chi2": np.array([0.9, 1.0, 1.1, 3.0, np.nan]),
        "title": "series: 5 tilts",
        "voxel_size_angstrom": 25.0,
    }
    return values | changes


def pictures(figure, gid):
    return [im for ax in figure.axes for im in ax.images if im.get_gid() == gid]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def labels(figure):
    return [
        text.get_text()
        for axes in figure.axes
        for text in axes.texts
        if text.get_gid() == "scale-bar-label"
    ]


@pytest.mark.slow
def test_page_is_a_png_of_the_page_width(tmp_path):
    path = tmp_path / "report.png"
    report.write_page(path, report.Page(**arguments(footer=["seed 0"])))
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width == blocks.PAGE_WIDTH_INCHES * page.DOTS_PER_INCH == 1800
    figure = report.draw_page(report.Page(**arguments(footer=["seed 0"])))
    assert height == pytest.approx(figure.get_figheight() * page.DOTS_PER_INCH, abs=1)
    assert [p.name for p in tmp_path.iterdir()] == ["report.png"]


@pytest.mark.slow
def test_page_is_the_same_twice_and_quick(tmp_path):
    start = time.monotonic()
    report.write_page(tmp_path / "a.png", report.Page(**arguments()))
    report.write_page(tmp_path / "b.png", report.Page(**arguments()))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert time.monotonic() - start < 20.0


def test_all_reconstructions_share_one_grey_scale():
    values = arguments()
    figure = report.draw_page(
        report.Page(**values, reference=0.5 * values["volumes"]["mean"])
    )
    grey = pictures(figure, "grey")
    assert len(grey) == 4 * 3  # fbp, tikhonov, mean, reference; xz, xy, yz
    volumes = values["volumes"]
    pooled = np.concatenate([volumes[name].ravel() for name in ("tikhonov", "mean")])
    expected = np.percentile(pooled.astype(np.float64), [0.5, 99.5])
    assert {picture.get_cmap().name for picture in grey} == {"gray"}
    for picture in grey:
        np.testing.assert_allclose(picture.get_clim(), expected, rtol=1e-12)


def test_std_residual_and_data_have_scales_of_their_own():
    values = arguments()
    figure = report.draw_page(report.Page(**values))
    (spread,) = {picture.get_clim() for picture in pictures(figure, "spread")}
    assert spread[0] == 0.0
    assert 0.1 < spread[1] < 0.11
    (data,) = {picture.get_clim() for picture in pictures(figure, "data")}
    assert len(pictures(figure, "data")) == 6
    np.testing.assert_allclose(
        data, np.percentile(values["tilts"].astype(np.float64), [0.5, 99.5])
    )
    (residual,) = {picture.get_clim() for picture in pictures(figure, "residual")}
    assert residual[0] == -residual[1]
    bars = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert "standard deviation of the samples (input units)" in bars
    assert "residual (projected - measured)" in bars


def test_slices_are_cut_at_the_centre_and_drawn_upwards():
    values = arguments()
    figure = report.draw_page(report.Page(**values))
    fbp = values["volumes"]["fbp"]
    xz, xy, yz = pictures(figure, "grey")[::3]
    np.testing.assert_array_equal(xz.get_array(), fbp[:, 5, :])
    np.testing.assert_array_equal(xy.get_array(), fbp[3])
    np.testing.assert_array_equal(yz.get_array(), fbp[:, :, 7])
    assert {"xz at y = 5", "xy at z = 3", "yz at x = 7"} <= set(texts(figure))
    for axes in figure.axes:
        for picture in axes.images:
            assert picture.origin == "lower"
            bottom, top = axes.get_ylim()
            assert bottom < top


def test_a_bright_row_zero_comes_out_at_the_bottom_of_the_panel():
    tilts = np.zeros(TILTS, np.float32)
    tilts[:, 0, :] = 1.0
    figure = report.draw_page(report.Page(**arguments(tilts=tilts)))
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., 0]
    panel = pictures(figure, "data")[1].axes.get_window_extent()
    left, right = round(panel.x0) + 4, round(panel.x1) - 4
    bottom, top = len(pixels) - round(panel.y0) - 6, len(pixels) - round(panel.y1) + 6
    assert pixels[bottom, left:right].min() > 200
    assert pixels[top, left:right].max() < 50


def test_first_middle_and_last_tilt_are_shown():
    values = arguments()
    figure = report.draw_page(report.Page(**values))
    shown = pictures(figure, "residual")
    for picture, tilt in zip(shown, (0, 2, 4), strict=True):
        np.testing.assert_array_equal(picture.get_array(), values["residual"][tilt])
    assert "tilt 0, -4.0 degrees" in texts(figure)
    assert "tilt 4, +4.0 degrees" in texts(figure)


def test_a_single_tilt_is_shown_once():
    one = {name: arguments()[name][:1] for name in ("tilts", "reprojection")}
    figure = report.draw_page(
        report.Page(
            **arguments(
                **one,
                residual=arguments()["residual"][:1],
                angles_deg=[0.0],
                chi2=[1.0],
            )
        )
    )
    assert len(pictures(figure, "residual")) == 1


def test_chi2_bars_have_the_heights_given_and_a_gap_for_nan():
    figure = report.draw_page(report.Page(**arguments()))
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == "chi2 / n"]
    (bars,) = axes.containers
    np.testing.assert_allclose([b.get_height() for b in bars], [0.9, 1, 1.1, 3, 0])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["-4", "-2", "0", "2", "4"]
    assert axes.get_ylim() == (0.0, pytest.approx(3.3))


def test_scale_bars_are_in_nm_and_of_the_length_they_say():
    figure = report.draw_page(report.Page(**arguments()))
    # 14 voxels of 2.5 nm: 30 % of 35 nm allows a bar of 10 nm, 4 voxels
    assert labels(figure) == ["10 nm", "10 nm", "5 nm", "10 nm"]
    bar = figure.axes[0].lines[0]
    left, right = bar.get_xdata()
    assert (right - left) * 14 == pytest.approx(4.0)


def test_scale_bars_count_voxels_when_the_size_is_unknown():
    figure = report.draw_page(report.Page(**arguments(voxel_size_angstrom=None)))
    assert labels(figure) == ["2 voxels", "2 voxels", "2 voxels", "2 voxels"]


@pytest.mark.parametrize(
    ("longest", "expected"),
    [(1.0, 1.0), (1.99, 1.0), (4.9, 2.0), (9.99, 5.0), (120.0, 100.0), (0.03, 0.02)],
)
def test_nice_length(longest, expected):
    assert panels.nice_length(longest) == pytest.approx(expected)


@pytest.mark.slow
def test_footer_lines_are_wrapped_and_odd_characters_replaced():
    figure = report.draw_page(
        report.Page(**arguments(title="a$b$\x1b[31m \u6f22", footer=["word " * 100]))
    )
    assert "a$b$?[31m ?" in texts(figure)
    footer = [text for text in texts(figure) if text.startswith("word")]
    assert len(footer) == 4
    figure.canvas.draw()  # a glyph the font lacks would warn here


def test_constant_volumes_still_draw():
    flat = {name: np.ones(SHAPE) for name in ("tikhonov", "mean")}
    figure = report.draw_page(
        report.Page(**arguments(volumes=flat | {"std": np.zeros(SHAPE)}))
    )
    low, high = pictures(figure, "grey")[0].get_clim()
    assert low < 1.0 < high
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"volumes": {"std": np.ones(SHAPE)}}, "at least one volume"),
        ({"reference": np.ones((6, 10, 13))}, r"'reference \(full range\)' \[6, 10, 1"),
        ({"residual": np.ones((4, 10, 14))}, r"expected residual as .* got \[4, 10"),
        ({"chi2": [1.0]}, "expected 5 angles and chi2 values"),
        ({"reprojection": np.full(TILTS, np.nan)}, "infinity in 'reprojection'"),
    ],
)
def test_bad_arrays_are_refused_and_nothing_is_written(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        report.write_page(tmp_path / "report.png", report.Page(**arguments(**changes)))
    assert not list(tmp_path.iterdir())
