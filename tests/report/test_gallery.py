import matplotlib.image
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.report import gallery


def rows():
    rng = np.random.default_rng(0)
    return {
        "measured": [rng.normal(size=(20, 30)) for _ in range(3)],
        "simulated": [10 + 5 * rng.normal(size=(12, 30)) for _ in range(2)],
    }


def drawn(figure):
    images = [image for axes in figure.axes for image in axes.get_images()]
    return [image for image in images if image.get_gid() == "grey"]


def test_every_picture_is_drawn_once_and_rows_have_their_own_grey_scale():
    given = rows()
    images = drawn(gallery.draw_gallery(given, title="t"))
    expected = given["measured"] + given["simulated"]
    assert len(images) == 5
    for image, array in zip(images, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image.get_array()), array)
    first, second = images[0].norm, images[4].norm
    assert images[2].norm.vmin == first.vmin and second.vmin > first.vmin + 1
    values = np.concatenate([a.ravel() for a in given["simulated"]])
    np.testing.assert_allclose(
        (second.vmin, second.vmax), np.percentile(values, (0.5, 99.5))
    )


def test_columns_are_named_above_their_pictures():
    names = ["truth", "fbp", "mean"]
    figure = gallery.draw_gallery(rows(), title="t", columns=names)
    placed = {text.get_text(): text.get_position() for text in figure.texts}
    boxes = [axes.get_position() for axes in figure.axes[:3]]
    for name, box in zip(names, boxes, strict=True):
        x, y = placed[name]
        assert x == pytest.approx((box.x0 + box.x1) / 2, abs=1e-6)
        assert y > box.y1
    assert placed["t"][1] > placed["fbp"][1] > placed["measured"][1]
    long = [name * 9 for name in names]
    texts = gallery.draw_gallery(rows(), title="t", columns=long).texts
    for text in texts:
        if text.get_text() in long:
            extent = text.get_window_extent()
            assert extent.width < 12 / 3 * text.figure.dpi
    with pytest.raises(ValueError, match="expected 3 names of columns, got 2"):
        gallery.draw_gallery(rows(), title="t", columns=names[:2])


def test_curves_are_drawn_as_given():
    x = np.linspace(0.01, 0.5, 20)
    figure = gallery.draw_gallery(
        rows(), title="t", curves={"a": (x, 1 / x), "b": (x, x)}
    )
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    found = {line.get_label(): line for line in lines if line.get_gid() == "curve"}
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["a"].get_ydata(), 1 / x)


def test_file_is_a_picture_and_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "g.png"
    gallery.write_gallery(path, rows(), title="title")
    assert matplotlib.image.imread(path).shape[1] == round(12 * gallery.DOTS_PER_INCH)
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists"):
        gallery.write_gallery(path, rows(), title="title")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one row"),
        ({"a": []}, "finite images"),
        ({"a": [np.zeros((2, 3, 4))]}, "finite images"),
        ({"a": [np.full((3, 3), np.nan)]}, "finite images"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        gallery.draw_gallery(given, title="t")
