"""Rollback by itself, from the gateway's windows: failures, slow tokens and prompts, again after a failure, and what is no reason."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.deployments.rollback import roll_back
from gainshare.capacity.deployments.serving import serving_tree
from gainshare.capacity.deployments.watch import watch_all, why_rolled_back
from gainshare.capacity.models import Deployment, DeploymentState, Node, NodeState, NodeWindow, ServedModel
from gainshare.capacity.routing.estimates import BASE_TOKENS
from gainshare.capacity.routing.rates import window_of
from tests.gainshare.capacity.deployments.deployments_world import (
    MODEL,
    NEW,
    NEWER,
    Machine,
    a_pool,
    again,
    ago,
    ask,
    canary,
    deploy,
    end,
    live,
    make_ready,
    ready_node,
)

pytestmark = pytest.mark.django_db

MINUTES_AGO = 9  # the switch
CLOCKED = {1: 40_000_000, 4: 100_000_000}  # by the canary: nanoseconds a token, by batch size
READ = {100: 50_000_000, 300: 90_000_000}  # and of a prompt, by its length
PROMPT = 100  # tokens; reading one takes 90 ms with a step of another answer, and 110 with the tree before
MS = 1_000_000


@pytest.fixture
def at() -> Machine:
    return a_pool()


@pytest.fixture
def pair(at: Machine) -> tuple[Node, Node]:
    """The node before, which answered for half an hour, and the one that has served for some minutes since."""
    old = ready_node(at.host)
    canary(at, ask())
    (new,) = live(NEW)
    make_ready(new)
    advance(MODEL)
    found = found_by_canary(CLOCKED, READ)
    Deployment.objects.update(serving_at=ago(minutes=MINUTES_AGO), starting_at=ago(minutes=10), result=found)
    before(old)
    return old, new


def found_by_canary(tokens: dict[int, int], prompts: dict[int, int]) -> dict[str, Any]:
    """A result in which the served tree takes 10 ms more for all."""
    batches = [{"batch": at, "candidate_ns": ns, "served_ns": ns + 10 * MS} for at, ns in tokens.items()]
    lengths = [
        {"prompt_tokens": at, "candidate_ns": ns, "served_ns": ns + 10 * MS} for at, ns in prompts.items()
    ]
    return {"batch_times": batches, "prefill_times": lengths}


def before(node: Node, **figures: int) -> None:
    """Windows of the tree before: its tokens and prompts take 1.1 times what the canary found."""
    usually = {"requests": 60, "tokens": 600, "token_ms": 55, "prompt_ms": 121}
    for minute in range(MINUTES_AGO + 1, 30):
        window(node, ago(minutes=minute), **{**usually, **figures})


def window(node: Node, at: datetime, *, requests: int = 0, failures: int = 0, tokens: int = 0, token_ms: int = 0, prompt_ms: int = 0, batch: float = 1.0, **more: Any) -> None:  # fmt: skip
    """One window of 30 s; `batch` answers at once take so long for each of `tokens`, and each request for its prompt."""
    NodeWindow.objects.update_or_create(
        node=str(node.pk),
        model=MODEL,
        window_at=window_of(at),
        defaults={
            "requests": requests,
            "failures": failures,
            "busy_ms": round(batch * 30_000),
            "decode_tokens": tokens,
            "decode_ms": tokens * token_ms,
            "prefill_tokens": requests * (PROMPT + BASE_TOKENS) if prompt_ms else 0,
            "prefill_ms": requests * prompt_ms,
            **more,
        },
    )


def minutes(node: Node, count: int = 7, **figures: Any) -> None:
    """Windows of the latest minutes."""
    for half in range(1, 2 * count + 1):
        window(node, ago(seconds=30 * half), **{"requests": 10, "tokens": 100, **figures})


def reason() -> str:
    return why_rolled_back(Deployment.objects.get(tree=NEW), timezone.now())


def test_a_tree_that_fails_what_was_answered_is_rolled_back_once_and_says_why(
    pair: tuple[Node, Node],
) -> None:
    window(pair[1], ago(minutes=8), requests=4, failures=6)
    assert watch_all(timezone.now()) == 1
    deployed = Deployment.objects.get(tree=NEW)
    back = Deployment.objects.get(is_rollback=True)
    assert (back.tree, back.state, back.requested_by) == ("", DeploymentState.STARTING, None)
    assert "6 of 10 requests failed, 0 of" in back.reason and deployed.watch_ended_at is not None
    assert watch_all(timezone.now()) == 0
    end(pair[0])
    advance(MODEL)
    make_ready(*live("", NodeState.STARTING))
    advance(MODEL)
    assert (again(deployed).state, again(deployed).why) == (DeploymentState.ROLLED_BACK, back.reason)
    assert serving_tree(MODEL) == ""


def test_failures_in_the_window_of_the_switch_count(pair: tuple[Node, Node]) -> None:
    window(pair[1], ago(minutes=MINUTES_AGO), failures=5)
    assert "5 of 5" in reason()


def fail_rollback(at: datetime) -> None:
    """The rollback under way is given up at this time, as where its nodes do not start."""
    under_way = Deployment.objects.filter(is_rollback=True, state=DeploymentState.STARTING)
    assert under_way.update(state=DeploymentState.FAILED, ended_at=at) == 1


def test_a_rollback_that_failed_is_begun_again_later_and_later(pair: tuple[Node, Node]) -> None:
    """Nothing is answered meanwhile: what was found once is enough."""
    window(pair[1], ago(minutes=8), failures=6)
    now = timezone.now()
    assert watch_all(now) == 1
    for minutes_later in (10, 30, 60, 60):
        assert watch_all(now) == 0, "one is under way"
        fail_rollback(now)
        assert watch_all(now) == watch_all(now + timedelta(minutes=minutes_later, seconds=-1)) == 0
        now += timedelta(minutes=minutes_later)
        assert watch_all(now) == 1
    tries = Deployment.objects.filter(is_rollback=True)
    assert tries.count() == 5 and {row.reason for row in tries} == {tries.latest("created_at").reason}
    assert "6 of 6 requests failed" in tries.latest("created_at").reason


def test_a_model_that_is_watched_no_more_is_not_rolled_back_again(pair: tuple[Node, Node]) -> None:
    window(pair[1], ago(minutes=8), failures=6)
    watch_all(timezone.now())
    fail_rollback(timezone.now())
    ServedModel.objects.update(rolls_back_on_failures=False, rolls_back_slower_percent=None)
    assert watch_all(timezone.now() + timedelta(hours=1)) == 0


def test_a_failed_rollback_of_an_earlier_deployment_delays_nothing(pair: tuple[Node, Node]) -> None:
    roll_back(model=MODEL, actor=None, reason="an earlier one")
    fail_rollback(ago(minutes=1))
    Deployment.objects.filter(is_rollback=True).update(created_at=ago(hours=1))
    window(pair[1], ago(minutes=8), failures=6)
    assert watch_all(timezone.now()) == 1
    fail_rollback(ago(minutes=11))
    assert watch_all(timezone.now()) == 1


def test_what_failed_before_as_well_and_what_a_lost_host_took_along_is_no_reason(
    pair: tuple[Node, Node],
) -> None:
    old, new = pair
    window(new, ago(minutes=8), requests=50, failures=6)
    assert reason()
    end(new, reason="its host was silent for 10 s")
    assert reason() == ""
    end(new, reason="it exited with 1")
    assert reason()
    for minute in range(MINUTES_AGO + 1, 30):
        window(old, ago(minutes=minute), requests=50, failures=10)
    assert reason() == ""


def test_old_failures_of_a_tree_that_has_served_for_long_are_forgotten(pair: tuple[Node, Node]) -> None:
    Deployment.objects.update(serving_at=ago(hours=2))
    for minute in range(121, 140):
        window(pair[0], ago(minutes=minute), requests=60)
    window(pair[1], ago(minutes=30), requests=4, failures=6)
    assert reason() == ""
    window(pair[1], ago(minutes=2), requests=4, failures=6)
    assert "6 of 10" in reason()


def test_tokens_that_stay_too_slow_for_five_minutes_are_a_reason(pair: tuple[Node, Node]) -> None:
    """The canary found 40 ms at one answer and 100 ms at four; the tree before took 55 where it found 50: usual is 1.1."""
    minutes(pair[1], token_ms=60)
    assert (
        "tokens of answers took 150 % of the time that the canary found, in 300 s; 110 % is usual" in reason()
    )
    minutes(pair[1], token_ms=52)  # 130 %, and the limit is 132 %
    assert reason() == ""
    minutes(pair[1], token_ms=54)
    assert reason()
    minutes(pair[1], token_ms=94, batch=3.0)  # 80 ms are expected there
    assert reason() == ""
    minutes(pair[1], token_ms=110, batch=3.0)
    assert reason()


def test_one_window_that_is_fast_excuses_no_slow_tree(pair: tuple[Node, Node]) -> None:
    """Four of five windows are enough: with every window, a tree that is fast for 30 s in each five minutes would stay."""
    minutes(pair[1], token_ms=80)
    window(pair[1], ago(minutes=3), requests=10, tokens=100, token_ms=40)
    assert reason()
    for minute in (1, 2):
        window(pair[1], ago(minutes=minute), requests=10, tokens=100, token_ms=40)
    assert reason() == ""


def test_a_tree_that_is_fast_in_every_third_window_is_found_within_hours(pair: tuple[Node, Node]) -> None:
    watch_all(timezone.now())  # what is usual is known by now
    Deployment.objects.update(serving_at=ago(hours=3))
    for half in range(1, 200):
        window(pair[1], ago(seconds=30 * half), tokens=100, token_ms=40 if half % 3 == 0 else 70)
    assert "in 7200 s; 110 % is usual" in reason()


def test_too_few_windows_are_no_reason(pair: tuple[Node, Node]) -> None:
    NodeWindow.objects.filter(node=str(pair[1].pk)).delete()
    minutes(pair[1], count=2, token_ms=80)
    assert reason() == ""
    minutes(pair[1], token_ms=80)
    Deployment.objects.update(serving_at=ago(minutes=4))
    assert reason() == ""  # not yet five minutes


def test_prompts_that_take_too_long_are_a_reason(pair: tuple[Node, Node]) -> None:
    """A tree that reads prompts fast in its canary alone: 90 ms are expected, and 132 % is the limit."""
    minutes(pair[1], token_ms=44, prompt_ms=117)
    assert reason() == ""
    minutes(pair[1], token_ms=44, prompt_ms=126)
    assert "prompts took 140 % of the time that the canary found, in 300 s; 110 % is usual" in reason()
    assert watch_all(timezone.now()) == 1


def test_prompts_of_a_canary_that_did_not_note_their_lengths_are_not_watched(pair: tuple[Node, Node]) -> None:
    Deployment.objects.update(result=found_by_canary(CLOCKED, {}))
    minutes(pair[1], token_ms=44, prompt_ms=900)
    assert reason() == ""
    minutes(pair[1], token_ms=90, prompt_ms=900)
    assert reason()


def test_a_service_that_is_faster_than_the_canary_gives_no_room(pair: tuple[Node, Node]) -> None:
    """Nodes with more threads than a canary has: the tree before took 40 % of the canary's time."""
    before(pair[0], token_ms=20)
    minutes(pair[1], token_ms=18)
    assert reason() == ""
    minutes(pair[1], token_ms=36)
    assert "took 90 % of the time that the canary found, in 300 s; 40 % is usual" in reason()


