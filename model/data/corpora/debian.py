"""Prose from Debian's documentation packages, where they are installed.

Each reader takes the root of the file system, so that an unpacked package can be used like an installed one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from model.data.corpora.text_documents import TextDocument
from model.data.corpora.utf8_file import NotUTF8Error, read_utf8
from model.data.errors import CorpusError

SYNSETS_PER_DOCUMENT = 64
WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
ENTRY = re.compile(r"^\d{8} \d\d [nvasr] ([0-9a-f]{2}) (.*)$")


def python_documentation(root: Path, corpus: str, licence: str) -> Iterator[TextDocument]:
    """reStructuredText sources of Python's manual (`python3-doc`), one document a page; the newest version only."""
    folders = sorted(root.glob("usr/share/doc/python3.*/html/_sources"), key=_version)
    for file in sorted(folders[-1].rglob("*.rst.txt")) if folders else ():
        path = f"{folders[-1].parts[-3]}/{file.relative_to(folders[-1]).as_posix()}"
        yield TextDocument(corpus, licence, path, path, _text(file, corpus))


def postgresql_documentation(root: Path, corpus: str, licence: str) -> Iterator[TextDocument]:
    """Text of PostgreSQL's manual (`postgresql-doc`), one document a page; the newest version only."""
    folders = sorted(root.glob("usr/share/doc/postgresql-doc-*/html"), key=_version)
    for file in sorted(folders[-1].rglob("*.html")) if folders else ():
        path = f"{folders[-1].parts[-2]}/{file.relative_to(folders[-1]).as_posix()}"
        text = html_text(file.read_text(encoding="utf-8", errors="replace"))
        if text.strip():
            yield TextDocument(corpus, licence, path, path, text)


def wordnet_glosses(root: Path, corpus: str, licence: str) -> Iterator[TextDocument]:
    """WordNet's definitions (`wordnet-base`), `SYNSETS_PER_DOCUMENT` neighbours a document: "words: gloss" lines."""
    for name in WORDNET_FILES:
        file = root / "usr/share/wordnet" / name
        if not file.is_file():
            continue
        entries = [gloss for line in _text(file, corpus).splitlines() if (gloss := _gloss(line))]
        for number, group in enumerate(_groups(entries)):
            path = f"wordnet/{name}:{number}"
            yield TextDocument(corpus, licence, path, path, "\n".join(group) + "\n")


def _text(file: Path, corpus: str) -> str:
    """Read a file. Raises CorpusError if it is not UTF-8, which these packages should not have."""
    try:
        return read_utf8(file)
    except NotUTF8Error as error:
        raise CorpusError(
            f"{error}: install the corpus {corpus}'s package again, or build from other corpora with --corpus"
        ) from error


def html_text(html: str) -> str:
    """Text of a page, without scripts, styles and navigation; each block is on a separate line."""
    reader = _Text()
    reader.feed(html)
    reader.close()
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in "".join(reader.parts).splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


class _Text(HTMLParser):
    """Collects text outside of skipped elements."""

    BLOCKS = frozenset(
        {
            "p",
            "div",
            "br",
            "li",
            "tr",
            "pre",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "dt",
            "dd",
            "table",
            "title",
        }
    )
    SKIPPED = frozenset({"script", "style", "nav", "head"})
    VOID = frozenset({"br", "hr", "img", "link", "meta", "input", "col", "wbr"})  # elements without an end
    SKIPPED_CLASSES = frozenset({"navheader", "navfooter"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._open: list[str] = []  # elements inside the skipped one, itself first

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = set((dict(attrs).get("class") or "").split())
        if self._open or tag in self.SKIPPED or classes & self.SKIPPED_CLASSES:
            if tag not in self.VOID:
                self._open.append(tag)
        elif tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            while tag in self._open:
                if self._open.pop() == tag:
                    break
        elif tag in self.BLOCKS and tag not in self.VOID:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._open:
            self.parts.append(data)


def _gloss(line: str) -> str | None:
    """ "word, synonym: gloss" of a line of WordNet's data files (wndb(5WN)); None for its licence's lines."""
    head, _, gloss = line.partition(" | ")
    entry = ENTRY.match(head)
    if entry is None or not gloss:
        return None
    fields = entry[2].split(" ")
    words = [
        re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in fields[: 2 * int(entry[1], 16) : 2]
    ]
    return f"{', '.join(words)}: {gloss.strip()}"


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.as_posix()))


def _groups(entries: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(entries), SYNSETS_PER_DOCUMENT):
        yield entries[start : start + SYNSETS_PER_DOCUMENT]
