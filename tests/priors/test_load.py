"""Released priors: what was saved is what is loaded, and nothing else is."""

import dataclasses
import hashlib
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from temdiff_jax.errors import InputError
from temdiff_jax.model import NUM_FEATURES, NetworkConfig, make_network
from temdiff_jax.priors import (
    load,
    load_prior,
    not_covered,
    prior_names,
    range_verdict,
    save_prior,
)

CONFIG = {"channels": [8, 8], "blocks": [1, 1], "groups": 4, "embedding": 64}
CARD = {
    "name": "tiny",
    "network": CONFIG,
    "residual_scale": {"intercept": 0.25, "slopes": [0.1, -0.2, 0.3, 0.0]},
    "metric_mean": {"smoothness": 2.0, "ridge": 0.1},
    "metric_sample": {"smoothness": 1.0, "ridge": 0.2},
    "half_range_deg": [4.0, 65.0],
}


@pytest.fixture(scope="module")
def params():
    network = make_network(NetworkConfig(channels=(8, 8), blocks=(1, 1), groups=4))
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    # Numbers that float16 holds exactly.
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.integers(-64, 64, leaf.shape) / 64, leaf.dtype),
        abstract,
    )


@pytest.fixture
def saved(tmp_path, params):
    path = tmp_path / "tiny.safetensors"
    save_prior(path, params, CARD)
    return path


def change_card(path, **fields):
    card_path = path.with_suffix(".json")
    card = json.loads(card_path.read_text()) | fields
    card_path.write_text(json.dumps({k: v for k, v in card.items() if v is not None}))


def refusal(name) -> str:
    with pytest.raises(InputError) as caught:
        load_prior(name)
    message = str(caught.value)
    assert "\n" not in message and "expected" in message
    return message


def test_round_trip(saved, params):
    prior = load_prior(saved)
    for got, expected in zip(jax.tree.leaves(prior.params), jax.tree.leaves(params)):
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, expected)
    assert jax.tree.structure(prior.params) == jax.tree.structure(params)
    assert prior.network.config.channels == (8, 8)
    assert prior.card["name"] == "tiny" and prior.card["format_version"] == 1
    assert prior.sha256 == prior.card["sha256"]
    assert (float(prior.metric_mean.smoothness), float(prior.metric_sample.ridge)) == (
        2.0,
        pytest.approx(0.2),
    )
    scale = prior.residual_scale(jnp.ones(NUM_FEATURES))
    np.testing.assert_allclose(scale, np.exp(0.25 + 0.1 - 0.2 + 0.3), rtol=1e-5)


def test_same_file_is_the_same_object_until_it_changes(saved, params):
    first = load_prior(saved)
    assert load_prior(str(saved)) is first
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    save_prior(saved, other, CARD, overwrite=True)
    assert load_prior(saved).sha256 != first.sha256


def test_existing_files_are_not_replaced_unasked(saved, params):
    with pytest.raises(InputError, match=saved.name):
        save_prior(saved, params, CARD)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_one_flipped_byte_is_refused_before_anything_is_read(saved, place):
    data = bytearray(saved.read_bytes())
    data[int(place * len(data))] ^= 1
    saved.write_bytes(data)
    assert "expected sha256" in refusal(saved) and "damaged" in refusal(saved)


def test_other_format_version_is_refused(saved):
    change_card(saved, format_version=2)
    assert "format version 1, got 2" in refusal(saved)


def test_missing_card_is_refused(saved):
    saved.with_suffix(".json").unlink()
    assert "card tiny.json" in refusal(saved)


def test_unreadable_card_is_refused(saved):
    saved.with_suffix(".json").write_bytes(b"\xff\xfe{")
    assert "JSON card" in refusal(saved)


def test_card_without_a_field_is_refused_by_its_name(saved):
    change_card(saved, metric_mean=None)
    assert "no ['metric_mean']" in refusal(saved)


@pytest.mark.parametrize(
    "field",
    [
        {"network": {"channels": [8, 8], "depth": 3}},
        {"network": [8, 8]},
        {"residual_scale": {"intercept": 0.0}},
        {"residual_scale": {"intercept": 0.0, "slopes": [1.0]}},
        {"metric_sample": {"smoothness": "much", "ridge": 0.1}},
    ],
)
def test_card_with_a_broken_field_is_refused(saved, field):
    change_card(saved, **field)
    assert f"tiny.json: {next(iter(field))}" in refusal(saved)


def test_tensor_of_another_shape_is_named(saved):
    change_card(saved, network=CONFIG | {"channels": [8, 16]})
    message = refusal(saved)
    assert "tensor down_1/bias" in message
    assert "expected shape (16,), got (8,)" in message


def test_missing_and_surplus_tensors_are_named(tmp_path, saved, params):
    fewer = {name: leaf for name, leaf in params.items() if name != "embed_out"}
    save_prior(tmp_path / "fewer.safetensors", fewer, CARD)
    message = refusal(tmp_path / "fewer.safetensors")
    assert "embed_out/bias" in message and "got None" in message
    save_prior(tmp_path / "more.safetensors", params | {"spare": params["head"]}, CARD)
    assert "spare/bias" in refusal(tmp_path / "more.safetensors")


