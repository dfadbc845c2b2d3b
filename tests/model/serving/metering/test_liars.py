"""Lies of everything that a patch may touch, against the meter: the bill is never below what protected code handed out.

Each liar is an engine room, executor or sampler as a merged patch could have it. What the test counts is what the
listener received, and what the request sent; nothing of it comes from the code that lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.patch.patches import parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, load_policy
from gainshare.gateway.metering import Meter
from gainshare.gateway.services import price_bill
from gainshare.ledger.pricing import PriceTable
from model.sampling import Chosen, Sampler, SamplingSettings
from model.serving.api.answers import Answer as Writer
from model.serving.engine.blocks import BlockPool
from model.serving.engine.scheduler import Plan, Scheduler, Work
from model.serving.engine.sequence import SequenceState
from model.serving.metering.generation import EngineLimits, Event, Finish
from model.serving.metering.job import Job
from model.serving.node.backend import Piece
from model.serving.node.served import ServedModel, tiny
from tests.model.serving.engine.core_bench import GREEDY, Bench, HashExecutor, speculating

PROMPT = list(range(40, 80))
N_TOKENS = 12


PRICE = PriceTable(  # each kind of token has its own order of magnitude
    cached_input=1_000_000, fresh_input=1_000_000_000, output=1_000_000_000_000
)


@pytest.fixture(scope="module")
def served() -> ServedModel:
    return tiny()


class ShortInt(int):
    """A count that is smaller than whatever it is compared with, and nothing in arithmetic."""

    def __lt__(self, other: object) -> bool:
        return True

    def __gt__(self, other: object) -> bool:
        return True

    def __rsub__(self, other: int) -> int:
        return 0

    def __sub__(self, other: int) -> int:
        return 0


def charged(job: Job, events: Sequence[Event]) -> int:
    """The bill in micro-credits, through the node's chunks and the gateway's own meter."""
    meter = Meter(
        prompt_tokens=len(job.generation.prompt),
        max_tokens=job.generation.max_tokens * job.generation.n,
        n_answers=job.generation.n,
    )
    writer = Writer("tiny", is_chat=False)
    for event in events:
        piece = Piece(event.text, event.usage, event.answer, event.finish.value if event.finish else None)
        for chunk in writer.chunks(piece, with_usage=True):
            meter.see(chunk)
    return price_bill(meter.metered, PRICE).total


def common(one: Sequence[int], other: Sequence[int]) -> int:
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return same


class Watch:
    """Runs requests one after the other, and knows what each may cost at least."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.paid: dict[str, list[list[int]]] = {}
        self.n_checked = 0

    def ask(self, prompt: Sequence[int], **fields: Any) -> tuple[Job, list[Event]]:
        job = self.bench.ask(prompt, fields.pop("n_tokens", N_TOKENS), **fields)
        for _ in range(2_000):
            if not self.bench.core.has_work or any(event.is_last for event in self.bench.events[job]):
                break
            self.bench.core.step()
        if not any(event.is_last for event in self.bench.events[job]):
            self.bench.core.end(job, Finish.CANCELLED)
        events = self.bench.events[job]
        self.check(job, events)
        self.n_checked += 1
        return job, events

    def check(self, job: Job, events: Sequence[Event]) -> None:
        salt, prompt = job.generation.salt, list(job.generation.prompt)
        cached = max((common(prompt, earlier) for earlier in self.paid.get(salt, [])), default=0)
        handed_out = [event.chosen.token for event in events if event.chosen is not None]
        least = (
            cached * PRICE.cached_input
            + (len(prompt) - cached) * PRICE.fresh_input
            + len(handed_out) * PRICE.output
        ) // 1_000_000
        assert charged(job, events) >= least
        text = "".join(event.text for event in events)
        assert len(text) <= len(handed_out), "text came that no counted token stands for"
        assert all(type(event.usage.completion_tokens) is int for event in events)
        counts = [event.usage.completion_tokens for event in events]
        assert counts == sorted(counts) and counts[-1] == len(handed_out)
        if handed_out:
            self.paid.setdefault(salt, []).append([*prompt, *handed_out])


def three_requests(bench: Bench) -> Watch:
    """A prompt, the same again, and one of another tenant: each is checked against what it must cost."""
    watch = Watch(bench)
    watch.ask(PROMPT)
    watch.ask(PROMPT)
    watch.ask(PROMPT, salt="another tenant")
    return watch


