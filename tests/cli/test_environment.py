import os
import stat

import jax
import pytest

from temdiff_jax.cli import environment


@pytest.fixture
def jax_cache_setting():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_cache_folder_follows_xdg(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    given = environment.cache_folder({"XDG_CACHE_HOME": str(tmp_path)})
    assert given == tmp_path / "temdiff" / "jax"
    default = tmp_path / "home" / ".cache" / "temdiff" / "jax"
    assert environment.cache_folder({}) == default
    assert environment.cache_folder({"XDG_CACHE_HOME": "relative"}) == default


def test_cache_is_set_and_private(tmp_path, monkeypatch, jax_cache_setting):
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = environment.enable_compile_cache()
    assert folder == tmp_path / "temdiff" / "jax"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_a_command_prefers_the_convolutions_that_are_faster(
    tmp_path, monkeypatch, jax_cache_setting
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "")
    jax.config.update("jax_compilation_cache_dir", None)
    assert environment.prepare_jax() == tmp_path / "temdiff" / "jax"
    assert "ynn_fusion_type=individual_dot" in os.environ["XLA_FLAGS"]


def test_a_cache_that_the_user_gave_to_jax_stays(tmp_path, jax_cache_setting):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert environment.enable_compile_cache() == tmp_path / "own"
    assert not (tmp_path / "own").exists()


def test_open_folder_is_closed_and_a_link_is_refused(tmp_path):
    wide = tmp_path / "wide"
    wide.mkdir(mode=0o777)
    assert environment.private_folder(wide)
    assert stat.S_IMODE(wide.stat().st_mode) == 0o700
    link = tmp_path / "link"
    link.symlink_to(wide)
    assert not environment.private_folder(link)


def test_no_cache_folder_is_no_failure(tmp_path, monkeypatch, jax_cache_setting):
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert environment.enable_compile_cache() is None
    assert not jax.config.jax_compilation_cache_dir


def test_versions_name_what_decides_about_numbers():
    found = environment.versions()
    assert found["jax"] == jax.__version__
    assert set(found) >= {"python", "temdiff_jax", "jaxlib", "flax", "numpy"}
