"""Checkpoints: bit for bit what was saved, or an error that names the leaf.

And what counts as saved: every damage to the newest one is noticed, said, and costs
one checkpoint.
"""

import errno
import hashlib
import json
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io import write
from temdiff_jax.training import manifest
from temdiff_jax.training.checkpoint import Checkpoints, SaveError
from temdiff_jax.training.config import OptimConfig
from temdiff_jax.training.step import TrainState, make_optimiser

META = {"config": {"seed": 3, "sizes": [1, 2]}, "residual_scale": {"intercept": 0.1}}


def make_state(seed=0, width=4) -> TrainState:
    rng = np.random.default_rng(seed)
    params = {
        "layer": {
            "kernel": jnp.asarray(rng.normal(size=(3, width)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=width), jnp.float32),
        }
    }
    opt_state = make_optimiser(OptimConfig()).init(params)
    return TrainState(jnp.int32(7), params, jax.tree.map(jnp.copy, params), opt_state)


def digest(state) -> str:
    return hashlib.sha256(
        b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
    ).hexdigest()


def as_first_version(step_folder) -> None:
    """Turns a checkpoint into one of the version that had no manifest."""
    (step_folder / manifest.NAME).unlink()
    meta = step_folder / "meta" / "metadata"
    content = json.loads(meta.read_text())
    meta.write_text(json.dumps({**content, "format_version": 1}))


@pytest.fixture
def folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() is None and checkpoints.steps() == []
    checkpoints.save(7, make_state(), META)
    checkpoints.close()
    return tmp_path / "checkpoints"


@pytest.fixture
def opened(folder):
    """A manager that has written nothing itself, as after a restart."""
    checkpoints = Checkpoints(folder)
    yield checkpoints
    checkpoints.close()


def test_round_trip_is_bit_exact(opened):
    state = make_state()
    assert opened.latest() == 7
    restored = opened.restore(7, make_state(seed=1))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for got, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(state)):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_shapes_alone_are_enough_to_restore(opened):
    restored = opened.restore(7, jax.eval_shape(make_state))
    for got, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(make_state())):
        np.testing.assert_array_equal(got, expected)
        assert got.devices() == {jax.devices()[0]}


def test_meta_comes_back_with_its_format_version(opened):
    assert opened.meta(7) == {"format_version": 2, **META}


def test_other_format_version_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(), {"format_version": 9})
    with pytest.raises(InputError, match="expected format version 2, got 9"):
        checkpoints.meta(1)
    checkpoints.close()


def test_first_format_version_is_read_without_a_manifest(folder):
    as_first_version(folder / "7")
    lines = []
    with Checkpoints(folder, log=lines.append) as checkpoints:
        assert checkpoints.latest() == 7
        assert checkpoints.meta(7)["format_version"] == 1
        restored = checkpoints.restore(7, make_state(seed=1))
        # It makes room for newer ones like any other.
        checkpoints.save(8, make_state(), META)
        checkpoints.save(9, make_state(), META)
        assert checkpoints.steps() == [8, 9]
    assert lines == ["checkpoint 7 is of format version 1: it is used unverified"]
    assert digest(restored) == digest(make_state())


def test_leaf_of_another_shape_is_named(opened):
    with pytest.raises(InputError) as caught:
        opened.restore(7, make_state(width=5))
    message = str(caught.value)
    assert "leaf ema_params/layer/bias" in message
    assert "((5,), 'float32'), got ((4,), 'float32')" in message


def test_leaf_of_another_dtype_is_named_not_cast(opened):
    state = make_state()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), state.params)
    with pytest.raises(InputError, match=r"leaf params/layer/bias: .*'float16'"):
        opened.restore(7, state._replace(params=params))


def test_surplus_and_missing_leaves_are_named(opened):
    state = make_state()
    more = {**state.params, "spare": jnp.zeros(2)}
    with pytest.raises(InputError, match=r"leaf params/spare: .* got None"):
        opened.restore(7, state._replace(params=more))
    with pytest.raises(InputError, match=r"leaf params/layer/bias: expected None"):
        opened.restore(7, state._replace(params={}))


def test_old_checkpoints_make_room(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), META)
    assert checkpoints.steps() == [2, 3] and checkpoints.latest() == 3
    checkpoints.close()


def test_one_kept_checkpoint_is_the_newest(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), META)
        assert checkpoints.steps() == [2] and checkpoints.durable == 2