# -- the scheduler ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [10**9, ShortInt(39), 39.5, float("nan"), float("inf"), "39", None, -1, True, np.int64(39)],
    ids=repr,
)
def test_a_scheduler_that_claims_a_cached_prompt(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    honest = Scheduler._hold_known

    def hold(self: Scheduler, sequence: SequenceState) -> bool:
        is_held = honest(self, sequence)
        sequence.n_cached = said
        return is_held

    monkeypatch.setattr(Scheduler, "_hold_known", hold)
    bench = Bench(served)
    monkeypatch.setattr(bench.core.scheduler.turns, "charge", lambda *_: None)  # it adds up what was cached
    monkeypatch.setattr(Scheduler, "computed", without_fairness)
    assert three_requests(bench).n_checked == 3


def without_fairness(self: Scheduler, sequence: SequenceState, n_tokens: int) -> None:
    """`computed` without the count of served tokens, which cannot take what the liar calls a count."""
    end = sequence.n_computed + n_tokens
    for index in range(sequence.n_computed // self.pool.block_tokens, end // self.pool.block_tokens):
        self.pool.register(sequence.blocks[index], sequence.key(index, self.pool.block_tokens))
    sequence.n_computed = end


Lie = Callable[[Scheduler, Plan], None]


def forgets_starts(_: Scheduler, plan: Plan) -> None:
    plan.started.clear()


def starts_twice(scheduler: Scheduler, plan: Plan) -> None:
    plan.started += [*plan.started, *scheduler.running]


def always_preempts(scheduler: Scheduler, plan: Plan) -> None:
    plan.preempted += scheduler.running


def shortens_prompts(scheduler: Scheduler, plan: Plan) -> None:
    for sequence in scheduler.running:
        sequence.n_prompt = 1


def takes_back_tokens(scheduler: Scheduler, plan: Plan) -> None:
    """The sequence forgets what was generated, so the same token comes again."""
    for sequence in scheduler.running:
        if len(sequence.tokens) > len(PROMPT):
            sequence.tokens.pop()
            sequence.n_computed = min(sequence.n_computed, len(sequence.tokens) - 1)


def computes_nothing(_: Scheduler, plan: Plan) -> None:
    for work in plan.works:
        work.drafts = ()


def plans_the_same_twice(_: Scheduler, plan: Plan) -> None:
    plan.works += plan.works[-1:]


@pytest.mark.parametrize("lie", [forgets_starts, starts_twice, always_preempts])
def test_a_scheduler_cannot_say_that_a_request_waits(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, lie: Lie
) -> None:
    """Waiting lowers the bill of memory: it is counted by the steps that the core itself computes."""
    waited = []
    for is_honest in (True, False):
        if not is_honest:
            monkeypatch.setattr(Scheduler, "schedule", lying(lie))
        bench = Bench(served)
        bench.clock.now_ns += 5
        job = bench.ask(PROMPT, N_TOKENS)
        bench.clock.now_ns += 70
        for _ in range(40):
            if bench.core.has_work:
                bench.core.step()
        usage = bench.last(job).usage
        waited.append(usage.queued_ns)
        assert usage.queued_ns + usage.prefill_ns + usage.decode_ns == bench.clock.now_ns - 5
    assert waited == [70, 70]


def lying(lie: Lie) -> Callable[..., Plan]:
    """`Scheduler.schedule` with a lie in its plan."""
    honest = Scheduler.schedule

    def schedule(self: Scheduler, *arguments: Any) -> Plan:
        plan = honest(self, *arguments)
        lie(self, plan)
        return plan

    return schedule


@pytest.mark.parametrize(
    "lie",
    [forgets_starts, starts_twice, always_preempts, shortens_prompts, takes_back_tokens, computes_nothing],
)
def test_a_scheduler_that_lies_in_its_plans(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, lie: Lie
) -> None:
    monkeypatch.setattr(Scheduler, "schedule", lying(lie))
    bench = Bench(served)
    watch = three_requests(bench)
    assert sum(map(len, watch.paid.values())) == 3  # all of them were answered
    assert bench.core.device.busy_ns == sum(events[-1].usage.device_ns for events in bench.events.values())


def test_a_scheduler_that_ends_answers_early(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls every request late once it has three tokens: those are billed."""

    def overdue(self: Scheduler, *_: Any) -> list[SequenceState]:
        return [sequence for sequence in self.running if len(sequence.tokens) >= len(PROMPT) + 3]

    monkeypatch.setattr(Scheduler, "overdue", overdue)
    watch = Watch(Bench(served))
    _, events = watch.ask(PROMPT)
    assert (events[-1].finish, events[-1].usage.completion_tokens) == (Finish.DEADLINE, 3)


@pytest.mark.parametrize("said", [0, -7, ShortInt(5)])
def test_a_scheduler_that_claims_less_device_time(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    """Device time is shown, not billed; whatever the scheduler says, every nanosecond of it has a request."""
    monkeypatch.setattr(Work, "n_new", property(lambda self: said))
    bench = Bench(served)
    three_requests(bench)
    assert bench.core.device.busy_ns == sum(events[-1].usage.device_ns for events in bench.events.values())
    assert all(events[-1].usage.device_ns > 0 for events in bench.events.values())


@pytest.mark.parametrize("said", [0, -3, 10**9, ShortInt(1)])
def test_a_pool_that_claims_other_holders(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    """Cache over time is shown, not billed; it stays a count, and no request ends of it."""
    honest = BlockPool.holders
    bench = Bench(served)
    monkeypatch.setattr(BlockPool, "holders", lambda pool, block: said)
    monkeypatch.setattr(Scheduler, "_make_room", room_by(honest))
    three_requests(bench)
    for events in bench.events.values():
        assert type(events[-1].usage.kv_byte_ns) is int and events[-1].usage.kv_byte_ns >= 0


def room_by(holders: Callable[[BlockPool, int], int]) -> Callable[[Scheduler, SequenceState, Plan], bool]:
    """The scheduler's own search for a block, with the honest count of holders."""

    def make_room(self: Scheduler, sequence: SequenceState, plan: Plan) -> bool:
        index = sequence.n_computed // self.pool.block_tokens
        if index == len(sequence.blocks):
            self._append_blocks(sequence, 1)
        assert holders(self.pool, sequence.blocks[index]) == 1
        return True

    return make_room


# -- the sampler ------------------------------------------------------------------------------------


class StringToken(str):
    """A text that would pass for the key of any token."""


def many(sampler: Sampler, token: int) -> Any:
    return [Chosen(token)] * 50


def none(sampler: Sampler, token: int) -> Any:
    return []


class Endless(list[Chosen]):
    def __iter__(self) -> Iterator[Chosen]:
        while True:
            yield Chosen(1)


class TwoFaced:
    """Another token at each look: one for the count, one for the text."""

    def __init__(self) -> None:
        self._tokens = iter(range(65, 10_000))

    logprob = None
    top = ()

    @property
    def token(self) -> int:
        return next(self._tokens) % 256


ONE_TOKEN: dict[str, Callable[[int], Any]] = {
    "text": lambda token: Chosen("a" * 1000),  # type: ignore[arg-type]
    "no number": lambda token: Chosen(None),  # type: ignore[arg-type]
    "below zero": lambda token: Chosen(-1),
    "beyond the vocabulary": lambda token: Chosen(10**6),
    "a half": lambda token: Chosen(1.5),  # type: ignore[arg-type]
    "a subclass": lambda token: Chosen(ShortInt(token)),
    "a truth": lambda token: Chosen(True),
    "no token": lambda token: None,
    "two faces": lambda token: TwoFaced(),
}


@pytest.mark.parametrize("name", ONE_TOKEN)
def test_a_sampler_that_returns_what_is_no_token(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Such an answer ends; what was handed out before is billed, and other requests go on."""
    honest, made = Sampler.__call__, ONE_TOKEN[name]

    def choose(self: Sampler, logits_V: NDArray[np.float32]) -> Any:
        chosen = honest(self, logits_V)
        return made(chosen.token) if self.settings.temperature == 0 and self.n_drawn == 3 else chosen

    monkeypatch.setattr(Sampler, "__call__", choose)
    bench = Bench(served)
    watch = Watch(bench)
    other = bench.ask([9, 8, 7], N_TOKENS, settings=SamplingSettings(temperature=1, seed=1))
    _, events = watch.ask(PROMPT)
    bench.run()
    assert bench.last(other).finish is Finish.LENGTH
    if name == "two faces":
        assert events[-1].finish is Finish.LENGTH
    else:
        assert (events[-1].finish, events[-1].usage.completion_tokens) == (Finish.ERROR, 2)


@pytest.mark.parametrize(
    "lie", [none, many, lambda sampler, token: Endless()], ids=["none", "many", "endless"]
)
def test_a_sampler_that_returns_another_number_of_tokens(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, lie: Callable[[Sampler, int], Any]
) -> None:
    """Verified drafts bring several tokens in a step, at most one more than were drafted."""
    honest = Sampler.verify

    def verify(self: Sampler, logits_MV: NDArray[np.float32], drafts: Sequence[int]) -> Any:
        return lie(self, honest(self, logits_MV, drafts)[0].token)

    monkeypatch.setattr(Sampler, "verify", verify)
    watch = Watch(speculating(served))
    _, events = watch.ask(PROMPT)
    assert events[-1].finish is Finish.ERROR


def test_a_sampler_whose_alternatives_are_a_second_answer(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Sampler.__call__

    def choose(self: Sampler, logits_V: NDArray[np.float32]) -> Chosen:
        token = honest(self, logits_V).token
        return Chosen(token, -1.0, tuple((each % 256, -2.0) for each in range(5_000)))

    monkeypatch.setattr(Sampler, "__call__", choose)
    watch = Watch(Bench(served))
    _, events = watch.ask(PROMPT)
    assert all(event.chosen is None or len(event.chosen.top) <= 20 for event in events)


# -- the executor -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"bytes_per_block": 0},
        {"bytes_per_block": -5},
        {"bytes_per_block": ShortInt(5)},
        {"block_tokens": 1},
        {"block_tokens": 1000, "n_blocks": 2},
        {"n_blocks": 10**7, "block_tokens": 1},
    ],
    ids=repr,
)
def test_an_executor_that_claims_another_cache(served: ServedModel, fields: dict[str, Any]) -> None:
    assert three_requests(Bench(served, executor_fields=fields)).n_checked == 3


def test_an_executor_that_fails_at_the_end_of_an_answer(served: ServedModel) -> None:
    """An answer that broke off costs what was handed out of it."""
    bench = Bench(served, executor_fields={"fails_at": lambda tokens: len(tokens) == len(PROMPT) + 5})
    _, events = Watch(bench).ask(PROMPT)
    assert (events[-1].finish, events[-1].usage.completion_tokens) == (Finish.ERROR, 5)


@pytest.mark.parametrize("shape", [(0, 300), (5, 300), (1, 7), (1, 100_000)])
def test_an_executor_that_returns_other_logits(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(
        HashExecutor,
        "step",
        lambda self, parts: np.zeros(shape, np.float32) + np.arange(shape[1], dtype=np.float32),
    )
    bench = Bench(served)
    Watch(bench).ask(PROMPT)
    assert not bench.core.has_work


# -- several lies at once, and who may count --------------------------------------------------------


def test_the_record_of_paid_prompts_stays_bounded(served: ServedModel) -> None:
    """An executor that claims a cache without end cannot fill the node's memory with its record."""
    bench = Bench(served, EngineLimits(max_running=4, step_tokens=16), {"n_blocks": 10**9, "block_tokens": 1})
    assert bench.core._paid._max_blocks <= 2**18


COUNTING = [
    "model/serving/metering/engine.py",
    "model/serving/metering/core.py",
    "model/serving/metering/job.py",
    "model/serving/metering/usage.py",
    "model/serving/metering/prefixes.py",
    "model/serving/metering/tokens.py",
    "model/serving/node/service.py",
    "model/serving/node/app.py",
    "model/serving/node/served.py",
    "model/serving/api/answers.py",
    "model/serving/api/text.py",
    "model/serving/api/tokenizer.py",
    "model/serving/api/logprobs.py",
    "model/serving/upstream/run.py",
]


@pytest.mark.parametrize("path", COUNTING)
def test_whatever_counts_is_protected(path: str) -> None:
    text = f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1,1 +1,1 @@\n-x\n+y\n"
    with pytest.raises(PolicyViolation) as error:
        check_patch(load_policy(), parse_patch(text))
    assert error.value.code == "protected"


def test_a_speculating_engine_bills_every_token(served: ServedModel) -> None:
    assert three_requests(speculating(served)).n_checked == 3


def test_greedy_is_what_the_liars_look_at() -> None:
    assert GREEDY.temperature == 0