def test_file_that_is_no_safetensors_is_refused(saved, tmp_path):
    path = tmp_path / "text.safetensors"
    path.write_bytes(b"not a tensor in sight")
    shutil.copy(saved.with_suffix(".json"), path.with_suffix(".json"))
    digest = load.hashlib.sha256(path.read_bytes()).hexdigest()
    change_card(path, sha256=digest)
    assert "safetensors weights" in refusal(path)


def test_weights_are_stored_as_float16(saved):
    tensors = safetensors.numpy.load_file(saved)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}


def test_unknown_name_lists_the_known_ones(monkeypatch):
    monkeypatch.setattr(load, "_registry", lambda: {"default": {}, "wide": {}})
    assert prior_names() == ["default", "wide"]
    assert "expected one of ['default', 'wide']" in refusal("defualt")
    assert "'defualt'" in refusal("defualt")


def test_path_without_a_file_is_refused(tmp_path):
    assert "an existing file" in refusal(tmp_path / "none.safetensors")


@pytest.mark.slow
def test_every_registered_prior_is_shipped_and_loads():
    for name in prior_names():
        prior = load_prior(name)
        assert prior.sha256 == load._registry()[name]["sha256"]


def test_what_training_did_not_cover_is_said_with_both_numbers(saved):
    """Half-range, number of tilts and voxel size, each where the card says it."""
    scenarios = [{"num_tilts": 41, "fewest_tilts": 5}, {"num_tilts": 9}]
    card = CARD | {"data": {"scenarios": scenarios}, "voxel_size_nm": [8.0, 13.0]}
    prior = dataclasses.replace(load_prior(saved), card=card)
    good = np.linspace(-10.0, 10.0, 11)
    assert not_covered(prior, good, 10.0) == () == not_covered(prior, good, None)
    lines = not_covered(prior, np.array([-2.0, 2.0]), 0.5)
    for line, numbers in zip(
        lines,
        (
            "half-ranges from 4 to 65 degrees, this series has 2 degrees;",
            "from 5 to 41, this series has 2;",
            "from 8 to 13 nm, this series has 0.5 nm;",
        ),
    ):
        assert numbers in line and "trained on" in line
    assert len(lines) == 3
    bare = dataclasses.replace(prior, card={"name": "bare"})
    assert not_covered(bare, good, 0.5) == ()


def test_range_is_judged_by_the_card(saved):
    prior = load_prior(saved)
    assert range_verdict(prior, np.array([-10.0, 0.0, 10.0])) == "inside"
    assert range_verdict(prior, np.array([-2.0, 2.0])).startswith("outside: 2 of")
    silent = dataclasses.replace(prior, card={})
    assert range_verdict(silent, np.array([-2.0, 2.0])) == "unknown"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"half_range_deg": ["a", "b"]}, "two degrees, ascending"),
        ({"half_range_deg": [35.0, 3.5]}, "two degrees, ascending"),
        ({"residual_scale": {"intercept": "0.1", "slopes": [0.0] * 4}}, "intercept"),
        ({"metric_mean": {"smoothness": True, "ridge": 0.1}}, "at least zero"),
        ({"network": {"channels": [8], "blocks": [10**9], "groups": 4}}, "blocks"),
        ({"network": {"channels": [8] * 1000, "blocks": [1]}}, "channels"),
        ({"network": {"channels": [8], "blocks": [1], "groups": 0}}, "groups"),
        ({"network": {"channels": [8], "blocks": [1], "patch": 0}}, "patch"),
    ],
)
def test_card_is_checked_whole_before_it_is_used(saved, field, message):
    change_card(saved, **field)
    text = refusal(saved)
    assert message in text and len(text) < 1000


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, '{"format_version": ' + "9" * 5000 + "}", '{"a": Infinity}'],
    ids=["deep", "digits", "infinity"],
)
def test_card_that_no_parser_likes_is_one_line(saved, text):
    saved.with_suffix(".json").write_text(text)
    assert "a JSON card" in refusal(saved)


def test_card_that_is_a_pipe_or_endless_is_not_read(saved):
    card = saved.with_suffix(".json")
    card.unlink()
    os.mkfifo(card)
    assert "a special file" in refusal(saved)
    card.unlink()
    with card.open("wb") as stream:
        stream.truncate(2**32)
    assert "at most 1 MiB" in refusal(saved)


def test_weights_that_are_not_finite_are_refused(saved):
    tensors = safetensors.numpy.load_file(saved)
    name = next(iter(tensors))
    tensors[name] = np.full_like(tensors[name], np.nan)
    data = safetensors.numpy.save(tensors)
    saved.write_bytes(data)
    change_card(saved, sha256=hashlib.sha256(data).hexdigest())
    assert "finite floats" in refusal(saved)
