"""Git sees at the stand-in what it sees at GitHub: branches, heads and trial merges, filters, pushes and moves."""

import pytest

from bounty.github.standin.git import File
from bounty.github.standin.merging import Conflict
from tests.bounty.github.standin.conftest import Place


def _tree(place: Place, commit: str) -> str:
    return place.git(f"--git-dir={place.repository.folder}", "rev-parse", f"{commit}^{{tree}}")


def _parents(place: Place, commit: str) -> list[str]:
    return place.git(f"--git-dir={place.repository.folder}", "show", "-s", "--format=%P", commit).split()


def test_a_pull_requests_head_and_trial_merge_can_be_fetched(place: Place) -> None:
    pull = place.pull()
    tip = place.at("refs/heads/main")
    assert place.at("refs/pull/1/head") == pull.head_sha
    trial = place.at("refs/pull/1/merge")
    assert _parents(place, trial) == [tip, pull.head_sha]
    place.git("init", "-q", "clone")
    place.git("-C", "clone", "fetch", "-q", f"{place.standin.url}/octo/model.git", "refs/pull/1/head")
    assert place.git("-C", "clone", "show", "FETCH_HEAD:model/router.py") == "gate = 2"


def test_a_push_moves_the_head_and_a_conflict_has_no_trial_merge(place: Place) -> None:
    pull = place.pull()
    before = pull.head_sha
    head = place.standin.push_to(pull, {"model/other.py": "x = 1\n"})
    assert place.at("refs/pull/1/head") == head != before
    assert _parents(place, head) == [before]
    place.standin.push(place.repository, {"model/router.py": "gate = 9\n"})
    place.standin.push_to(pull, {"model/other.py": "x = 2\n"})
    assert place.at("refs/pull/1/merge") == ""
    assert place.get("/pulls/1").json()["mergeable"] is False


def test_a_force_push_loses_the_former_head(place: Place) -> None:
    pull = place.pull()
    before = pull.head_sha
    head = place.standin.push_to(pull, {"model/router.py": "gate = 5\n"}, start=place.at("refs/heads/main"))
    assert place.at("refs/pull/1/head") == head
    assert _parents(place, head) == [place.at("refs/heads/main")]
    made = place.post("/check-runs", {"name": "x", "head_sha": before})
    assert made.status_code == 201  # GitHub still has the commit


def test_merge_squash_and_rebase_bring_the_same_tree_by_different_commits(place: Place) -> None:
    trees, parents = set(), []
    start = place.at("refs/heads/main")
    for method in ("merge", "squash", "rebase"):
        place.standin.reset_branch(place.repository, start)
        pull = place.pull(branch=f"by-{method}")
        place.standin.push_to(pull, {"model/more.py": "y = 1\n"})
        tip = place.standin.merge(pull, place.mira, method)
        assert place.at("refs/heads/main") == tip == pull.merge_sha
        assert place.at(f"refs/pull/{pull.number}/merge") == ""
        assert place.at(f"refs/pull/{pull.number}/head") == pull.head_sha
        trees.add(_tree(place, tip))
        parents.append(_parents(place, tip))
    assert len(trees) == 1
    assert [len(above) for above in parents] == [2, 1, 1]
    assert parents[1] == [start] != parents[2]


def test_the_queue_makes_a_branch_and_moves_main_to_its_commit(place: Place) -> None:
    pull = place.pull()
    before = len(place.standin.deliveries.all)
    base = place.at("refs/heads/main")
    commit = place.standin.enqueue(pull, place.mira)
    assert place.at(f"refs/heads/gh-readonly-queue/main/pr-1-{base}") == commit
    assert place.events(after=before) == ["pull_request.enqueued", "push", "merge_group.checks_requested"]
    assert place.standin.land(pull, commit, place.mira) == place.at("refs/heads/main")
    assert place.at(f"refs/heads/gh-readonly-queue/main/pr-1-{base}") == ""
    assert pull.is_merged


def test_a_revert_brings_the_former_tree_back(place: Place) -> None:
    start = place.at("refs/heads/main")
    tip = place.standin.merge(place.pull(), place.mira)
    reverted = place.standin.revert(place.repository, tip, place.mira)
    assert _tree(place, reverted) == _tree(place, start) != _tree(place, tip)


def test_what_conflicts_is_not_merged(place: Place) -> None:
    pull = place.pull()
    place.standin.push(place.repository, {"model/router.py": "gate = 9\n"})
    tip = place.at("refs/heads/main")
    for method in ("merge", "squash", "rebase"):
        with pytest.raises(Conflict):
            place.standin.merge(pull, place.mira, method)
    assert place.at("refs/heads/main") == tip
    assert not pull.is_merged


