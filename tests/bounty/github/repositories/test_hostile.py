"""Hostile repositories: what is refused, in which words, and what never runs."""

import os
import socket
from pathlib import Path

import pytest

from bounty.github.repositories import mirrors
from bounty.github.repositories.addresses import Place
from bounty.github.repositories.folder_trees import FolderRefused, read_folder
from bounty.github.repositories.git import Git, GitError, LimitReached, Limits, folder_bytes
from bounty.services.trees import blob_store
from tests.bounty.github.conftest import Bound
from tests.bounty.github.git_server import Repository

ROUTER = "model/layers/moe/router.py"
LINK = "120000"
MIB = 1024 * 1024


def refused(bound: Bound) -> str:
    """Commit, follow, and give the reason; the tip has to stay."""
    bound.repository.commit()
    problem = bound.follow().problem
    assert bound.lineage.tip == bound.world.tree
    return problem


def test_a_symbolic_link_is_refused(bound: Bound) -> None:
    bound.repository.put("model/link.py", "/etc/passwd", LINK)
    assert "model/link.py is a symbolic link" in refused(bound)


def test_a_submodule_is_refused(bound: Bound) -> None:
    bound.repository.files["model/sub"] = ("160000", bound.first)
    bound.repository.put(
        ".gitmodules", '[submodule "x"]\n\tpath = model/sub\n\turl = ext::sh -c "touch /tmp/x"\n'
    )
    assert "model/sub is a submodule" in refused(bound)


def test_two_spellings_of_one_name_are_refused(bound: Bound) -> None:
    bound.repository.put("model/layers/moe/Router.py", "x = 1\n")
    assert "differ only in letter case" in refused(bound)


@pytest.mark.parametrize(
    "name", ["a b.py", "-rf.py", "a\nb.py", "caf\u00e9.py", "\u202egp.py", "a;rm.py", "$(id).py", "x."]
)
def test_a_name_that_no_tree_may_have_is_refused(bound: Bound, name: str) -> None:
    bound.repository.put(f"model/{name}", "x = 1\n")
    problem = refused(bound)
    assert "use only letters, digits" in problem and problem.isprintable() and problem.isascii()


def test_attributes_and_filters_of_the_repository_do_nothing(bound: Bound, tmp_path: Path) -> None:
    bound.follow()
    bound.repository.put(
        ".gitattributes", "* filter=evil export-ignore text eol=crlf ident working-tree-encoding=UTF-16\n"
    )
    bound.push("gate = '$Id$'\n")
    binding = bound.follow()
    assert binding.problem == "" and bound.lineage.tip == binding.tree
    read = read_folder(bound.mirror, commit=binding.commit, folder="model", store=blob_store())
    entry = read.get(ROUTER)
    assert entry is not None and blob_store().get(entry.blob) == b"gate = '$Id$'\n"


def test_attributes_in_the_folder_are_a_file_of_a_kind_that_is_refused(bound: Bound) -> None:
    bound.repository.put("model/.gitattributes", "* filter=evil\n")
    assert "of a kind that patches may not touch" in refused(bound)


def test_a_protected_file_is_refused(bound: Bound) -> None:
    bound.repository.put("model/serving/metering/extra.py", "free = True\n")
    assert "is protected" in refused(bound)


def test_a_folder_without_what_the_judge_imports_is_refused(bound: Bound) -> None:
    kept = ("model/layers/moe/experts.py", ROUTER, "README.md")
    bound.repository.files = {path: at for path, at in bound.repository.files.items() if path in kept}
    assert "which the judge imports" in refused(bound)


def test_a_branch_without_the_folder_is_refused(bound: Bound) -> None:
    bound.repository.files = {"README.md": bound.repository.files["README.md"]}
    assert "has no folder model" in refused(bound)


def test_a_hundred_thousand_files_are_refused(bound: Bound) -> None:
    one = bound.repository.files[ROUTER]
    bound.repository.files |= {f"model/many/d{n % 100}/f{n}.py": one for n in range(100_000)}
    assert "at most 5000" in refused(bound)


def test_a_huge_file_in_the_folder_is_never_fetched(bound: Bound) -> None:
    """1 GiB of zeros: a few hundred bytes where it is stored, all of it where it is read."""
    big = bound.repository.folder / "big"
    with big.open("wb") as stream:
        stream.truncate(1024 * MIB)
    name = bound.repository.git(
        "-c", "core.bigFileThreshold=1m", "hash-object", "-w", "--no-filters", str(big)
    )
    big.unlink()
    bound.repository.files["model/big.py"] = ("100644", name)
    assert "model/big.py is larger than 1048576 bytes" in refused(bound)
    assert folder_bytes(bound.mirror) < MIB


def test_a_huge_file_beside_the_folder_is_left_where_it_is(bound: Bound) -> None:
    bound.repository.put("data.bin", os.urandom(3 * MIB))
    commit = bound.repository.commit()
    assert bound.follow().problem == ""
    assert bound.follow().commit == commit and folder_bytes(bound.mirror) < MIB


def test_a_repository_over_its_size_is_refused_and_removed(bound: Bound) -> None:
    for number in range(8):
        bound.repository.put(f"docs/{number}.bin", os.urandom(MIB - 1000))
    bound.repository.commit()
    place = Place(f"{bound.url}/model.git", "main", "model")
    folder = bound.mirror
    with pytest.raises(LimitReached, match="more than 2 MiB"):
        mirrors.fetch(folder, place, protocols=("http",), limits=Limits(repository_bytes=2 * MIB))
    assert not folder.exists()
    assert mirrors.fetch(folder, place, protocols=("http",))


