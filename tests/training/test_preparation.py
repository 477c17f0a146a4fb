"""From stores to a training store, and from there into a bank of sources."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from temdiff_jax.errors import InputError
from temdiff_jax.io import write
from temdiff_jax.io.formats import npz
from temdiff_jax.training import data, preparation, volumes
from temdiff_jax.training.config import DataConfig


def tissue(shape, seed=0):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2.0, mode="wrap")
    grey = smooth / smooth.std() + 0.1 * rng.normal(size=shape)
    return np.clip(128 + 30 * grey, 0, 255).astype(np.uint8)


VOLUME = tissue((40, 36, 32))
VOLUME[17] = 0


@pytest.fixture
def sources(tmp_path):
    """An npz with a black slice, and a float MRC with voxels twice as deep as wide."""
    np.savez(tmp_path / "fly.npz", volume=VOLUME, pixel_nm=8.0)
    deep = 1000.0 - 2.0 * tissue((24, 30, 34), seed=1).astype(np.float32)
    write.write_mrc(tmp_path / "liver.mrc", deep, (80.0, 40.0, 40.0))
    return tmp_path


def request(path, **changes):
    return preparation.Request(
        **{"path": str(path), "name": path.stem, "licence": "CC0", **changes}
    )


OPTIONS = preparation.Options(min_slices=8, shard_mb=0.01)


def prepare(folder, *requests, options=OPTIONS):
    lines = []
    out = folder / "store"
    manifest = preparation.prepare(requests, out, options, lines.append)
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert not (out / "progress.json").exists()
    return manifest, lines


def test_manifest_says_what_was_done(sources):
    manifest, _ = prepare(
        sources,
        request(sources / "fly.npz"),
        request(sources / "liver.mrc", stain_is_dark=False, licence="CC BY 4.0"),
    )
    fly, liver = manifest["sources"]
    assert manifest["format_version"] == 1
    assert fly["bad_slices"] == [{"index": 17, "kind": "missing", "value": 0.0}]
    assert fly["slabs"] == [[0, 17], [18, 40]] and fly["jumps"] == []
    assert (fly["voxel_nm"], fly["target_nm"]) == ([8.0, 8.0, 8.0], 8.0)
    assert (liver["licence"], liver["stain"], liver["kind"]) == (
        *("CC BY 4.0", "bright", "mrc"),
    )
    assert liver["target_nm"] == 8.0 and liver["voxels"] == 24 * 15 * 17
    assert fly["voxels"] == 39 * 36 * 32
    assert fly["weight"] == pytest.approx(fly["voxels"] / manifest["voxels"])
    for shard in (s for entry in (fly, liver) for s in entry["shards"]):
        assert np.prod(shard["shape"]) <= 0.01 * 2**20
        image = npz.read_npz(sources / "store" / shard["file"])
        assert image.voxel_size_angstrom == (80.0, 80.0, 80.0)
        assert list(image.data.shape) == shard["shape"]
        assert shard["mean"] == pytest.approx(image.data.mean(), rel=1e-5)


def test_shards_hold_the_grey_levels_at_their_place(sources):
    manifest, _ = prepare(sources, request(sources / "fly.npz"))
    entry = manifest["sources"][0]
    low, high = entry["statistics"]["low"], entry["statistics"]["high"]
    seen = np.zeros(VOLUME.shape, int)
    for shard in entry["shards"]:
        cut = tuple(slice(*span) for span in shard["box"])
        expected = np.clip((VOLUME[cut] - low) / (high - low) * 255, 0, 255)
        got = volumes.read_shard(sources / "store", shard)
        assert got.dtype == np.uint8 and np.abs(got - expected).max() <= 0.51
        seen[cut] += 1
    assert (np.delete(seen, 17, axis=0) == 1).all() and (seen[17] == 0).all()


def test_bright_stain_comes_out_dark(sources):
    volume = tissue((24, 30, 34), seed=1)
    np.savez(sources / "same.npz", volume=volume, pixel_nm=8.0)
    first, _ = prepare(sources, request(sources / "same.npz"))
    kept = volumes.load_sources(sources, ("store/manifest.json",))
    preparation.prepare(
        [request(sources / "liver.mrc", stain_is_dark=False, voxel_nm=(8.0,) * 3)],
        sources / "inverse",
        OPTIONS,
        print,
    )
    # The MRC holds the same volume with its grey levels turned over.
    turned = volumes.load_sources(sources, ("inverse/manifest.json",))
    for one, other in zip(kept, turned, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_anisotropic_voxels_become_cubes(sources):
    options = preparation.Options(min_slices=8, target_nm=4.0, shard_mb=1)
    manifest, _ = prepare(sources, request(sources / "liver.mrc"), options=options)
    (shard,) = manifest["sources"][0]["shards"]
    assert shard["shape"] == [48, 30, 34]
    grey = volumes.read_shard(sources / "store", shard).astype(float)
    source = 1000.0 - 2.0 * tissue((24, 30, 34), seed=1)
    low, high = (manifest["sources"][0]["statistics"][k] for k in ("low", "high"))
    between = 0.25 * source[9] + 0.75 * source[10]  # new slice 20 lies at 9.75
    expected = np.clip((between - low) / (high - low) * 255, 0, 255)
    assert np.abs(grey[20] - expected).max() <= 0.51


def test_repeating_the_command_keeps_whole_shards(sources):
    wanted = [request(sources / "fly.npz"), request(sources / "liver.mrc")]
    manifest, _ = prepare(sources, *wanted)
    files = sorted((sources / "store").glob("*.npz"))
    times = {f: f.stat().st_mtime_ns for f in files}
    damaged, removed = files[1], files[-1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    removed.unlink()
    again, lines = prepare(sources, *wanted)
    assert again == manifest
    changed = {f for f in files if f.stat().st_mtime_ns != times[f]}
    assert changed == {damaged, removed}
    count = [len(entry["shards"]) for entry in manifest["sources"]]
    assert f"{count[0]} shards ({count[0] - 1} kept)" in lines[0]
    assert not list((sources / "store").glob(".*tmp"))


def test_an_interrupted_run_is_taken_up(sources, monkeypatch):
    wanted = request(sources / "fly.npz")
    real, calls = preparation._write_shard, []

    def dies(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(preparation, "_write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(sources, wanted)
    assert not (sources / "store/manifest.json").exists()
    monkeypatch.setattr(preparation, "_write_shard", real)
    manifest, lines = prepare(sources, wanted)
    assert "(2 kept)" in lines[0] and len(manifest["sources"][0]["shards"]) > 2


def test_another_volume_or_option_is_another_shard(sources):
    manifest, _ = prepare(sources, request(sources / "fly.npz"))
    np.savez(sources / "fly.npz", volume=VOLUME[::-1], pixel_nm=8.0)
    changed, lines = prepare(sources, request(sources / "fly.npz"))
    assert "(0 kept)" in lines[0] and "no longer listed" in lines[1]
    before, after = (
        {s["file"] for s in m["sources"][0]["shards"]} for m in (manifest, changed)
    )
    assert not before & after
    # What a manifest no longer lists is left to the user.
    assert all((sources / "store" / f).is_file() for f in before)


def test_wrong_polarity_only_warns(sources):
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(32, 32, 32)), 3.0, mode="wrap")
    sheets = np.exp(-((field / field.std() / 0.25) ** 2))
    grey = np.clip(190 - 120 * sheets + 8 * rng.normal(size=field.shape), 0, 255)
    np.savez(sources / "m.npz", volume=grey.astype(np.uint8), pixel_nm=8.0)
    right, lines = prepare(sources, request(sources / "m.npz"))
    assert right["sources"][0]["warnings"] == [] and len(lines) == 1
    wrong, lines = prepare(sources, request(sources / "m.npz", stain_is_dark=False))
    assert "thin structures look dark" in wrong["sources"][0]["warnings"][0]
    assert "thin structures look dark" in lines[0]


def test_sources_are_drawn_by_weight(sources):
    wanted = [
        request(sources / "fly.npz", weight=1.0),
        request(sources / "liver.mrc", weight=3.0),
    ]
    manifest, _ = prepare(sources, *wanted)
    np.savez(sources / "plain.npz", volume=VOLUME)
    names = ("plain.npz:volume", "store/manifest.json")
    source = data.BlockSource.from_files(sources, names, DataConfig(), 0)
    share = np.diff(np.asarray(source.bank.cumulative), prepend=0.0)
    shards = [s for entry in manifest["sources"] for s in entry["shards"]]
    assert len(share) == 1 + len(shards)
    total = VOLUME.size + manifest["voxels"]
    assert share[0] == pytest.approx(VOLUME.size / total, rel=1e-5)
    fly = len(manifest["sources"][0]["shards"])
    mass = manifest["voxels"] / total
    assert share[1 : 1 + fly].sum() == pytest.approx(0.25 * mass, rel=1e-4)
    assert share[1 + fly :].sum() == pytest.approx(0.75 * mass, rel=1e-4)
    first, second = (np.prod(s["shape"]) for s in shards[:2])
    assert share[1] / share[2] == pytest.approx(first / second, rel=1e-3)
    # Shards keep the limits of their volume, a plain block its own percentiles.
    np.testing.assert_array_equal(np.asarray(source.bank.dark)[1:], 0)
    np.testing.assert_array_equal(np.asarray(source.bank.bright)[1:], 255)
    assert np.asarray(source.bank.dark)[0] == np.percentile(VOLUME, 0.5)


def test_one_source_of_a_store_can_be_named(sources):
    prepare(sources, request(sources / "fly.npz"), request(sources / "liver.mrc"))
    liver = volumes.load_sources(sources, ("store/manifest.json:liver",))
    assert sum(v.size for v in liver) == 24 * 15 * 17
    with pytest.raises(InputError, match=r"a source 'cat' .* \['fly', 'liver'\]"):
        volumes.load_sources(sources, ("store/manifest.json:cat",))


def test_a_damaged_shard_is_named(sources):
    manifest, _ = prepare(sources, request(sources / "fly.npz"))
    shard = manifest["sources"][0]["shards"][1]
    path = sources / "store" / shard["file"]
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    message = rf"shard {shard['file']} of .*: expected sha256 {shard['sha256']}, got"
    for content in (bytes(flipped), whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            volumes.load_sources(sources, ("store/manifest.json",))
    path.unlink()
    with pytest.raises(InputError, match=f"{message} no such file; run launch"):
        volumes.load_sources(sources, ("store/manifest.json",))


def test_a_manifest_that_cannot_be_used_is_refused(sources, monkeypatch):
    manifest, _ = prepare(sources, request(sources / "fly.npz"))
    path = sources / "store/manifest.json"

    def load(text):
        path.write_text(text)
        return volumes.load_sources(sources, ("store/manifest.json",))

    monkeypatch.setattr(volumes, "MAX_VOXELS", 1000)
    with pytest.raises(InputError, match="at most 1000 voxels in all, got 43928 more"):
        load(json.dumps(manifest))
    monkeypatch.undo()
    with pytest.raises(InputError, match="format_version 1 .* got version 2"):
        load(json.dumps(manifest | {"format_version": 2}))
    for text in ("[]", "{", '{"format_version": 1}'):
        with pytest.raises(InputError, match="expected a manifest of launch.prepare"):
            load(text)
    shard = manifest["sources"][0]["shards"][0]
    shard["file"] = f"../store/{shard['file']}"
    with pytest.raises(InputError, match="got no such file"):
        load(json.dumps(manifest))


def test_sources_of_a_folder_are_found(sources):
    (sources / "notes.txt").write_text("")
    (sources / "cell.n5").mkdir()
    found = preparation.find_sources([str(sources), f"{sources}/fly.npz#volume"])
    names = [(Path(path).name, dataset) for path, dataset in found]
    inside = [("cell.n5", None), ("fly.npz", None), ("liver.mrc", None)]
    assert names == [*inside, ("fly.npz", "volume")]
    (sources / "empty").mkdir()
    with pytest.raises(InputError, match="expected a store or a folder of stores"):
        preparation.find_sources([str(sources / "empty")])


def test_input_that_cannot_be_used_is_refused(sources):
    fly = request(sources / "fly.npz")
    with pytest.raises(InputError, match="expected different names"):
        prepare(sources, fly, fly)
    with pytest.raises(InputError, match="expected a box inside"):
        prepare(sources, request(sources / "fly.npz", box=((0, 9), (0, 9), (0, 99))))
    strict = preparation.Options(min_slices=30)
    with pytest.raises(InputError, match="expected 30 intact slices .* got 1 bad"):
        prepare(sources, fly, options=strict)
    (sources / "file").write_text("")
    with pytest.raises(InputError, match="--out: expected a folder"):
        preparation.prepare([fly], sources / "file", OPTIONS)
