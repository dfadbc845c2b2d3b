"""Hostile pull requests: what is refused, in which words, what is never fetched and what never runs."""

import os
from pathlib import Path

import pytest
from django.utils import timezone

from bounty.github.app.facts import AccountFacts
from bounty.github.pulls.fetching import HeadRefused, fetch_head
from bounty.github.pulls.outside_files import is_fine
from bounty.github.pulls.seeing import see
from bounty.github.repositories.following import mirror_of, pulls_mirror_of
from bounty.github.repositories.git import Limits, folder_bytes
from bounty.models import Head, PullRequest, Submission
from bounty.services.trees import blob_store
from tests.bounty.github.pulls.pull_world import EXPERTS_PATH, Pulls, experts

LINK = "120000"
MIB = 1024 * 1024
GAIN = {EXPERTS_PATH: experts(step_3="step_3 = 33")}


def head_of(pulls: Pulls, rows: dict[str, tuple[str, str]], *, number: int = 1, **files: str) -> Head:
    """Open a pull request whose commit has these rows (mode, object), too, and give its head after one look."""
    before = dict(pulls.repository.files)
    pulls.repository.files |= rows
    sha = pulls.commit(number, files={**GAIN, **files})
    pulls.repository.files = before
    pulls.opened(sha, number)
    return pulls.head(sha)


def blob(pulls: Pulls, data: bytes = b"x = 1\n") -> str:
    return pulls.repository.git("hash-object", "-w", "--stdin", given=data)


def test_a_symbolic_link_in_the_folder_is_refused(pulls: Pulls) -> None:
    head = head_of(pulls, {"model/link.py": (LINK, blob(pulls, b"/etc/passwd"))})
    assert head.state == "refused" and "model/link.py is a symbolic link" in head.problem


def test_links_and_submodules_beside_the_folder_were_measured_by_nobody(pulls: Pulls) -> None:
    rows = {"docs/link": (LINK, blob(pulls, b"../model")), "tests/sub": ("160000", pulls.bound.first)}
    head = head_of(pulls, rows)
    assert (head.state, head.unmeasured_paths) == ("submitted", ["docs/link", "tests/sub"])


def test_two_spellings_of_one_name_are_refused(pulls: Pulls) -> None:
    head = head_of(pulls, {"model/layers/moe/Experts.py": ("100644", blob(pulls))})
    assert head.state == "refused" and "differ only in letter case" in head.problem


@pytest.mark.parametrize("name", ["a b.py", "-rf.py", "a\nb.py", "caf\u00e9.py", "\u202egp.py", "$(id).py"])
def test_a_name_that_no_tree_may_have_is_refused(pulls: Pulls, name: str) -> None:
    head = head_of(pulls, {f"model/{name}": ("100644", blob(pulls))})
    assert head.state == "refused" and head.problem.isprintable() and head.problem.isascii()


def test_names_beside_the_folder_are_shown_escaped(pulls: Pulls) -> None:
    head = head_of(pulls, {"a\u202e\nb.py": ("100644", blob(pulls))})
    assert head.unmeasured_paths == ["a\\u202e\\nb.py"]


def test_a_mode_may_not_change(pulls: Pulls) -> None:
    head = head_of(
        pulls,
        {"model/layers/moe/router.py": ("100755", pulls.repository.files["model/layers/moe/router.py"][1])},
    )
    assert head.state == "refused" and "changes its mode" in head.problem


def test_a_hundred_thousand_files_are_refused(pulls: Pulls) -> None:
    one = ("100644", blob(pulls))
    head = head_of(pulls, {f"src/d{n % 100}/f{n}.py": one for n in range(100_000)})
    assert head.state == "refused" and "100000 files outside of model/" in head.problem
    inside = head_of(pulls, {f"model/d{n % 100}/f{n}.py": one for n in range(100_000)}, number=2)
    assert inside.state == "refused" and "at most 5000" in inside.problem


@pytest.mark.long
def test_a_gigabyte_is_never_fetched(pulls: Pulls) -> None:
    big = pulls.repository.folder / "big"
    with big.open("wb") as stream:
        stream.truncate(1024 * MIB)
    name = pulls.repository.git(
        "-c", "core.bigFileThreshold=1m", "hash-object", "-w", "--no-filters", str(big)
    )
    big.unlink()
    inside = head_of(pulls, {"model/big.py": ("100644", name)})
    assert inside.state == "refused" and "model/big.py is larger than 1048576 bytes" in inside.problem
    beside = head_of(pulls, {"data.bin": ("100644", name)}, number=2)
    assert (beside.state, beside.unmeasured_paths) == ("submitted", ["data.bin"])
    assert folder_bytes(pulls_mirror_of(pulls.binding)) < MIB


def test_a_head_over_the_limits_does_not_harm_the_copy_of_the_branch(pulls: Pulls) -> None:
    many = {f"docs/{n}.md": ("100644", blob(pulls, os.urandom(MIB - 1000))) for n in range(8)}
    before = dict(pulls.repository.files)
    pulls.repository.files |= many
    sha = pulls.commit()
    pulls.repository.files = before
    with pytest.raises(HeadRefused, match="more than 2 MiB"):
        fetch_head(pulls.binding, number=1, sha=sha, limits=Limits(repository_bytes=2 * MIB))
    assert not pulls_mirror_of(pulls.binding).exists() and mirror_of(pulls.binding).exists()