def test_a_fetch_that_takes_too_long_is_ended(bound: Bound) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = Place(f"http://127.0.0.1:{silent.getsockname()[1]}/model.git", "main", "model")
        with pytest.raises(LimitReached, match=r"longer than 1 seconds"):
            mirrors.fetch(bound.mirror, place, protocols=("http",), limits=Limits(wall_s=1))


@pytest.mark.parametrize(
    "name", ["$(touch$IFS{0})", "a;touch$IFS{0}", "`touch$IFS{0}`", "a|touch$IFS{0}", "'&\"#"]
)
def test_a_branch_with_shell_characters_is_only_a_name(bound: Bound, tmp_path: Path, name: str) -> None:
    branch = name.format(tmp_path / "pwned")
    bound.repository.put(ROUTER, "gate = 'of this branch'\n")
    commit = bound.repository.commit(branch=branch)
    bound.bind(branch=branch)
    binding = bound.follow()
    assert (binding.problem, binding.commit) == ("", commit)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "url", ["ext::sh -c touch% {0}", "file://{1}", "{1}", "--upload-pack=touch {0}", "ssh://x/y", "git://x/y"]
)
def test_git_itself_refuses_every_other_way_to_a_repository(bound: Bound, tmp_path: Path, url: str) -> None:
    """The second line: an address that came past the checks."""
    target = tmp_path / "pwned"
    place = Place(url.format(target, bound.repository.folder), "main", "model")
    with pytest.raises(GitError):
        mirrors.fetch(bound.mirror, place, protocols=("https", "http"))
    assert not target.exists() and not (bound.mirror / "FETCH_HEAD").exists()


def test_the_hosts_configuration_and_secrets_are_not_there(
    bound: Bound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f'[url "{bound.url}/nothing"]\n\tinsteadOf = {bound.url}/model\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GAINSHARE_SECRET_KEY", "a-secret")
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {tmp_path}/pwned")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", f"touch {tmp_path}/pwned")
    assert bound.follow().problem == ""
    shown = Git(bound.mirror).run("-c", "alias.env=!env", "env")[1].decode()
    assert "a-secret" not in shown and "DATABASE_URL" not in shown and f"{home}" not in shown
    assert Git(bound.mirror).run("config", "--list", "--show-origin")[1].decode().count(".gitconfig") == 0


def test_a_hook_in_the_copy_never_runs(bound: Bound, tmp_path: Path) -> None:
    bound.follow()
    hooks = bound.mirror / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "post-checkout", "pre-auto-gc", "post-index-change"):
        hook = hooks / name
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/pwned\n")
        hook.chmod(0o755)
    bound.push("gate = 'sigmoid'\n")
    assert bound.follow().problem == "" and not (tmp_path / "pwned").exists()


def test_a_commit_that_moves_while_it_is_read_is_read_as_it_was(bound: Bound) -> None:
    first = bound.follow().commit
    bound.push("gate = 'sigmoid'\n")
    place = Place(f"{bound.url}/model.git", "main", "model")
    assert mirrors.fetch(bound.mirror, place, protocols=("http",)) != first
    read = read_folder(bound.mirror, commit=first, folder="model", store=blob_store())
    assert read.hash == bound.world.tree.pk


def test_a_replaced_object_is_not_believed(bound: Bound) -> None:
    first = bound.follow().commit
    other = bound.push("gate = 'sigmoid'\n")
    bound.follow()
    Git(bound.mirror).run("update-ref", f"refs/replace/{first}", other)
    read = read_folder(bound.mirror, commit=first, folder="model", store=blob_store())
    assert read.hash == bound.world.tree.pk


def test_an_empty_repository_is_said(bound: Bound, tmp_path: Path) -> None:
    Repository(bound.repository.folder.parent / "empty.git")
    bound.bind(repository=f"{bound.url}/empty.git")
    assert "no branch main" in bound.follow().problem


def test_a_folder_that_is_a_file_is_refused(bound: Bound) -> None:
    bound.follow()
    with pytest.raises(FolderRefused, match=r"no folder README\.md"):
        read_folder(bound.mirror, commit=bound.first, folder="README.md", store=blob_store())


def test_a_redirect_is_not_followed(bound: Bound) -> None:
    bound.bind(repository=f"{bound.url}/moved/model.git")
    assert "answers from another address" in bound.follow().problem


def test_a_few_objects_that_are_billions_of_files_are_refused(bound: Bound) -> None:
    """A folder with ten names for one folder, ten levels deep."""
    inside, kind = bound.repository.files[ROUTER][1], "100644 blob"
    for _level in range(10):
        rows = "".join(f"{kind} {inside}\td{number}\n" for number in range(10))
        inside, kind = bound.repository.git("mktree", given=rows.encode()), "040000 tree"
    top = bound.repository.git("mktree", given=f"040000 tree {inside}\tmodel\n".encode())
    commit = bound.repository.git("commit-tree", top, "-m", "bomb", "-p", bound.first)
    bound.repository.git("update-ref", "refs/heads/main", commit)
    assert "far more than the 5000 files" in bound.follow().problem
    assert bound.lineage.tip == bound.world.tree
