"""kill -9 at named fault points while patches are judged: one verdict a run, at most one award, the log kept.

Every kill is real (SIGKILL by the process itself at its fault point, or from outside), on a whole stack of its own
with short leases.
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gainshare.cli.client import SiteError
from gainshare.cli.contributor.submission import is_resting
from gainshare.cli.demo.people import Person
from tests.acceptance.bounty_world import BountyWorld, open_bounty

pytestmark = [pytest.mark.stack, pytest.mark.sandbox, pytest.mark.timeout(600)]

KILLS = 50
RANDOM_KILLS = 20


@pytest.fixture
def world(stack: Any) -> Iterator[BountyWorld]:
    yield open_bounty(stack.url, stack.key)


# One gain from its gate to its vesting, and where processes are killed in each stage; a run has three attempts.
STAGES: dict[str, tuple[str, ...]] = {
    "gate": ("runner.leased", "runner.before_evidence", "control.gate_passed", "control.reserved"),
    "confirmation": ("runner.measuring", "runner.after_evidence", "control.confirmed", "control.guard_ordered"),
    "guard": ("runner.measuring", "control.guards_held", "control.award_booked"),
    "merge": ("control.merged", "control.vested"),
}  # fmt: skip
KILLS_PER_GAIN = sum(map(len, STAGES.values()))


@pytest.mark.long
@pytest.mark.measures
def test_a_gain_passes_its_gate_once_whatever_is_killed_on_its_way(stack: Any, world: BountyWorld) -> None:
    """Four kills up to the confirmation; the tests below kill four times more, the long ones in every stage.

    What control does behind the gate is killed in `tests/bounty/services/test_killed_control.py`.
    """
    author = world.newcomer()
    submission, seen = gate_gain_under_kills(stack, world, author)
    (confirmation,) = (run["id"] for run in seen["runs"] if run["kind"] == "confirmation")
    insist(lambda: world.maintainer.post(f"runs/{confirmation}/cancel/", {"reason": "the test ends here"}))
    seen = follow(author, submission, until=is_resting)
    assert seen["verdict"]["kind"] == "infrastructure_error", seen["verdict"]
    assert_judged_once(stack, submission, kinds=("gate",))
    awards = "SELECT count(*) FROM bounty_award WHERE submission_id = %s"
    assert count(stack, awards, submission) == 1  # set aside once, and given back when the run was cancelled
    assert count(stack, f"{awards} AND state = 'void'", submission) == 1
    assert_ledger_is_in_order(stack, world)


def judge_gain_under_kills(stack: Any, world: BountyWorld) -> int:
    """Each fault of `STAGES` fires while one gain is judged, guarded, merged and paid; then nothing is there twice.

    Returns how many processes were killed.
    """
    author = world.newcomer()
    submission, _ = gate_gain_under_kills(stack, world, author)
    arm(stack, "confirmation")
    seen = follow(
        world.maintainer, submission, until=lambda seen: runs_of(seen, "guard") > 0 or is_resting(seen)
    )
    assert runs_of(seen, "guard"), seen["verdict"]
    arm(stack, "guard")
    seen = follow(author, submission, until=is_resting, within_s=600)
    assert seen["state"] == "confirmed", seen["verdict"]
    n_killed = len(STAGES["gate"]) + fired(stack, "confirmation") + fired(stack, "guard")

    path = f"submissions/{submission}/"
    insist(lambda: world.reviewer.post(f"{path}review/", {"decision": "accept", "comment": "Reads well."}))
    arm(stack, "merge")
    insist(lambda: world.reviewer.post(f"{path}merge/"))
    seen = follow(author, submission, until=lambda seen: seen["state"] == "vested")
    n_killed += fired(stack, "merge")

    assert author.get(f"lineages/{world.lineage}/")["tip"] == seen["candidate_tree"]
    assert_judged_once(stack, submission, kinds=("gate", "confirmation", "guard"))
    assert count(stack, "SELECT count(*) FROM bounty_award WHERE submission_id = %s", submission) == 1
    balance = author.get("credits/")["balance"]
    assert balance["available"] == seen["award"]["amount_microcredits"] > 0
    assert_ledger_is_in_order(stack, world)
    return n_killed


def gate_gain_under_kills(stack: Any, world: BountyWorld, author: Person) -> tuple[str, dict[str, Any]]:
    """A gain through its gate, killed at each of the gate's faults, until its confirmation is ordered."""
    arm(stack, "gate")
    submission = world.submit(author, "honest_speedup")
    seen = follow(
        world.maintainer, submission, until=lambda seen: runs_of(seen, "confirmation") > 0 or is_resting(seen)
    )
    assert runs_of(seen, "confirmation"), seen["verdict"]
    fired(stack, "gate")
    return submission, seen


def runs_of(seen: dict[str, Any], kind: str) -> int:
    return sum(run["kind"] == kind for run in seen["runs"])


def arm(stack: Any, stage: str) -> None:
    for fault in STAGES[stage]:
        stack.arm(fault)


def fired(stack: Any, stage: str) -> int:
    """Number of faults of a stage that killed a process: all of them."""
    for fault in STAGES[stage]:
        assert stack.has_fired(fault), f"{fault} was never reached in stage {stage}"
    return len(STAGES[stage])


def test_a_killed_pool_child_and_a_killed_control_worker_lose_no_run(stack: Any, world: BountyWorld) -> None:
    author = world.newcomer()
    stack.arm("runner.preparing")
    submission = world.submit(author, "faster_but_wrong")
    killed = stack.kill("control")
    stack.wait_ready("control", after=killed)
    seen = follow(author, submission, until=is_resting)
    assert seen["verdict"]["kind"] == "wrong_output", seen["verdict"]
    assert stack.has_fired("runner.preparing")
    assert_judged_once(stack, submission, kinds=("gate",))
    assert_ledger_is_in_order(stack, world)


