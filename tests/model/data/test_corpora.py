"""Corpora: Python files, docstrings and instructions; Debian's manuals and WordNet; hub datasets."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from model.data.corpora import debian as debian_corpora
from model.data.corpora import python as python_corpora
from model.data.corpora.hub import HubDataset
from model.data.corpora.python import SourceTree
from model.data.corpora.registry import KINDS, built_in_corpora, package, select, stdlib
from model.data.corpora.text_documents import TextDocument
from model.data.errors import CorpusError

MODULE = '''\
"""The module's own docstring, which is long enough to be taken for prose by anyone who reads it carefully."""

import os


@decorated(
    with_arguments=True,
)
def documented(first: int, *, second: str = "x") -> bool:
    """Says at some length what this function does with its arguments.

    And some more.
    """
    # a comment stays
    return bool(first) and second == "x"


class Thing(Base, metaclass=Meta):
    """A thing whose docstring is also long enough to be taken into the prose."""

    async def method(self):
        """Waits for something that is described here in a sufficiently long line."""
        await something()
        return """not a docstring"""

    def short(self):
        """Too short."""
        return 1

    def abstract(self):
        """Documented well enough, but there is no code that could be an answer."""
        raise NotImplementedError("later")

    def empty(self):
        """Documented well enough, but there is no code that could be an answer."""
        pass

    def one_line(self): """Documented well enough, but on a line with its definition."""; return 1


def outer():
    def inner():
        """Documented well enough, but inside of another function's body."""
        return 1
    return inner
