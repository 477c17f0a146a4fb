import pytest

from temdiff_jax.cli import options
from temdiff_jax.errors import InputError
from temdiff_jax.reconstruction import api
from temdiff_jax.series import weighting


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("-5:5", (-5.0, 5.0)),
        ("-20:+60", (-20.0, 60.0)),
        ("10", (-5.0, 5.0)),
        ("7.5", (-3.75, 3.75)),
    ],
)
def test_parse_range(text, expected):
    assert options.parse_range(text) == expected


@pytest.mark.parametrize("text", ["", ":", "1:", "nan", "inf", "0", "-4", "3:3", "1;2"])
def test_parse_range_refuses(text):
    with pytest.raises(InputError, match="--range: expected"):
        options.parse_range(text)


def test_choices_and_defaults_are_those_of_the_library():
    assert options.WEIGHTINGS == weighting.FORMS
    assert options.DEFAULT_WEIGHTING == api.DEFAULT_WEIGHTING