@pytest.mark.long
@pytest.mark.measures
@pytest.mark.parametrize("service", ["runner", pytest.param("valkey", marks=pytest.mark.long), "postgres"])
def test_a_service_killed_with_work_queued_and_running_ends_in_one_verdict_each(
    stack: Any, world: BountyWorld, service: str
) -> None:
    first, second = world.newcomer(), world.newcomer()
    running = world.submit(first, "faster_but_wrong")
    queued = world.submit(second, "slower")
    follow(world.maintainer, running, until=lambda seen: seen["state"] != "queued")
    killed = stack.kill(service)
    stack.wait_ready(service, after=killed)
    verdict = follow(first, running, until=is_resting)["verdict"]
    assert verdict["kind"] == "wrong_output", verdict
    verdict = follow(second, queued, until=is_resting)["verdict"]
    assert verdict["kind"] in {"regression", "no_gain"}, verdict
    for submission in (running, queued):
        assert_judged_once(stack, submission, kinds=("gate",))
    assert_ledger_is_in_order(stack, world)


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_fifty_kills_over_all_stages_leave_one_verdict_a_run_and_one_award_a_gain(stack: Any) -> None:
    n_gains = -(-KILLS // KILLS_PER_GAIN)
    kills = [judge_gain_under_kills(stack, open_bounty(stack.url, stack.key)) for _ in range(n_gains)]
    assert sum(kills) >= KILLS


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_random_kills_leave_one_verdict_for_each_patch(stack: Any) -> None:
    rng = random.Random(KILLS)
    faults = ("runner.leased", "runner.preparing", "runner.before_evidence", "runner.after_evidence")
    services = ("runner", "valkey", "postgres", "web", "control", "beat")
    for _ in range(RANDOM_KILLS):
        world = open_bounty(stack.url, stack.key)
        author, victim = world.newcomer(), rng.choice((*faults, *services))
        if victim in faults:
            stack.arm(victim)
        submission = world.submit(author, "faster_but_wrong")
        if victim in services:
            time.sleep(rng.uniform(0, 3))  # anywhere in the few seconds that judging takes
            stack.wait_ready(victim, after=stack.kill(victim))
        seen = follow(author, submission, until=is_resting)
        assert seen["verdict"]["kind"] == "wrong_output", (victim, seen["verdict"])
        assert victim in services or stack.has_fired(victim)
        assert_judged_once(stack, submission, kinds=("gate",))
        assert_ledger_is_in_order(stack, world)


def follow(
    person: Person, submission: str, *, until: Callable[[dict[str, Any]], bool], within_s: float = 300
) -> dict[str, Any]:
    """Poll a submission, through restarts of the site, until it is as asked."""
    deadline = time.monotonic() + within_s
    seen: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            seen = person.get(f"submissions/{submission}/")
        except SiteError:
            seen = {}
        if seen and until(seen):
            return seen
        time.sleep(0.3)
    pytest.fail(f"submission {submission} stayed {seen.get('state')}: {seen.get('runs')}")


def insist(request: Callable[[], Any], *, within_s: float = 60) -> Any:
    """Repeat a request whose process may be killed under it, as a client with retries does."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return request()
        except SiteError as error:
            if error.code not in {"unreachable", "500", "502", "503"} or time.monotonic() > deadline:
                raise
        time.sleep(0.3)


def assert_judged_once(stack: Any, submission: str, *, kinds: tuple[str, ...]) -> None:
    """One run of each kind, each with exactly one verdict and its evidence; and the log was kept."""
    runs, wanted = len(kinds), "'" + "', '".join(kinds) + "'"
    rows = (
        "FROM bounty_run r LEFT JOIN bounty_runverdict v ON v.run_id = r.id "
        f"WHERE r.submission_id = %s AND r.kind IN ({wanted})"
    )
    assert count(stack, f"SELECT count(*) {rows}", submission) == runs
    finished = f"{rows} AND v.run_id IS NOT NULL AND r.state = 'finished'"
    assert count(stack, f"SELECT count(*) {finished}", submission) == runs
    joined = (
        "FROM bounty_run r JOIN bounty_runverdict v ON v.run_id = r.id JOIN bounty_evidence e ON e.id = v.evidence_id "
        f"WHERE r.submission_id = %s AND r.kind IN ({wanted})"
    )
    assert count(stack, f"SELECT count(DISTINCT e.digest) {joined}", submission) == runs
    # At least: an attempt that was killed after its last pair has written one too. Read from the database, because the
    # log is sealed until the submission is decided.
    kept = "FROM bounty_logchunk c JOIN bounty_run r ON r.id = c.run_id WHERE r.submission_id = %s"
    assert count(stack, f"SELECT count(*) {kept} AND c.text LIKE '%%verdict: %%'", submission) >= runs


def assert_ledger_is_in_order(stack: Any, world: BountyWorld) -> None:
    broken = [row for row in world.maintainer.get("audit/")["invariants"] if not row["holds"]]
    assert broken == []
    assert count(stack, "SELECT count(*) FROM ledger_hold WHERE state = 'open' AND expires_at < now()") == 0


def count(stack: Any, query: str, *values: str) -> int:
    with stack.database() as connection:
        row = connection.execute(query, values).fetchone()
    assert row is not None
    return int(row[0])
