"""Pages of the API reference, one for each folder of the package.

A hook of mkdocs: the pages are written from the folders when the site is built, so that
a module that is added or moved needs no change here.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "temdiff_jax"
ROOT = Path(__file__).resolve().parent.parent.parent


def _is_public(path: Path) -> bool:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return all(not part.startswith("_") or part == "__init__" for part in parts)


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def pages() -> dict[str, str]:
    """Markdown of every page, by its path under docs/."""
    rooms: dict[str, list[str]] = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        if _is_public(path):
            folders = path.relative_to(ROOT / PACKAGE).parts[:-1]
            room = folders[0] if folders else ""
            rooms.setdefault(room, []).append(_name(path))
    found = {}
    for room, names in rooms.items():
        title = f"{PACKAGE}.{room}" if room else PACKAGE
        blocks = "\n\n".join(f"::: {name}" for name in sorted(names))
        found[f"api/{room or 'index'}.md"] = f"# {title}\n\n{blocks}\n"
    return found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages to the navigation."""
    paths = sorted(pages(), key=lambda path: (path != "api/index.md", path))
    config.nav.insert(3, {"API reference": paths})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages to the files of the site."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
