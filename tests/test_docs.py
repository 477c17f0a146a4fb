"""Links of the written pages lead somewhere; a report begins with its conclusion."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted((REPOSITORY / "launch").rglob("*.md")),
    *sorted((REPOSITORY / "releases").rglob("README.md")),
]
# Written when the site is built (docs/hooks/api.py).
GENERATED = DOCS / "api"


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.strip().replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if target.is_relative_to(GENERATED):
            continue
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


@pytest.mark.parametrize(
    "page", sorted((DOCS / "reports").glob("*.md")), ids=lambda p: p.stem
)
def test_a_report_begins_with_a_list_of_what_it_found(page):
    lines = page.read_text("utf-8").splitlines()
    assert lines[0].startswith("# ") and lines[2].startswith("- ")