@pytest.mark.parametrize("sha", ["", "main", "--upload-pack=x", "refs/heads/*", "HEAD", "0" * 39])
def test_a_head_with_a_name_that_no_commit_has_is_not_asked_for(pulls: Pulls, sha: str) -> None:
    with pytest.raises(HeadRefused, match="no commit has"):
        fetch_head(pulls.binding, number=1, sha=sha)


def test_attributes_of_a_pull_request_have_no_say_in_its_diff(pulls: Pulls, tmp_path: Path) -> None:
    text = f"*.py -diff binary diff=evil filter=evil\n[attr]evil textconv='touch {tmp_path}/ran'\n"
    head = head_of(pulls, {}, **{".gitattributes": text, "model/layers/.gitattributes.md": text})
    diff = blob_store().get(head.diff_blob).decode()
    assert "-step_3 = 3\n+step_3 = 33\n" in diff and not (tmp_path / "ran").exists()
    assert head.unmeasured_paths == [".gitattributes"]


def test_branches_with_shell_characters_are_only_names(pulls: Pulls, tmp_path: Path) -> None:
    sha = pulls.commit()

    branch = f"$(touch$IFS{tmp_path}/ran)"
    assert see(pulls.facts(sha, branch=branch), received_at=timezone.now()) is None
    pull = pulls.opened(sha)
    pulls.pushed(pull, sha, branch=branch)
    assert not (tmp_path / "ran").exists() and Submission.objects.get().state == "withdrawn"


def test_a_branch_with_the_bound_ones_name_and_more_is_another(pulls: Pulls) -> None:
    bound = "b" * 200
    sha = pulls.commit()
    pull = pulls.opened(sha)
    type(pulls.binding).objects.update(branch=bound)
    pull = pulls.pushed(pull, sha, branch=bound + "x")
    assert "not to a branch" in pull.problem and Submission.objects.get().state == "withdrawn"


def test_each_head_is_sealed_as_it_was_seen_though_the_pull_request_moves_on(pulls: Pulls) -> None:
    first = pulls.commit()
    pull = pulls.see(pulls.facts(first))
    second = pulls.commit(
        files={EXPERTS_PATH: experts(step_5="step_5 = 55")}
    )  # its reference is this one now
    pulls.advance(pull)
    assert "+step_3 = 33" in blob_store().get(pulls.head(first).diff_blob).decode()
    pulls.pushed(pull, second)
    assert "+step_5 = 55" in blob_store().get(pulls.head(second).diff_blob).decode()
    assert Submission.objects.get(state="queued").head == pulls.head(second)


def test_a_head_that_is_gone_is_replaced_by_the_newest(pulls: Pulls) -> None:
    gone = "1" * 40
    pull = pulls.opened(gone)
    assert pulls.head(gone).state == "seen" and "tried again" in pull.problem
    here = pulls.commit()
    pull = pulls.pushed(pull, here)
    assert (pulls.head(gone).state, pulls.head(here).state) == ("replaced", "submitted")


def test_where_the_server_hands_out_no_commits_the_pull_requests_own_reference_is_fetched(
    pulls: Pulls,
) -> None:
    pulls.repository.git("config", "uploadpack.allowAnySHA1InWant", "false")
    sha = pulls.commit()
    pulls.repository.git("update-ref", "-d", "refs/heads/topic-1")
    pulls.opened(sha)
    assert pulls.head(sha).state == "submitted"


def test_a_history_of_its_own_is_refused(pulls: Pulls) -> None:
    pulls.repository.put(EXPERTS_PATH, experts(step_3="step_3 = 33"))
    sha = pulls.repository.commit(branch="alone", parent=None)
    pulls.opened(sha)
    assert pulls.head(sha).state == "refused" and "no commit in common" in pulls.head(sha).problem


def test_the_diff_is_from_the_merge_base_and_applies_to_the_tip(pulls: Pulls) -> None:
    sha = pulls.commit()
    pulls.bound.push("gate = 'pushed'\n")
    pulls.bound.follow()
    pulls.opened(sha)
    head = pulls.head(sha)
    assert head.submission is not None and head.submission.base_tree == pulls.bound.lineage.tip
    assert head.merge_base == pulls.bound.first
    assert "router" not in blob_store().get(head.diff_blob).decode()


def test_signed_off_is_each_commit_by_its_author(pulls: Pulls) -> None:
    signed = "faster\n\nSigned-off-by: Pam <pam@example.org>"
    for number, (message, wanted) in enumerate(
        [(signed, True), ("faster", False), ("faster\n\nSigned-off-by: Eve <eve@example.org>", False)],
        start=1,
    ):
        sha = pulls.commit(number, message=message)
        pulls.opened(sha, number, is_draft=True)
        assert pulls.head(sha).is_signed_off is wanted


@pytest.mark.parametrize(
    ("path", "fine"),
    [
        ("tests/a.py", True),
        ("docs/a/b.rst", True),
        ("examples/x.sh", True),
        ("README.md", True),
        ("src/NOTES.md", True),
        ("Tests/a.py", False),
        ("tests", False),
        ("src/tests/a.py", False),
        ("docs/../setup.py", False),
        ("docs//a", False),
        ("a.MD", False),
        ("conftest.py", False),
        (".github/workflows/x.yml", False),
    ],
)
def test_which_files_beside_the_folder_need_no_measurement(path: str, fine: bool) -> None:
    assert is_fine(path) is fine


def test_a_bots_pull_request_is_none_of_ours(pulls: Pulls) -> None:

    bot = AccountFacts(77, "dependabot[bot]", is_bot=True)
    assert see(pulls.facts(pulls.commit(), author=bot), received_at=timezone.now()) is None
    assert not PullRequest.objects.exists()
