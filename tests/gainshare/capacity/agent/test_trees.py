"""Deployed trees on a host: fetched and checked against a site that lies, built whole or not at all, kept and removed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pairs.nameless import PREFIX, nameless_copy
from benchmarks.patch.trees import MAX_FILE_BYTES, Tree, hash_entries, sha256_hex
from gainshare.capacity.agent import fetching, trees
from gainshare.capacity.agent.preparing import NotPrepared, Preparer
from gainshare.capacity.agent.protocol import MAX_TEXT
from gainshare.capacity.agent.site import Site, new_asker
from gainshare.capacity.agent.trees import TreeFolders
from tests.gainshare.capacity.agent.fake_site import TOKEN, FakeSite, fake_site
from tests.gainshare.capacity.agent.tree_making import OPEN, PROTECTED, changed, installed, speaking

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(600)]

Base = tuple[Tree, dict[str, bytes]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return installed(tmp_path_factory.mktemp("blobs"))


def prepare(site: FakeSite, folder: Path, work: Callable[[Preparer], Awaitable[Any]]) -> TreeFolders:
    """Do `work` with a preparer of a host of the site."""
    token = folder.parent / "token"
    token.write_text(TOKEN)
    folders = TreeFolders(folder)
    folders.make()

    async def run() -> None:
        asker = new_asker()
        speaker = Site(asker, site.url, token)
        preparer = Preparer(folders, speaker, say=lambda line: None, done=lambda: None)
        try:
            await work(preparer)
        finally:
            await preparer.aclose()
            await asker.aclose()

    asyncio.run(run())
    return folders


def refused(site: FakeSite, folder: Path, tree: str) -> str:
    """Why a tree is refused; nothing of it is left."""
    with pytest.raises(NotPrepared) as why:
        prepare(site, folder, lambda preparer: preparer.ready(tree))
    assert list(folder.iterdir()) == []
    assert len(str(why.value)) <= MAX_TEXT
    return str(why.value)


def row(path: str, *, mode: int = 0o644, content: bytes = b"") -> dict[str, Any]:
    return {"path": path, "mode": mode, "blob": sha256_hex(content)}


def named(rows: list[dict[str, Any]]) -> tuple[str, bytes]:
    """The hash that a manifest of these rows would have, and the manifest."""

    class Row:
        def __init__(self, document: dict[str, Any]) -> None:
            self.path, self.mode, self.blob = document["path"], document["mode"], document["blob"]

    name = hash_entries([Row(document) for document in rows])  # type: ignore[misc]
    return name, json.dumps({"entries": rows}).encode()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("model/../../etc/passwd")], "leaves the tree"),
        ([row("/etc/passwd")], "absolute"),
        ([row("model/link.py", mode=0o120777)], "only 644 and 755"),
        ([row("model/a.py", mode=0o104755)], "only 644 and 755"),
        ([row("model/a.py"), row("model/A.py")], "out of order"),
        ([row("model/A.py"), row("model/a.py")], "letter case"),
        ([row("model/a"), row("model/a/b.py")], "a file and a folder"),
        ([row(f"model/f{number:05}.py") for number in range(6_000)], "at most 5000 files"),
        ([], "differs from the installed one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_manifests_are_refused(
    site: FakeSite, tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    name, manifest = named(rows)
    site.manifests[name] = manifest
    assert said in refused(site, tmp_path / "trees", name)
    assert len(site.asked) == 1  # not one file was asked for


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"[" * 1_000_000, b"null", b'{"entries": 1}', b'{"entries": [], "more": 1}', b"\xff\xfe"],
    ids=lambda manifest: repr(manifest[:12]),
)
def test_what_is_no_manifest_is_refused(site: FakeSite, tmp_path: Path, manifest: bytes) -> None:
    site.manifests["ab" * 32] = manifest
    assert "refused" in refused(site, tmp_path / "trees", "ab" * 32)


def test_a_manifest_of_a_hundred_thousand_files_is_not_even_read(site: FakeSite, tmp_path: Path) -> None:
    name, manifest = named([row(f"model/f{number:06}.py") for number in range(100_000)])
    site.manifests[name] = manifest
    assert f"longer than {fetching.MAX_MANIFEST_BYTES} bytes" in refused(site, tmp_path / "trees", name)


def test_another_trees_manifest_is_refused(site: FakeSite, tmp_path: Path, base: Base) -> None:
    tree, blobs = speaking(base)
    site.offer(tree, blobs)
    site.manifests["cd" * 32] = site.manifests[tree.hash]
    assert "another tree" in refused(site, tmp_path / "trees", "cd" * 32)


@pytest.mark.parametrize("name", ["..", "installed", "../trees", "ab" * 31, "AB" * 32, "ab" * 32 + "/.."])
def test_only_a_hash_names_a_tree(site: FakeSite, tmp_path: Path, name: str) -> None:
    assert "no hash" in refused(site, tmp_path / "trees", name)
    assert site.asked == []


@pytest.mark.parametrize(
    "files",
    [
        {PROTECTED: b"# no more counting\n"},
        {PROTECTED: None},
        {"model/serving/node.py": b"# in the place of a protected folder\n"},
        {"model/serving/metering/more.py": b"# next to protected files\n"},
    ],
    ids=lambda files: next(iter(files)),
)
def test_protected_files_are_the_installed_ones(
    site: FakeSite, tmp_path: Path, base: Base, files: dict[str, bytes | None]
) -> None:
    why = refused(site, tmp_path / "trees", site.offer(*changed(base, files)))
    assert f"{next(iter(files))} differs from the installed one" in why


@pytest.mark.parametrize("path", ["sitecustomize.py", "torch/__init__.py", "model_/x.py"])
def test_nothing_outside_the_package_is_executed(
    site: FakeSite, tmp_path: Path, base: Base, path: str
) -> None:
    """The tree's folder is on the node's path: there it could take any package's place."""
    why = refused(site, tmp_path / "trees", site.offer(*changed(base, {path: b"import os\n"})))
    assert f"{path} differs from the installed one" in why


