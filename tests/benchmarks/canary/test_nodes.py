"""Real nodes of the tiny model in real sandboxes: honest trees pass, and each attack ends as it must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.canary.comparison import Comparison
from benchmarks.canary.lines import timed_calls
from benchmarks.canary.node import NodeFailed, NodeSetup, Patience
from benchmarks.canary.node_pair import CANDIDATE, PARTNER, SIDES
from benchmarks.canary.order import Plan, Shape
from benchmarks.canary.tokens import tokenizer_of
from benchmarks.canary.verdict import FROZEN_NS, counted_reason, different_reasons, repeated_reasons
from benchmarks.canary.work import Work
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.seeds import Seeds
from benchmarks.sandbox.accounting.placement import accounting
from benchmarks.sandbox.levels import GIB
from tests.benchmarks.canary import trees
from tests.benchmarks.canary.trees import Change, changed_tree
from tests.benchmarks.sandbox.sandbox_levels import level_or_skip

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(900)]

PLAN = Plan((Shape(120, 12),), (1, 7), pairs=2)


def clocked(
    tree: Path,
    candidate: Path,
    folder: Path,
    *,
    rounds: int = 0,
    patience: Patience | None = None,
    plan: Plan = PLAN,
) -> Comparison:
    """Both trees through so many rounds after the first, which clocks nothing."""
    work = Work(plan, Seeds.fresh()[1], tokenizer_of(None, "tiny"), rounds=rounds)
    return compared("served", work, tree, candidate, folder, patience)


def compared(
    against: str, work: Work, tree: Path, candidate: Path, folder: Path, patience: Patience | None = None
) -> Comparison:
    setup = NodeSetup(
        "tiny",
        None,
        level_or_skip("best"),
        "cpu",
        3 * GIB,
        choose_cores(),
        patience=patience or Patience(),
    )
    found = Comparison(
        against,
        {CANDIDATE: candidate, PARTNER: tree},
        folder / "nodes" / against,
        (12, 13),
        setup,
        work,
        tokenizer_of(None, "tiny"),
        on_progress=lambda text: None,
    )
    found.run()
    return found


def differences(found: Comparison) -> list[str]:
    return list(
        different_reasons({"against": "served", "rounds": found.rounds}, {"quality_margin_ppm": None})
    )


def attacked(tree: Path, folder: Path, changes: list[Change], **more: object) -> Comparison:
    return clocked(tree, changed_tree(tree, folder / "changed", changes), folder, **more)  # type: ignore[arg-type]


@pytest.mark.measures
def test_an_equal_tree_gives_equal_answers_and_leaks_nothing(tree: Path, folder: Path) -> None:
    found = clocked(tree, tree, folder, rounds=1)
    assert found.event is None and differences(found) == [] and found.leaks.planted == 4
    calls = list(timed_calls({"rounds": found.rounds}))
    assert {(call["pair"], call["case"], call["batch"]) for call in calls} == {
        (pair, case, batch)
        for pair in (0, 1)
        for case, batch in (("prefill", 1), ("decode", 1), ("decode", 7))
    }
    for call in calls:
        assert (call["prompt_tokens"] is not None) == (call["case"] == "prefill")
        assert call["prompt_tokens"] is None or 100 < call["prompt_tokens"] <= 120
    last = found.rounds[-1]
    for side in SIDES:
        assert last["load_ns"][side] > 100_000_000 and last["peak_memory_bytes"][side] > 50 << 20
        assert last["cpu_while_frozen_ns"][side] <= FROZEN_NS
    assert counted_reason({"rounds": found.rounds}) is None
    assert not list((folder / "nodes").rglob("http.sock")), "what a node ran in is gone"


def test_a_tree_that_answers_differently_at_seven_at_once_only_is_found(tree: Path, folder: Path) -> None:
    found = attacked(tree, folder, trees.DIFFERENT_AT_SEVEN)
    assert found.event is None
    wrong = [
        call for call in found.rounds[0]["calls"] if call["answers"][CANDIDATE] != call["answers"][PARTNER]
    ]
    assert {call["batch"] for call in wrong} == {7}
    assert "of 7 answers at once (mixed, round 0)" in differences(found)[0]


def test_a_tree_that_writes_prompts_into_its_scratch_folder_is_caught(tree: Path, folder: Path) -> None:
    found = attacked(tree, folder, trees.WRITES_TO_SCRATCH)
    assert found.event is not None and found.event["kind"] == "leak" and found.event["stage"] == "files"
    assert differences(found) == [], "its answers are right"


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "rounds", "stage"),
    [
        (trees.WRITES_IDS, 0, "files"),
        (trees.PRINTS, 0, "log"),
        (trees.REMEMBERS, 0, "planted"),
        (trees.TELLS_IN_THE_NEXT_PROCESS, 1, "first"),
    ],
    ids=["ids in its state", "prints", "remembers", "tells in the next process"],
)
def test_a_tree_that_keeps_prompts_is_caught(
    tree: Path, folder: Path, changes: list[Change], rounds: int, stage: str
) -> None:
    found = attacked(tree, folder, changes, rounds=rounds)
    assert found.event is not None and found.event["kind"] == "leak", found.event
    assert found.event["stage"] == stage and len(found.rounds) == rounds + 1, found.event


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (trees.HANGS, "timeout", "did not end in time"),
        (trees.DIES, "crash", "status 0"),
        (trees.ENDLESS, "too_large", "bytes"),
        (trees.DOES_NOT_START, "crash", "status 7"),
        (trees.FLOODS, "too_large", "printed more than"),
    ],
    ids=["hangs", "dies", "endless", "does not start", "floods"],
)
def test_a_tree_that_fails_is_refused_and_says_how(
    tree: Path, folder: Path, changes: list[Change], kind: str, words: str
) -> None:
    found = attacked(tree, folder, changes, patience=Patience(call_s=20))
    assert found.event is not None and found.event["kind"] == kind, found.event
    assert words in found.event["detail"]


@pytest.mark.long
def test_a_failure_of_the_served_tree_says_nothing_of_the_candidate(tree: Path, folder: Path) -> None:
    broken = changed_tree(tree, folder / "changed", trees.DIES)
    with pytest.raises(NodeFailed) as caught:
        clocked(broken, tree, folder)
    assert caught.value.side == PARTNER


@pytest.mark.long
def test_a_tree_that_lies_in_its_counters_is_found(tree: Path, folder: Path) -> None:
    found = attacked(tree, folder, trees.LIES)
    assert found.event is None and differences(found) == []
    assert "its counters say" in (counted_reason({"rounds": found.rounds}) or "")


@pytest.mark.long
def test_a_tree_that_would_work_while_frozen_cannot(tree: Path, folder: Path) -> None:
    """In a cgroup nothing of it runs; where processes are stopped one by one, what runs all the same is counted."""
    found = attacked(tree, folder, trees.BUSY_WHEN_IDLE, rounds=1)
    assert found.event is None
    if accounting() != "polled":
        assert found.rounds[-1]["cpu_while_frozen_ns"][CANDIDATE] <= FROZEN_NS


@pytest.mark.long
def test_held_out_loss_of_a_tree_that_answers_otherwise_is_found(tree: Path, folder: Path) -> None:
    """Logits times -1 are the worst guesses there are; the served tree's are those of a random model, 5.5 nats."""
    found = attacked(tree, folder, trees.GUESSES_BADLY, plan=replace(PLAN, quality_margin_ppm=10_000))
    assert found.event is None
    scored = found.rounds[0]
    tokens, loss = scored["held_out_tokens"], scored["loss_micro_nats"]
    assert tokens == 48 and 4_000_000 < loss[PARTNER] // tokens < 9_000_000
    assert loss[CANDIDATE] > loss[PARTNER] * 105 // 100


@pytest.mark.long
def test_beside_the_best_tree_the_same_is_asked_once_more(tree: Path, folder: Path) -> None:
    work = Work(PLAN, Seeds.fresh()[1], tokenizer_of(None, "tiny"), rounds=0)
    served, best = (compared(against, work, tree, tree, folder) for against in ("served", "best"))
    assert served.event is best.event is None
    first, again = served.rounds[0]["calls"], best.rounds[0]["calls"]
    assert [(call["case"], call["batch"]) for call in first] == [
        (call["case"], call["batch"]) for call in again
    ]
    comparisons = {"served": {"rounds": served.rounds}, "best": {"rounds": best.rounds}}
    assert list(repeated_reasons(comparisons)) == []
    again[2]["answers"][CANDIDATE] = ["0" * 64]
    assert len(list(repeated_reasons(comparisons))) == 1