def test_state_may_be_given_away_while_it_is_being_saved(tmp_path):
    change = jax.jit(lambda tree: jax.tree.map(lambda a: a + 1, tree), donate_argnums=0)
    state = make_state(width=200_000)
    expected = digest(state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, META)
        for _ in range(5):
            state = change(state)
        jax.block_until_ready(state)
        restored = checkpoints.restore(7, jax.eval_shape(lambda: state))
    assert digest(restored) == expected != digest(state)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with Checkpoints(folder) as checkpoints:
        for step in (3, 7):
            checkpoints.save(step, make_state(step), META)
    return folder


def newest_of(folder) -> tuple[int | None, list[str]]:
    lines: list[str] = []
    with Checkpoints(folder, log=lines.append) as checkpoints:
        return checkpoints.latest(), lines


def flip(path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_file_is_named_and_the_step_before_is_used(two_steps, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(two_steps, folder)
    assert newest_of(folder) == (7, [])
    names = [p.relative_to(folder) for p in folder.glob("7/**/*") if p.is_file()]
    assert len(names) > 8
    for name in names:
        path, content = folder / name, (folder / name).read_bytes()
        if damage == "delete":
            path.unlink()
        elif not content:
            continue  # an empty marker has nothing to lose but itself
        elif damage == "flip":
            flip(path, 8 * len(content) - 5)
        else:
            path.write_bytes(content[: len(content) // 2])
        step, lines = newest_of(folder)
        assert step == 3, name
        assert len(lines) == 1 and lines[0].startswith("checkpoint 7 is refused: ")
        assert name.relative_to("7").as_posix() in lines[0]
        path.write_bytes(content)
    assert newest_of(folder) == (7, [])


def test_any_flipped_bit_of_the_arrays_is_noticed(two_steps, tmp_path):
    folder = tmp_path / "7"
    shutil.copytree(two_steps / "7", folder)
    data = [p for p in folder.glob("state/**/d/*") if p.is_file()]
    rng = np.random.default_rng(0)
    for _ in range(200):
        path = data[rng.integers(len(data))]
        bit = int(rng.integers(8 * path.stat().st_size))
        flip(path, bit)
        with pytest.raises(manifest.Damaged, match=path.name):
            manifest.check(folder)
        flip(path, bit)
    manifest.check(folder)


def test_manifest_is_a_list_that_sha256sum_reads(two_steps):
    folder = two_steps / "7"
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", manifest.NAME],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first = (folder / manifest.NAME).read_text().splitlines()[0]
    assert first == "# temdiff_jax manifest, format_version 1"


def test_manifest_never_leads_outside_its_folder(tmp_path):
    lines = manifest.HEADER + f"{'0' * 64}  ../secret\n"
    (tmp_path / manifest.NAME).write_text(lines + manifest._footer(lines))
    with pytest.raises(manifest.Damaged, match="names inside the folder"):
        manifest.check(tmp_path)


def test_damaged_checkpoint_is_not_restored_when_asked_for(two_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two_steps, folder)
    (folder / "7" / "state" / "_METADATA").write_text("{}")
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(InputError, match="checkpoint 7: state/_METADATA: expected"):
            checkpoints.restore(7, make_state())


def test_no_valid_checkpoint_is_an_error_not_a_fresh_start(two_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two_steps, folder)
    for step in ("3", "7"):
        (folder / step / manifest.NAME).unlink()
    with Checkpoints(folder, log=lambda line: None) as checkpoints:
        with pytest.raises(InputError, match=r"a valid one among \[3, 7\]"):
            checkpoints.latest()


def test_refused_step_is_written_again_and_leftovers_go(two_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two_steps, folder)
    flip(folder / "7" / "meta" / "metadata", 3)
    for left in ("9.orbax-checkpoint-tmp", "2.deleting"):
        (folder / left).mkdir()
    with Checkpoints(folder, log=lambda line: None) as checkpoints:
        assert checkpoints.latest() == 3
        checkpoints.save(7, make_state(5), META)
        checkpoints.wait()
        assert digest(checkpoints.restore(7, make_state())) == digest(make_state(5))
        with pytest.raises(SaveError, match="step 7 has a valid checkpoint"):
            checkpoints.save(7, make_state(), META)
    assert sorted(p.name for p in folder.iterdir()) == ["3", "7"]


def test_death_while_deleting_leaves_no_half_checkpoint(two_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two_steps, folder)

    def die(path, **_):
        raise OSError(errno.EIO, "gone")

    with Checkpoints(folder, keep=1) as checkpoints:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "rmtree", die)
            with pytest.raises(OSError, match="gone"):
                checkpoints._remove(3)
    assert not (folder / "3").exists()
    assert not (folder / "3.deleting" / manifest.NAME).exists()
    assert newest_of(folder) == (7, [])


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_said_in_one_line_and_keeps_what_was_there(
    two_steps, tmp_path, monkeypatch
):
    folder = tmp_path / "copy"
    shutil.copytree(two_steps, folder)
    checkpoints = Checkpoints(folder)
    with monkeypatch.context() as patch:
        patch.setattr(write, "write_text", full_disk)
        checkpoints.save(8, make_state(), META)
        with pytest.raises(SaveError) as caught:
            while True:  # as training does, after every step
                checkpoints.poll()
    message = str(caught.value)
    assert message.startswith("checkpoint 8: expected to write it below")
    assert "No space left on device" in message and "\n" not in message
    assert "the checkpoints [3, 7] are untouched" in message
    checkpoints.close()
    assert checkpoints.durable is None
    assert sorted(p.name for p in folder.iterdir()) == ["3", "7"]
    assert newest_of(folder) == (7, [])


@pytest.mark.slow
def test_disk_that_fails_below_the_array_store(two_steps, tmp_path, run_devices):
    folder = tmp_path / "copy"
    shutil.copytree(two_steps, folder)
    # In a process of its own: the array store's failed writes end when they like.
    text = run_devices(
        f"""
        import resource
        import jax.numpy as jnp
        import numpy as np
        from temdiff_jax.training.checkpoint import Checkpoints, SaveError
        from temdiff_jax.training.step import TrainState

        noise = np.random.default_rng(0).normal(size=(3, 100_000))
        params = {{"kernel": jnp.asarray(noise, jnp.float32)}}
        state = TrainState(jnp.int32(8), params, {{}}, ())
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Beyond this size every write fails, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        with Checkpoints({str(folder)!r}) as checkpoints:
            checkpoints.save(8, state, {{}})
            try:
                checkpoints.wait()
            except SaveError as error:
                print(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert checkpoints.latest() == 7
            checkpoints.save(8, state, {{}})
        """,
        count=1,
    )
    assert len(text.splitlines()) == 1 and "File too large" in text
    assert "the checkpoints [3, 7] are untouched" in text
    assert newest_of(folder) == (8, [])


def test_failed_save_is_raised_at_the_end_but_hides_no_other_error(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(write, "write_text", full_disk)
    with pytest.raises(SaveError, match="No space left"):
        with Checkpoints(tmp_path / "a") as checkpoints:
            checkpoints.save(1, make_state(), META)
    lines = []
    with pytest.raises(KeyError, match="other"):
        with Checkpoints(tmp_path / "b", log=lines.append) as checkpoints:
            checkpoints.save(1, make_state(), META)
            raise KeyError("other")
    assert "No space left" in lines[0]


@pytest.mark.slow
def test_any_number_of_devices_restores_the_same_bits(tmp_path, run_devices):
    text = run_devices(
        f"""
        import hashlib
        import jax
        import jax.numpy as jnp
        import numpy as np
        from temdiff_jax import parallel
        from temdiff_jax.training.checkpoint import Checkpoints
        from temdiff_jax.training.step import TrainState

        rng = np.random.default_rng(0)
        params = {{
            "kernel": np.float32(rng.normal(size=(3, 3, 8, 16))),
            "bias": np.float32(rng.normal(size=16)),
        }}
        state = TrainState(np.int32(7), params, params, (params,))

        def layouts(count):
            mesh = parallel.make_mesh(count, 1, jax.devices()[:count])
            return parallel.state_shardings(state, mesh, fsdp=True)

        def digest(tree):
            leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
            return hashlib.sha256(b"".join(leaves)).hexdigest()

        print(digest(state))
        with Checkpoints({str(tmp_path)!r}) as checkpoints:
            spread = parallel.place(state, layouts(8))
            assert len(spread.params["kernel"].sharding.device_set) == 8
            checkpoints.save(7, spread, {{}})
            for count in (1, 2, 4, 8):
                like = jax.tree.map(
                    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
                    state,
                    layouts(count),
                )
                restored = checkpoints.restore(7, like)
                kernel = restored.params["kernel"]
                shard = kernel.addressable_shards[0].data
                assert shard.size * count == kernel.size
                print(digest(restored))
        """,
        count=8,
        timeout_s=900,
    )
    digests = text.split()
    assert len(digests) == 5 and len(set(digests)) == 1
    # And in this process, which has one device.
    layer = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 8, 16), jnp.float32),
        "bias": jax.ShapeDtypeStruct((16,), jnp.float32),
    }
    like = TrainState(jax.ShapeDtypeStruct((), jnp.int32), layer, layer, (layer,))
    with Checkpoints(tmp_path) as checkpoints:
        assert digest(checkpoints.restore(7, like)) == digests[0]