'''


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    for name, text in {
        "a.py": MODULE,
        "sub/b.py": '"""Short."""\n',
        "sub/test/c.py": MODULE,
        "tests/d.py": MODULE,
        "encodings/cp437.py": MODULE,
        "generated.py": MODULE,
        "broken.py": "def (:\n",
        "empty.py": "\n",
        "note.txt": "no code",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    return SourceTree("tree", tmp_path, frozenset({"generated.py"}))


def test_sources_are_whole_files_without_tests_tables_and_what_is_not_utf_8(tree: SourceTree) -> None:
    documents = list(python_corpora.sources(tree, "corpus", "licence"))
    assert [document.path for document in documents] == ["tree/a.py", "tree/broken.py", "tree/sub/b.py"]
    assert documents[0] == TextDocument("corpus", "licence", "tree/a.py", "tree/a.py", MODULE)


def test_docstrings_stand_under_the_names_of_what_they_describe(tree: SourceTree) -> None:
    (document,) = python_corpora.docstrings(tree, "corpus", "licence")
    assert document.origin == "tree/a.py"
    heads = [line for line in document.text.splitlines() if line and not line.startswith(" ")]
    assert heads[1:] == [
        "documented(first: int, *, second: str='x') -> bool",
        "Thing(Base)",
        "Thing.method(self)",
        "Thing.abstract(self)",
        "Thing.empty(self)",
        "Thing.one_line(self)",
    ]
    assert heads[0].startswith("The module's own docstring")
    assert "\n\n    And some more." in document.text
    assert "Too short" not in document.text and "inside of another" not in document.text


def test_instructions_ask_for_the_code_of_documented_functions(tree: SourceTree) -> None:
    first, second = python_corpora.instructions(tree, "corpus", "licence")
    assert first.path == "tree/a.py:documented" and first.origin == "tree/a.py"
    assert first.text.startswith(
        "Write the Python function `documented(first: int, *, second: str='x') -> bool`.\n\nSays"
    )
    assert first.text.endswith("And some more.\n")
    assert first.answer == (
        '@decorated(\n    with_arguments=True,\n)\ndef documented(first: int, *, second: str = "x") -> bool:\n'
        '    # a comment stays\n    return bool(first) and second == "x"\n'
    )
    assert second.path == "tree/a.py:Thing.method"
    assert second.answer == (
        'async def method(self):\n    await something()\n    return """not a docstring"""\n'
    )


def test_long_answers_are_left_out(tmp_path: Path) -> None:
    body = "".join(f"    x = {number}\n" for number in range(1000))
    (tmp_path / "a.py").write_text(f'def long():\n    """{"Documented well. " * 5}"""\n{body}')
    assert list(python_corpora.instructions(SourceTree("tree", tmp_path), "c", "l")) == []


def test_strings_of_a_dict_are_read_without_running_the_module(tmp_path: Path) -> None:
    (tmp_path / "topics.py").write_text("topics = {'a': 'text of a', 'b': r'''text of b'''}\n1 / 0\n")
    tree = SourceTree("tree", tmp_path)
    documents = list(python_corpora.literal_strings(tree, "topics.py", "topics", "c", "l"))
    assert [(document.path, document.text) for document in documents] == [
        ("tree/topics.py:a", "text of a"),
        ("tree/topics.py:b", "text of b"),
    ]
    assert list(python_corpora.literal_strings(tree, "topics.py", "other", "c", "l")) == []


def test_every_instruction_of_the_standard_library_is_code() -> None:
    """A sample of real modules: answers parse, have the asked name, and no docstring."""
    whole = stdlib()
    tree = SourceTree(whole.name, whole.root / "json")
    documents = list(python_corpora.instructions(tree, "c", "l"))
    assert len(documents) > 10
    for document in documents:
        assert document.answer is not None
        (definition,) = ast.parse(document.answer).body
        assert isinstance(definition, ast.FunctionDef)
        assert document.path.endswith(definition.name)
        assert ast.get_docstring(definition) is None


def test_the_standard_library_is_always_here() -> None:
    by_name = {corpus.name: corpus for corpus in built_in_corpora()}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("python-topics", "python-sources", "python-docstrings", "python-instructions"):
        document = next(by_name[name].read())
        assert document.corpus == name and document.licence == by_name[name].licence == "PSF-2.0"
        assert document.path.startswith(f"{version}/")
    paths = stdlib().paths()
    assert "json/decoder.py" in paths and "argparse.py" in paths
    assert not any({"test", "tests", "encodings"} & set(path.split("/")[:-1]) for path in paths)
    assert not any("topics.py" in path or "_sysconfigdata" in path for path in paths)


def test_packages_are_found_without_importing_them() -> None:
    before = set(sys.modules)
    tree = package("sympy")
    assert tree is not None and (tree.root / "core").is_dir()
    assert "sympy" in before or "sympy" not in sys.modules
    assert package("no_such_package_at_all") is None


def test_every_kind_has_a_corpus_that_is_always_here() -> None:
    here = {corpus.kind for corpus in built_in_corpora(Path("/nowhere")) if next(corpus.read(), None)}
    assert here == set(KINDS)


def test_corpora_are_chosen_by_name() -> None:
    corpora = built_in_corpora()
    assert [c.name for c in select(("wordnet", "python-topics"), corpora)] == ["wordnet", "python-topics"]
    assert select((), corpora) == corpora
    with pytest.raises(CorpusError, match=r"there is no corpus 'wordnt': choose from .*wordnet"):
        select(("wordnt",), corpora)


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    for name, text in {
        "usr/share/doc/python3.9/html/_sources/old.rst.txt": "old",
        "usr/share/doc/python3.13/html/_sources/library/json.rst.txt": "JSON\n====\n",
        "usr/share/doc/python3.13/html/_sources/index.rst.txt": "Index\n",
        "usr/share/doc/postgresql-doc-15/html/old.html": "<p>old</p>",
        "usr/share/doc/postgresql-doc-17/html/sql.html": HTML,
        "usr/share/doc/postgresql-doc-17/html/empty.html": "<div></div>",
        "usr/share/wordnet/data.noun": WORDNET,
        "usr/share/wordnet/data.verb": WORDNET.replace("entity", "be"),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


HTML = """<html><head><title>T</title><link rel="x"><style>p {}</style></head><body>
<div class="navheader"><table><tr><td>Prev</td><td><br>Next</td></tr></table></div>
<h1>SQL &amp; more</h1><p>One   <code>SELECT</code>
goes<br/>here.</p><script>var x;</script><pre>a
b</pre><div class="navfooter"><hr>Home</div></body></html>"""

WORDNET = (
    "  1 This software and database is being provided | as is\n"
    "00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived  \n"
    '00001930 03 n 02 physical_entity 0 big_thing(a) 1 000 | an entity that has existence; "it\'s there"\n'
)


def test_python_s_manual_is_its_newest_version(debian: Path) -> None:
    documents = list(debian_corpora.python_documentation(debian, "c", "l"))
    assert [(document.path, document.text) for document in documents] == [
        ("python3.13/index.rst.txt", "Index\n"),
        ("python3.13/library/json.rst.txt", "JSON\n====\n"),
    ]


def test_postgresql_s_manual_is_text_without_navigation(debian: Path) -> None:
    (document,) = debian_corpora.postgresql_documentation(debian, "c", "l")
    assert document.path == "postgresql-doc-17/sql.html"
    assert document.text == "SQL & more\n\nOne SELECT\ngoes\nhere.\n\na\nb\n"


def test_wordnet_s_glosses_stand_behind_their_words(debian: Path) -> None:
    nouns, verbs = debian_corpora.wordnet_glosses(debian, "c", "l")
    assert (nouns.path, verbs.path) == ("wordnet/data.noun:0", "wordnet/data.verb:0")
    assert nouns.text == (
        'entity: that which is perceived\nphysical entity, big thing: an entity that has existence; "it\'s there"\n'
    )


def test_neighbouring_synsets_share_a_document(debian: Path) -> None:
    line = WORDNET.splitlines(keepends=True)[1]
    (debian / "usr/share/wordnet/data.noun").write_text(line * 130)
    documents = [d for d in debian_corpora.wordnet_glosses(debian, "c", "l") if "noun" in d.path]
    assert [document.text.count("\n") for document in documents] == [64, 64, 2]


def test_absent_packages_give_no_documents(tmp_path: Path) -> None:
    for read in (
        debian_corpora.python_documentation,
        debian_corpora.postgresql_documentation,
        debian_corpora.wordnet_glosses,
    ):
        assert list(read(tmp_path, "c", "l")) == []


def test_built_in_corpora_read_debian_below_their_root(debian: Path) -> None:
    by_name = {corpus.name: corpus for corpus in built_in_corpora(debian)}
    for name in ("python-manual", "postgresql-manual", "wordnet"):
        document = next(by_name[name].read())
        assert document.corpus == name and document.licence == by_name[name].licence
        assert "apt-get install" in by_name[name].remedy


def test_a_hub_dataset_is_parsed_from_a_command_line() -> None:
    parsed = HubDataset.parse("wikitext,config=wikitext-2-raw-v1,column=text,licence=CC-BY-SA-4.0,limit=10")
    assert parsed == HubDataset("wikitext", "text", "CC-BY-SA-4.0", config="wikitext-2-raw-v1", limit=10)
    assert parsed.corpus == "hub:wikitext"
    assert HubDataset.parse("json,column=text,licence=x,called=mails").corpus == "hub:mails"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a", "'a' needs column and licence"),
        ("a,column=text", "'a' needs licence"),
        ("a,colum=text", "no option 'colum': use answer_column, called, column"),
        ("a,column=text,licence=x,limit=many", "limit=many is not a number"),
    ],
)
def test_a_bad_hub_dataset_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason):
        HubDataset.parse(text)


HAS_DATASETS = importlib.util.find_spec("datasets") is not None


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where it is not installed
    with pytest.raises(CorpusError, match=r"pip install 'gainshare\[datasets\]'"):
        list(HubDataset("a", "text", "x").read())


@pytest.mark.skipif(not HAS_DATASETS, reason="expected: the extra `datasets` is not installed")
def test_a_dataset_in_local_files_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"q": f"why {n}?", "a": f"so {n}."}) + "\n" for n in range(5)))
    hub = HubDataset("json", "q", "CC0-1.0", data_files=str(file), answer_column="a", limit=3)
    documents = list(hub.read())
    assert [(d.text, d.answer) for d in documents] == [(f"why {n}?", f"so {n}.") for n in range(3)]
    assert documents[0].corpus == "hub:json" and documents[0].licence == "CC0-1.0"
    assert len({document.origin for document in documents}) == 3
    with pytest.raises(CorpusError, match="row 0 of 'json' has no text in column 'text'; it has a, q"):
        list(HubDataset("json", "text", "x", data_files=str(file)).read())
    with pytest.raises(CorpusError, match="cannot read the dataset 'json'"):
        list(HubDataset("json", "q", "x", data_files=str(tmp_path / "no.jsonl")).read())
