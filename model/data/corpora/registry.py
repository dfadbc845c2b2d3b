"""Registry of the corpora that need no hub, with licences and what to do where one is absent.

Reading them imports none of the packages.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.data.corpora import debian as debian_corpora
from model.data.corpora import python as python_corpora
from model.data.corpora.python import SourceTree
from model.data.corpora.text_documents import TextDocument
from model.data.errors import CorpusError

Kind = Literal["general", "domain", "instruction"]
KINDS: tuple[Kind, ...] = ("general", "domain", "instruction")

ROOT = Path("/")
TOPICS_FILE = "pydoc_data/topics.py"
# Installed with torch, richly documented, all under the BSD licence.
DOCUMENTED_PACKAGES = ("numpy", "sympy", "networkx", "torch")


@dataclass(frozen=True)
class Corpus:
    """A corpus. `read` yields nothing if it is not on this machine; `remedy` says how to install it."""

    name: str
    kind: Kind
    licence: str
    about: str
    remedy: str
    read: Callable[[], Iterator[TextDocument]]


def stdlib() -> SourceTree:
    """The running Python's standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    generated = frozenset({TOPICS_FILE, *(file.name for file in root.glob("_sysconfigdata*.py"))})
    return SourceTree(name, root, generated)


def package(name: str) -> SourceTree | None:
    """An installed package's files; None where it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return SourceTree(name, Path(spec.origin).parent)


def built_in_corpora(root: Path = ROOT) -> tuple[Corpus, ...]:
    """All built-in corpora, present or not; `root` is the root folder of Debian's packages."""
    python = "PSF-2.0"
    always = "it comes with every full installation of Python: reinstall Python"
    debian = "on Debian and Ubuntu: apt-get install "
    return (
        Corpus(
            "python-topics",
            "general",
            python,
            "the language reference's topics that `help()` shows",
            always,
            lambda: _topics("python-topics", python),
        ),
        Corpus(
            "python-docstrings",
            "general",
            python,
            "docstrings of the standard library, a module a document",
            always,
            lambda: python_corpora.docstrings(stdlib(), "python-docstrings", python),
        ),
        Corpus(
            "package-docstrings",
            "general",
            "BSD-3-Clause",
            f"docstrings of {', '.join(DOCUMENTED_PACKAGES)}",
            "install torch, which brings them",
            lambda: _package_docstrings("package-docstrings", "BSD-3-Clause"),
        ),
        Corpus(
            "python-manual",
            "general",
            python,
            "Python's manual",
            debian + "python3-doc",
            lambda: debian_corpora.python_documentation(root, "python-manual", python),
        ),
        Corpus(
            "wordnet",
            "general",
            "WordNet-3.0",
            "WordNet's definitions and examples",
            debian + "wordnet-base",
            lambda: debian_corpora.wordnet_glosses(root, "wordnet", "WordNet-3.0"),
        ),
        Corpus(
            "postgresql-manual",
            "general",
            "PostgreSQL",
            "PostgreSQL's manual",
            debian + "postgresql-doc",
            lambda: debian_corpora.postgresql_documentation(root, "postgresql-manual", "PostgreSQL"),
        ),
        Corpus(
            "python-sources",
            "domain",
            python,
            "source files of the standard library",
            always,
            lambda: python_corpora.sources(stdlib(), "python-sources", python),
        ),
        Corpus(
            "python-instructions",
            "instruction",
            python,
            "signature and docstring to code, from the standard library",
            always,
            lambda: python_corpora.instructions(stdlib(), "python-instructions", python),
        ),
    )


def select(names: tuple[str, ...], corpora: tuple[Corpus, ...]) -> tuple[Corpus, ...]:
    """The corpora of these names; all where none is named. Raises CorpusError for an unknown one."""
    by_name = {corpus.name: corpus for corpus in corpora}
    for name in names:
        if name not in by_name:
            raise CorpusError(f"there is no corpus {name!r}: choose from {', '.join(by_name)}")
    return tuple(by_name[name] for name in names) if names else corpora


def _topics(corpus: str, licence: str) -> Iterator[TextDocument]:
    tree = stdlib()
    if (tree.root / TOPICS_FILE).is_file():
        yield from python_corpora.literal_strings(tree, TOPICS_FILE, "topics", corpus, licence)


def _package_docstrings(corpus: str, licence: str) -> Iterator[TextDocument]:
    for name in DOCUMENTED_PACKAGES:
        tree = package(name)
        if tree is not None:
            yield from python_corpora.docstrings(tree, corpus, licence)
