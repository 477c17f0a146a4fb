import base64
import html.parser
import io

import matplotlib.image
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.report import compare

SHAPE = (12, 10, 20)


def volumes():
    generator = np.random.default_rng(3)
    names = ["fbp", "a method with a rather long name", "reference"]
    return {name: generator.normal(size=SHAPE).astype(np.float32) for name in names}


def draw(given=None, voxel_size_angstrom=40.0, **cut):
    return compare.draw_comparison(
        volumes() if given is None else given,
        compare.Cut(**cut),
        title="series, -10 to 10 degrees",
        voxel_size_angstrom=voxel_size_angstrom,
    )


def pictures(figure):
    """Images drawn from a volume, in the order in which they were drawn."""
    images = [image for axes in figure.axes for image in axes.get_images()]
    return [image for image in images if image.get_gid() == "grey"]


def test_two_rows_of_slices_one_column_a_volume():
    given = volumes()
    drawn = pictures(draw(given, y=3, z=7))
    expected = [v[:, 3] for v in given.values()] + [v[7] for v in given.values()]
    assert len(drawn) == len(expected)
    for image, slice_ in zip(drawn, expected):
        np.testing.assert_array_equal(np.asarray(image.get_array()), slice_)
        assert image.origin == "lower"


def test_the_middle_is_the_default():
    given = volumes()
    drawn = pictures(draw(given))
    np.testing.assert_array_equal(
        np.asarray(drawn[0].get_array()), given["fbp"][:, SHAPE[1] // 2]
    )
    np.testing.assert_array_equal(
        np.asarray(drawn[3].get_array()), given["fbp"][SHAPE[0] // 2]
    )


def test_every_panel_shares_the_scale_of_the_named_volume():
    given = volumes()
    given["reference"] = given["reference"] * 10 + 100
    drawn = pictures(draw(given, grey_from="reference", y=3, z=7))
    values = np.concatenate(
        [given["reference"][:, 3].ravel(), given["reference"][7].ravel()]
    )
    limits = np.percentile(values.astype(np.float64), [0.5, 99.5])
    for image in drawn:
        np.testing.assert_allclose(image.get_clim(), limits, rtol=1e-6)


def test_z_range_cuts_the_side_view_alone():
    drawn = pictures(draw(z_range=(2, 9)))
    assert drawn[0].get_array().shape == (7, SHAPE[2])
    assert drawn[3].get_array().shape == SHAPE[1:]


def test_names_and_scale_bar_are_there():
    figure = draw()
    words = " ".join(text.get_text() for text in figure.texts)
    assert "series, -10 to 10 degrees" in words
    assert "a method with a" in words
    labels = [t.get_text() for axes in figure.axes for t in axes.texts]
    assert labels == ["20 nm", "20 nm"]


@pytest.mark.slow
def test_a_file_is_written_once(tmp_path):
    path = tmp_path / "figure.png"
    options = {"title": "t", "voxel_size_angstrom": None}
    compare.write_comparison(path, volumes(), **options)
    assert matplotlib.image.imread(path).shape[1] == 1800
    with pytest.raises(InputError, match="one that exists"):
        compare.write_comparison(path, volumes(), **options)
    compare.write_comparison(path, volumes(), overwrite=True, **options)


def test_a_page_is_one_file_that_holds_pictures_and_table(tmp_path):
    path = tmp_path / "page.html"
    page = compare.Page(
        title="a <series> & more",
        table=[["method", "chi2/n"], ["fbp", "1.2"], ["<b>", "0.9"]],
        volumes={"Volumes": volumes(), "Spread": {"fbp": volumes()["fbp"]}},
        notes=["a note with <tags>"],
    )
    compare.write_comparison_page(path, page, voxel_size_angstrom=40.0)
    text = path.read_text()
    found = html.parser.HTMLParser()
    seen = []
    found.handle_starttag = lambda tag, attributes: seen.append((tag, attributes))
    found.feed(text)
    tags = [tag for tag, _ in seen]
    assert (tags.count("tr"), tags.count("th"), tags.count("td")) == (3, 2, 4)
    assert not {"script", "link", "b", "series", "tags"} & set(tags)
    pictures = [dict(attributes) for tag, attributes in seen if tag == "img"]
    assert [p["alt"].partition(":")[0] for p in pictures] == ["Volumes", "Spread"]
    for picture in pictures:
        kind, _, data = picture["src"].partition(",")
        assert kind == "data:image/png;base64"
        image = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))
        assert image.shape[1] == 1800
    with pytest.raises(InputError, match="one that exists"):
        compare.write_comparison_page(path, page, voxel_size_angstrom=40.0)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"fbp": np.zeros((2, 3, 4))}, {}, "one shape"),
        ({"fbp": np.full(SHAPE, np.nan)}, {}, "NaN or Inf in 'fbp'"),
        ({}, {"y": 10}, "expected y from 0 to 9"),
        ({}, {"z": -1}, "expected z from 0 to 11"),
        ({}, {"z_range": (4, 4)}, "z_range"),
        ({}, {"grey_from": "nobody"}, "grey_from"),
    ],
)
def test_bad_input_is_named(change, options, message):
    with pytest.raises(ValueError, match=message):
        draw(volumes() | change, **options)


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        draw({})
