"""Consistency of the documents: links and anchors resolve, the index is complete, and code names existing
documents."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
CODE = ("model", "benchmarks", "bounty", "platform", "examples", "tests")
SOURCES = {".py", ".html", ".toml", ".cpp", ".h"}
README_LINES = 150

FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z]+:")
NAMED_DOCUMENT = re.compile(r"\bdocs/[a-z/-]+\.md\b")


def prose(document: Path) -> str:
    return FENCED.sub("", document.read_text(encoding="utf-8"))


def links(document: Path) -> list[str]:
    """The targets of its relative links, images included."""
    found = LINK.findall(INLINE_CODE.sub("", prose(document)))
    return [target for target in found if not ELSEWHERE.match(target)]


def anchors(document: Path) -> set[str]:
    """One for each heading, as GitHub and GitLab derive them."""
    headings = (heading.strip().lower() for heading in HEADING.findall(prose(document)))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> Iterator[str]:
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_resolves(document: Path) -> None:
    assert list(broken_links(document)) == []


def test_a_broken_link_or_anchor_is_found(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(
        "# One `two`\n[a](#one-two) [b](#two) [c](absent.md) [d\ne](https://example.org) `[f](g.md)`\n"
    )
    assert list(broken_links(document)) == ["#two", "absent.md"]


def test_the_index_lists_every_document() -> None:
    listed = {(INDEX.parent / link).resolve() for link in links(INDEX)}
    assert set(DOCS.rglob("*.md")) - listed == {INDEX}


def test_code_names_documents_that_exist() -> None:
    named: dict[str, Path] = {}
    for folder in CODE:
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in SOURCES:
                named |= dict.fromkeys(NAMED_DOCUMENT.findall(file.read_text(encoding="utf-8")), file)
    assert len(named) > 10
    assert {name: file for name, file in named.items() if not (ROOT / name).exists()} == {}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < README_LINES


def test_known_gaps_have_one_line_each_with_a_next_step() -> None:
    text = prose(DOCS / "known-gaps.md")
    head, *areas = text.split("\n## ")
    assert head.startswith("# Known gaps")
    assert len(areas) > 4
    for area in areas:
        title, _, rest = area.partition("\n")
        columns, rule, *gaps = [line for line in rest.splitlines() if line]
        assert (columns, rule) == ("| gap | next step |", "|---|---|"), title
        assert gaps, title
        for gap in gaps:
            cells = gap.strip("|").split(" | ")
            assert len(cells) == 2 and all(cell.strip() for cell in cells), gap
