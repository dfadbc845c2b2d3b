"""The jobs that a patch is judged by: a base that was paid for is timed beside the tree before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.redteam.attempt import attempt
from benchmarks.redteam.judging import Bench
from benchmarks.redteam.patch_file import CHEATS, RedTeamPatch, read_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("jobs")
    for path in (folder, *folder.parents[:2]):  # the sandbox's user passes through
        path.chmod(0o755)
    yield Bench(folder)


@pytest.fixture(scope="module")
def patches() -> dict[str, RedTeamPatch]:
    return {patch.name: patch for patch in read_all([CHEATS])}


def test_only_the_confirmation_against_a_paid_base_names_the_shipped_tree_as_old(
    bench: Bench, patches: dict[str, RedTeamPatch]
) -> None:
    patch = patches["slow-base-from-a-date"]
    candidate = apply_patch(bench.base(patch), parse_patch(patch.diff), bench.store)
    gate, confirmation = (bench.job(kind, patch, candidate) for kind in ("gate", "confirmation"))
    assert (gate.old_tree, gate.old_paid_log_ppm) == ("", 0)
    assert (confirmation.old_tree, confirmation.old_paid_log_ppm) == (bench.shipped.hash, 100_000)
    assert len({confirmation.base_tree, confirmation.candidate_tree, confirmation.old_tree}) == 3


def test_the_tree_before_base_need_not_be_the_shipped_one(
    bench: Bench, patches: dict[str, RedTeamPatch]
) -> None:
    patch = patches["fast-beside-slower-partners"]
    candidate = apply_patch(bench.base(patch), parse_patch(patch.diff), bench.store)
    job = bench.job("confirmation", patch, candidate)
    assert job.old_tree == bench.old(patch).hash
    assert len({job.base_tree, job.candidate_tree, job.old_tree, bench.shipped.hash}) == 4


def test_an_unpaid_base_has_no_old_tree(bench: Bench, patches: dict[str, RedTeamPatch]) -> None:
    patch = patches["slow-base-by-seat"]
    candidate = apply_patch(bench.base(patch), parse_patch(patch.diff), bench.store)
    assert bench.job("confirmation", patch, candidate).old_tree == ""


@pytest.mark.sandbox
@pytest.mark.measures
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("cheat", ["slow-base-from-a-date", "fast-beside-slower-partners"])
def test_the_old_tree_gives_a_slow_base_away(
    bench: Bench, patches: dict[str, RedTeamPatch], cheat: str
) -> None:
    """Control pairs have base on both sides, equally slow, and show nothing; nor do slots show it the old tree's pairs."""
    done = attempt(bench, patches[cheat])
    assert done.outcome.verdict == "suspicious", done.outcome
    assert "lost what was paid" in done.outcome.reason
    assert done.is_as_expected, done.control


@pytest.mark.sandbox
@pytest.mark.measures
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_old_tree_next_to_the_patch_gives_a_base_away_that_knows_it(
    bench: Bench, patches: dict[str, RedTeamPatch]
) -> None:
    """Base is slow next to its own sign, so control pairs show nothing; next to the old tree it is fast."""
    done = attempt(bench, patches["slow-next-to-its-own-sign"])
    assert done.outcome.verdict == "suspicious", done.outcome
    assert "slower next to the patch than elsewhere" in done.outcome.reason
    assert done.is_as_expected, done.control