def test_large_files_stay_away_where_a_filter_says_so(place: Place) -> None:
    place.standin.push(place.repository, {"data.bin": b"\0" * 3_000_000})
    address = f"{place.standin.url}/octo/model"
    place.git("init", "-q", "--bare", "part")
    place.git(
        "--git-dir=part", "fetch", "-q", "--filter=blob:limit=1m", "--depth=1", address, "refs/heads/main"
    )
    listed = place.git("--git-dir=part", "rev-list", "--objects", "--missing=print", "FETCH_HEAD")
    assert sum(line.startswith("?") for line in listed.splitlines()) == 1


def test_hostile_names_and_modes_can_be_committed(place: Place) -> None:
    pull = place.standin.open_pull_request(
        place.repository,
        place.cora,
        {
            "model/link": File(b"/etc/passwd", "120000"),
            "model/module": File(b"1" * 40, "160000"),
            "model/ROUTER.py": "case\n",
            'model/a "b\\c.py': "quoted\n",
            "model/ünï.py": "text\n",
            "README.md": None,
        },
        branch="$(touch${IFS}x);`id`&&'\"",
    )
    listed = place.git(f"--git-dir={place.repository.folder}", "ls-tree", "-r", "-z", pull.head_sha).split(
        "\0"
    )
    modes = {row.split("\t")[1]: row.split(" ")[0] for row in listed if row}
    assert modes["model/link"] == "120000"
    assert modes["model/module"] == "160000"
    assert {"model/ROUTER.py", "model/router.py", 'model/a "b\\c.py', "model/ünï.py"} <= modes.keys()
    assert "README.md" not in modes


def test_a_hundred_thousand_files_are_one_commit(place: Place) -> None:
    files = {f"model/d{number % 500}/f{number}.py": "" for number in range(100_000)}
    pull = place.standin.open_pull_request(place.repository, place.cora, files)  # type: ignore[arg-type]
    listed = place.git(f"--git-dir={place.repository.folder}", "ls-tree", "-r", "--name-only", pull.head_sha)
    assert len(listed.splitlines()) == 100_002


def test_a_moved_repository_is_reached_by_its_former_address(place: Place) -> None:
    tip = place.at("refs/heads/main")
    place.standin.rename_repository(place.repository, "engine")
    told = place.git("ls-remote", f"{place.standin.url}/octo/model.git", "refs/heads/main")
    assert tip in told
    refused = place.git(
        "-c", "http.followRedirects=false", "ls-remote", f"{place.standin.url}/octo/model.git", check=False
    )
    assert "301" in refused


def test_a_private_repository_needs_a_token(place: Place) -> None:
    place.repository.is_private = True
    address = place.standin.url.replace("http://", "http://x-access-token:{}@") + "/octo/model"
    assert "could not read Username" in place.git("ls-remote", f"{place.standin.url}/octo/model", check=False)
    assert place.repository.default_branch in place.git("ls-remote", address.format(place.token))
    assert "not found" in place.git("ls-remote", address.format("ghs_forged"), check=False)


def test_git_pushes_are_events_and_need_the_right_to_write(place: Place) -> None:
    address = place.standin.url.replace("http://", "http://{}:x@") + "/octo/model"
    place.git("clone", "-q", address.format("mira"), "work")
    (place.folder / "work/model/router.py").write_text("gate = 7\n")
    place.git("-C", "work", "-c", "user.name=m", "-c", "user.email=m@x", "commit", "-qam", "change")
    before = len(place.standin.deliveries.all)
    refused = place.git("-C", "work", "push", "-q", address.format("cora"), "HEAD:main", check=False)
    assert "not found" in refused
    place.git("-C", "work", "push", "-q", "origin", "HEAD:main")
    assert place.events(after=before) == ["push"]
    sent = place.standin.deliveries.all[-1].payload
    assert (sent["after"], sent["sender"]["login"], sent["forced"]) == (
        place.at("refs/heads/main"),
        "mira",
        False,
    )


def test_a_branch_that_gains_a_pull_requests_commits_merges_it(place: Place) -> None:
    pull = place.pull()
    folder = f"--git-dir={place.repository.folder}"
    place.git(folder, "fetch", "-q", str(pull.source.folder), pull.head_sha)
    place.standin.reset_branch(place.repository, pull.head_sha)
    assert pull.is_merged
    assert pull.merge_sha == pull.head_sha