def test_files_with_other_bytes_are_refused(site: FakeSite, tmp_path: Path, base: Base) -> None:
    tree, blobs = speaking(base)
    site.offer(tree, blobs)
    entry = tree.get(OPEN)
    assert entry is not None
    site.blobs[entry.blob] = b"import os\n"
    assert "other bytes" in refused(site, tmp_path / "trees", tree.hash)
    site.blobs[entry.blob] = b"x" * (MAX_FILE_BYTES + 1)
    assert "longer than" in refused(site, tmp_path / "trees", tree.hash)
    del site.blobs[entry.blob]
    assert "cannot be fetched" in refused(site, tmp_path / "trees", tree.hash)


def test_all_files_together_are_bounded(
    site: FakeSite, tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MAX_FETCHED_BYTES", 1_000)
    files: dict[str, bytes | None] = {f"model/f{number}.py": b"#" * (400 + number) for number in range(3)}
    assert "in all" in refused(site, tmp_path / "trees", site.offer(*changed(base, files)))


def test_a_tree_that_does_not_parse_says_so_safely(site: FakeSite, tmp_path: Path, base: Base) -> None:
    name = site.offer(*changed(base, {"model/wrong.py": "\x1b[2Jdef (\u202e:\n".encode()}))
    why = refused(site, tmp_path / "trees", name)
    assert "does not build" in why and "wrong.py" in why
    assert all(letter.isprintable() for letter in why)


def test_a_compilers_words_are_quoted_and_bounded(site: FakeSite, tmp_path: Path, base: Base) -> None:
    source = b'#error "' + b"y" * 5_000 + b'"\n'
    name = site.offer(*changed(base, {"model/csrc/wrong.cpp": source}))
    why = refused(site, tmp_path / "trees", name)
    assert "does not build (build_failed)" in why and "wrong.cpp" in why


def test_a_tree_is_whole_read_only_and_fetched_once(site: FakeSite, tmp_path: Path, base: Base) -> None:
    tree, blobs = speaking(base)
    name = site.offer(tree, blobs)

    async def twice(preparer: Preparer) -> None:
        assert not preparer.is_ready(name)
        await preparer.ready(name)
        assert preparer.is_ready(name)

    folders = prepare(site, tmp_path / "trees", twice)
    assert [path.name for path in folders.folder.iterdir()] == [name]
    assert folders.folder.stat().st_mode & 0o777 == 0o700
    for entry in tree.entries:
        file = folders.path(name) / entry.path
        assert sha256_hex(file.read_bytes()) == entry.blob
        assert file.stat().st_mode & 0o222 == 0
    assert len(site.asked) == 2  # the manifest, and the one file that is not the installed one
    prepare(site, tmp_path / "trees", lambda preparer: preparer.ready(name))
    assert len(site.asked) == 2


def test_a_build_that_is_not_wanted_any_more_leaves_nothing(
    site: FakeSite, tmp_path: Path, base: Base
) -> None:
    name = site.offer(*changed(base, {}, has_csrc=True))

    async def given_up(preparer: Preparer) -> None:
        assert not preparer.is_ready(name)
        while not list(preparer.folders.folder.glob("new-*/tree/model")):
            await asyncio.sleep(0.02)
        preparer.keep_only(set())

    folders = prepare(site, tmp_path / "trees", given_up)
    assert list(folders.folder.iterdir()) == []


def test_while_the_site_is_away_a_tree_is_tried_again(
    tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gainshare.capacity.agent.preparing.AGAIN_S", 0.05)
    tree, blobs = speaking(base)
    with fake_site() as site:
        site.token = "renewed"

        async def later(preparer: Preparer) -> None:
            assert not preparer.is_ready(tree.hash)
            await asyncio.sleep(0.5)
            assert not preparer.is_ready(tree.hash)
            site.token = TOKEN
            site.offer(tree, blobs)
            await preparer.ready(tree.hash)

        assert prepare(site, tmp_path / "trees", later).has(tree.hash)


def test_trees_in_use_stay_and_of_others_the_last_ones(tmp_path: Path) -> None:
    folders = TreeFolders(tmp_path / "trees")
    folders.make()
    names = [f"{number:064x}" for number in range(trees.KEPT + 3)]
    for age, name in enumerate([*names, trees.INSTALLED]):
        folders.folder.joinpath(name).mkdir()
        os.utime(folders.folder / name, (age, age))
    (folders.folder / "new-begun").mkdir()
    tree = folders.folder / names[-1]
    (tree / "model").mkdir()
    os.utime(tree, (99, 99))
    with nameless_copy(tree) as copy:  # as a canary has that runs now, whose files are older than every tree
        assert folders.remove_unused({names[0]}) == [names[2], names[1]]
        assert {path.name for path in folders.folder.iterdir()} == {
            *(names[:1] + names[3:]),
            trees.INSTALLED,
            "new-begun",
            copy.name,
        }
    folders.note_use(names[3])
    assert folders.remove_unused({names[0], "f" * 64}) == []
    (folders.folder / f"{PREFIX}killed").mkdir()
    TreeFolders(tmp_path / "trees").make()  # the next agent
    assert {path.name for path in folders.folder.iterdir()} == {*(names[:1] + names[3:]), trees.INSTALLED}