def test_what_is_usual_is_kept_when_the_windows_before_are_forgotten(pair: tuple[Node, Node]) -> None:
    assert watch_all(timezone.now()) == 0
    NodeWindow.objects.filter(node=str(pair[0].pk)).delete()
    minutes(pair[1], token_ms=50, prompt_ms=110)
    assert reason() == ""
    assert set(Deployment.objects.get(tree=NEW).result["usual"]) == {"decode", "prefill"}


def test_a_host_that_sends_times_of_nothing_harms_no_one(pair: tuple[Node, Node]) -> None:
    nothing = {"batch_times": [{"batch": 1, "candidate_ns": 0, "served_ns": 0}]}
    nothing["prefill_times"] = [{"prompt_tokens": 1, "candidate_ns": 0, "served_ns": 0}]
    Deployment.objects.update(result=nothing)
    minutes(pair[1], token_ms=44, prompt_ms=100)
    assert watch_all(timezone.now()) == 0


def test_what_is_usual_is_not_found_before_the_last_windows_are_written(pair: tuple[Node, Node]) -> None:
    Deployment.objects.update(serving_at=ago(seconds=10))
    watch_all(timezone.now())
    assert "usual" not in Deployment.objects.get(tree=NEW).result


@pytest.mark.parametrize("is_put_back", [False, True])
def test_a_chain_of_trees_that_are_fast_in_canaries_alone_ends_at_the_first(
    at: Machine, pair: tuple[Node, Node], is_put_back: bool
) -> None:
    """The first takes 130 % of its canary's time where 110 % is usual: that is allowed, and is not usual for the next."""
    minutes(pair[1], token_ms=52, prompt_ms=117)
    assert watch_all(timezone.now()) == 0
    end(pair[0])
    if is_put_back:
        deploy(at, "3d" * 32)
        roll_back(model=MODEL, actor=None, reason="it is put back")
        make_ready(*live(NEW, NodeState.STARTING))
        advance(MODEL)
    minutes(pair[1], count=20, token_ms=52, prompt_ms=117)
    found = found_by_canary({batch: ns - 10 * MS for batch, ns in CLOCKED.items()}, {})
    made = deploy(at, NEWER)
    Deployment.objects.filter(pk=made.pk).update(serving_at=ago(minutes=6), result=found)
    (newer,) = live(NEWER)
    minutes(newer, token_ms=39)  # as usual
    assert watch_all(timezone.now()) == 0
    # 147 % of its canary's time, and 113 % of what the tree before takes of its own.
    minutes(newer, token_ms=44)
    assert "147 % of the time that the canary found, in 300 s; 110 % is usual" in why_rolled_back(
        again(made), timezone.now()
    )


def test_a_model_chooses_its_limits(pair: tuple[Node, Node]) -> None:
    minutes(pair[1], token_ms=60)
    ServedModel.objects.update(rolls_back_slower_percent=50)
    assert reason() == ""
    ServedModel.objects.update(rolls_back_slower_percent=None)
    minutes(pair[1], token_ms=600)
    assert reason() == ""
    window(pair[1], ago(minutes=8), failures=60)
    assert reason()
    ServedModel.objects.update(rolls_back_on_failures=False)
    assert reason() == ""


def test_a_rollback_and_a_first_deployment_are_not_watched(pair: tuple[Node, Node]) -> None:
    window(pair[1], ago(minutes=8), failures=60)
    for flag in ("is_rollback", "is_first"):
        Deployment.objects.update(**{"is_rollback": False, "is_first": False, flag: True})
        assert watch_all(timezone.now()) == 0
    assert not Deployment.objects.filter(state=DeploymentState.STARTING).exists()


def test_windows_of_another_models_nodes_do_not_count(pair: tuple[Node, Node]) -> None:
    NodeWindow.objects.create(
        node=str(pair[1].pk), model="other", window_at=window_of(ago(minutes=8)), failures=60
    )
    assert reason() == ""
