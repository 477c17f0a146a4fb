"""What a command sets up around the library: compile cache, versions, device."""

import os
import pathlib
import platform
import stat
from collections.abc import Mapping
from importlib import metadata

_PACKAGES = ("temdiff_jax", "jax", "jaxlib", "flax", "numpy")


def cache_folder(environ: Mapping[str, str] = os.environ) -> pathlib.Path:
    """Folder of this user's compiled programs, below XDG_CACHE_HOME or ~/.cache.

    A relative XDG_CACHE_HOME is ignored, as the XDG base directory specification
    0.8 demands.
    """
    base = pathlib.Path(environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = pathlib.Path.home() / ".cache"
    return base / "temdiff" / "jax"


def private_folder(folder: pathlib.Path) -> bool:
    """Create a folder only its owner can enter; tell whether that succeeded.

    Compiled programs are loaded and run from the compile cache, so one that somebody
    else can write to, or a link to such a folder, is not used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return False
        folder.chmod(0o700)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def enable_compile_cache() -> pathlib.Path | None:
    """Keep compiled programs between runs; call before the first compilation.

    A folder that the user gave to jax, by its own environment variable, stays.

    Returns:
      The folder in use; None when no private folder can be made, which costs the
      next run its compilation time and nothing else.
    """
    import jax

    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if chosen:
        return pathlib.Path(chosen)
    folder = cache_folder()
    if not private_folder(folder):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def prepare_jax() -> pathlib.Path | None:
    """Set what this command wants of jax; call before anything is computed.

    Returns:
      As ``enable_compile_cache``.
    """
    from temdiff_jax.model import conv

    conv.prefer_own(os.environ)
    return enable_compile_cache()


def device_kind() -> str:
    """Name of the first device, such as "cpu"; starts the jax runtime."""
    import jax

    return jax.devices()[0].device_kind


def on_cpu() -> bool:
    """Whether jax will compute on the CPU; starts the jax runtime."""
    import jax

    return jax.default_backend() == "cpu"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def own_version() -> str:
    """Version of temdiff_jax, read from its installation or its checkout."""
    try:
        return metadata.version("temdiff_jax")
    except metadata.PackageNotFoundError:
        import temdiff_jax

        return str(getattr(temdiff_jax, "__version__", "unknown"))
