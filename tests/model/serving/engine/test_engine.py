"""The engine: same answers alone and in company, fair, cancellable, bounded, and honest in its counters."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.sampling import SamplingSettings
from model.serving.api.text import TextStream
from model.serving.engine.min_tokens import MinTokens
from model.serving.executors.choice import blocks_within
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.engine import (
    Engine,
    EngineLimits,
    EngineStoppedError,
    Event,
    Finish,
    Generation,
    NeverFitsError,
    QueueFullError,
)
from model.serving.node.served import ServedModel, tiny

pytestmark = pytest.mark.slow

TIMEOUT_S = 240  # the first step of all may have to wait for a compiler


class Collected:
    """A listener that keeps events and can be waited for."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Event] = queue.Queue()
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.queue.put(event)

    def next(self) -> Event:
        self.events.append(self.queue.get(timeout=TIMEOUT_S))
        return self.events[-1]

    def end(self) -> Event:
        while self.next().finish is None:
            pass
        return self.events[-1]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)


@pytest.fixture(scope="module")
def served() -> ServedModel:
    return tiny()


def on_torch(served: ServedModel, limits: EngineLimits | None = None) -> Engine:
    """An engine over the transformer itself, whose `step` a test may change."""
    limits = limits or EngineLimits()
    transformer = served.transformer
    n_blocks = blocks_within(transformer.config, transformer.dtype.itemsize, limits)
    return Engine(served, limits, executor=TorchExecutor(transformer, n_blocks))


@pytest.fixture
def engine(served: ServedModel) -> Iterator[Engine]:
    engine = on_torch(served, EngineLimits(max_running=8, step_tokens=128))
    engine.start()
    yield engine
    engine.stop()
    assert not engine.is_alive


def asking(prompt: str, max_tokens: int = 20, seed: int = 1, **changes: object) -> Generation:
    generation = Generation(
        tuple(prompt.encode()), max_tokens, SamplingSettings(seed=seed), ignore_stop_tokens=True
    )
    return replace(generation, **changes)  # type: ignore[arg-type]


def run(engine: Engine, *generations: Generation) -> list[Collected]:
    listeners = [Collected() for _ in generations]
    for generation, listener in zip(generations, listeners, strict=True):
        engine.submit(generation, listener)
    for listener in listeners:
        listener.end()
    return listeners


def test_answers_are_the_same_alone_and_in_company(engine: Engine) -> None:
    """Prompts shorter and longer than a chunk, more requests than places."""
    asked = [
        asking("x" * length, max_tokens=15, seed=length) for length in (1, 5, 130, 300, 40, 2, 3, 4, 129, 128)
    ]
    together = run(engine, *asked)
    for generation, listener in zip(asked, together, strict=True):
        (alone,) = run(engine, generation)
        assert alone.text == listener.text
        assert listener.events[-1].usage.completion_tokens == 15


def test_greedy_generation_is_the_transformers_own_argmax(engine: Engine, served: ServedModel) -> None:
    prompt = list(b"gainshare")
    tokens = list(prompt)
    for _ in range(12):
        tokens.append(int(served.transformer(torch.tensor([tokens]))[0, -1].argmax()))
    stream = TextStream(served.tokenizer.token_bytes)
    expected = "".join(stream.push(token) for token in tokens[len(prompt) :]) + stream.finish()
    (listener,) = run(engine, asking("gainshare", 12, settings=SamplingSettings(temperature=0)))
    assert listener.text == expected != ""


def test_the_sum_of_device_shares_is_the_busy_time(engine: Engine) -> None:
    listeners = run(engine, *(asking("y" * n, max_tokens=n % 7 + 1) for n in range(1, 200, 11)))
    assert sum(listener.events[-1].usage.device_ns for listener in listeners) == engine.device.busy_ns > 0


def test_counters_are_plausible_while_running_and_final_at_the_end(engine: Engine) -> None:
    (listener,) = run(engine, asking("count", max_tokens=6))
    counts = [event.usage.completion_tokens for event in listener.events]
    assert counts == [1, 2, 3, 4, 5, 6]
    usage = listener.events[-1].usage
    assert usage.prompt_tokens == 5
    assert usage.prefill_ns > 0 and usage.decode_ns > 0 and usage.kv_byte_ns > 0
    assert usage.device_ns <= usage.prefill_ns + usage.decode_ns


def test_max_tokens_and_stop_strings_name_their_reasons(engine: Engine) -> None:
    (limited,) = run(engine, asking("z", max_tokens=30))
    assert limited.events[-1].finish is Finish.LENGTH
    stop = next(character for character in limited.text[3:] if character != "\ufffd")
    (stopped,) = run(engine, asking("z", max_tokens=30, stop=(stop,)))
    assert stopped.events[-1].finish is Finish.STOP
    assert stopped.text == limited.text[: limited.text.index(stop)]
    assert stopped.events[-1].usage.completion_tokens < 30


def test_the_models_own_stop_token_ends_the_answer() -> None:
    """Where greedy always takes the stop token, that first token ends the answer and is counted."""
    eager = tiny()
    eager.transformer.norm.weight = torch.nn.Parameter(
        torch.zeros(64), requires_grad=False
    )  # all logits are zero
    engine = on_torch(replace(eager, tokenizer=StopAtZero()))
    engine.start()
    asked = asking("q", settings=SamplingSettings(temperature=0), ignore_stop_tokens=False)
    (listener,) = run(engine, asked)
    assert (listener.events[-1].finish, listener.text) == (Finish.STOP, "")
    assert listener.events[-1].usage.completion_tokens == 1
    (ignoring,) = run(engine, replace(asked, ignore_stop_tokens=True, max_tokens=3))
    assert ignoring.events[-1].usage.completion_tokens == 3
    engine.stop()


class StopAtZero:
    stop_tokens = frozenset({0})

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


def test_further_stop_tokens_end_an_answer_before_their_text(engine: Engine) -> None:
    (free,) = run(engine, asking("abc"))
    tokens = [event.chosen.token for event in free.events if event.chosen is not None]
    at = next(i for i in range(3, 20) if tokens[i] not in tokens[:i])
    (listener,) = run(engine, asking("abc", stop_token_ids=frozenset({tokens[at]})))
    assert (listener.events[-1].finish, listener.events[-1].text) == (Finish.STOP, "")
    assert [event.chosen.token for event in listener.events if event.chosen] == tokens[: at + 1]
    assert listener.events[-1].usage.completion_tokens == at + 1


@pytest.mark.parametrize("settings", [SamplingSettings(seed=1), SamplingSettings(seed=1, top_k=200)])
def test_no_end_is_chosen_before_an_answers_least_length(engine: Engine, settings: SamplingSettings) -> None:
    """All ids but three end an answer: it is made of these until it may end, and soon ends then."""
    ends = frozenset(range(261)) - {ord("a"), ord("b"), ord("c")}
    asked = [
        asking("x", 60, settings=settings, stop_token_ids=ends, min_tokens=n, n=2, stop=("a", "b"))
        for n in (1, 7)
    ]
    listeners = [Collected() for _ in asked]
    for generation, listener in zip(asked, listeners, strict=True):
        engine.submit(generation, listener)
    for generation, listener in zip(asked, listeners, strict=True):
        while not listener.next().is_last:
            pass
        for answer in range(2):
            events = [event for event in listener.events if event.answer == answer]
            tokens = [event.chosen.token for event in events if event.chosen is not None]
            assert events[-1].finish is Finish.STOP and len(tokens) > generation.min_tokens
            assert not ends & set(tokens[: generation.min_tokens])
            assert len("".join(event.text for event in events)) >= generation.min_tokens


def test_the_models_own_stop_tokens_wait_for_it_too_unless_they_are_ignored(engine: Engine) -> None:
    (end,) = tiny().tokenizer.stop_tokens
    settings = SamplingSettings(temperature=0, logit_bias={end: 100.0})
    stopping, ignoring = (
        asking("x", 6, settings=settings, min_tokens=4, ignore_stop_tokens=ignores)
        for ignores in (False, True)
    )
    tokens = [
        [event.chosen.token for event in listener.events if event.chosen is not None]
        for listener in run(engine, stopping, ignoring)
    ]
    assert end not in tokens[0][:4] and tokens[0][4:] == [end]
    assert tokens[1] == [end] * 6


def test_a_least_length_rules_ends_out_until_it_is_reached() -> None:
    constraint = MinTokens(2, frozenset({5}), 8)
    twin = constraint.fork()
    assert not constraint.allows(5) and constraint.allows(4) and not constraint.mask()[5]
    assert constraint.mask().sum() == 7 and constraint.allowed_prefix([1, 5, 5]) == 1
    constraint.accept(1)
    assert constraint.allowed_prefix([1, 5, 5]) == 3 and constraint.allowed_prefix([5]) == 0
    constraint.accept(1)
    assert constraint.allows(5) and constraint.mask().all() and constraint.allowed_prefix([5]) == 1
    assert not twin.allows(5), "a fork goes on by itself"


def test_a_cancelled_generation_ends_before_the_next_step(engine: Engine) -> None:
    listener = Collected()
    job = engine.submit(asking("long", max_tokens=500), listener)
    listener.next()
    engine.cancel(job)
    last = listener.end()
    assert last.finish is Finish.CANCELLED
    assert last.usage.completion_tokens < 500
    engine.cancel(job)  # harmless
    assert run(engine, asking("next", max_tokens=2))[0].events[-1].finish is Finish.LENGTH
    assert engine.n_running == 0


def test_a_full_queue_refuses_and_recovers(served: ServedModel) -> None:
    engine = on_torch(served, EngineLimits(max_running=1, max_waiting=2))
    engine.start()
    first = Collected()
    job = engine.submit(asking("a", max_tokens=500), first)
    first.next()  # it runs; now the queue is empty
    waiting = [Collected(), Collected()]
    for listener in waiting:
        engine.submit(asking("b", max_tokens=2), listener)
    with pytest.raises(QueueFullError):
        engine.submit(asking("c"), Collected())
    engine.cancel(job)
    assert [listener.end().finish for listener in waiting] == [Finish.LENGTH, Finish.LENGTH]
    assert all(listener.events[-1].usage.queued_ns > 0 for listener in waiting)
    engine.stop()


def test_a_cache_too_small_for_all_answers_all_the_same(served: ServedModel) -> None:
    """Seven sequences of up to 25 blocks over a cache of 30: they give way to each other and lose nothing."""
    asked = [asking("a" * 100, max_tokens=60, seed=seed) for seed in range(7)]
    roomy = on_torch(served)
    roomy.start()
    expected = [listener.text for listener in run(roomy, *asked)]
    roomy.stop()
    executor = TorchExecutor(served.transformer, 30)
    engine = Engine(served, executor=executor)
    engine.start()
    listeners = run(engine, *asked)
    assert [listener.text for listener in listeners] == expected
    assert engine.n_preemptions > 0
    assert sum(listener.events[-1].usage.device_ns for listener in listeners) == engine.device.busy_ns
    assert engine.pool.n_held == 0
    with pytest.raises(NeverFitsError, match="30"):
        engine.submit(asking("a" * 400, max_tokens=100), Collected())
    engine.stop()


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_prompt_of_tokens_that_the_model_lacks_is_refused_before_any_step(
    engine: Engine, token: int
) -> None:
    with pytest.raises(ValueError, match="token ids must be between 0 and"):
        engine.submit(replace(asking("good"), prompt=(1, token)), Collected())
    assert engine.n_waiting == 0


def test_a_failing_step_ends_its_generations_and_nothing_else(
    engine: Engine, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("a patched stack broke")

    with monkeypatch.context() as patch:
        patch.setattr(served.transformer, "step", broken, raising=False)
        assert run(engine, asking("a"))[0].events[-1].finish is Finish.ERROR
    assert run(engine, asking("a"))[0].events[-1].finish is Finish.LENGTH


def test_logits_that_are_not_finite_end_only_their_own_sequence(
    engine: Engine, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = served.transformer.step

    def poisoned(parts: list[tuple[object, list[int]]], n_logits: list[int]) -> torch.Tensor:
        logits = step(parts, n_logits).clone()
        for row, (_, tokens) in enumerate(parts):
            if tokens == list(b"poison"):
                logits[row] = float("nan")
        return logits

    monkeypatch.setattr(served.transformer, "step", poisoned, raising=False)
    healthy, sick = run(engine, asking("fine", max_tokens=9), asking("poison"))
    assert (healthy.events[-1].finish, sick.events[-1].finish) == (Finish.LENGTH, Finish.ERROR)


def test_a_failing_listener_harms_nobody_else(engine: Engine) -> None:
    def broken(_: Event) -> None:
        raise RuntimeError("event loop is closed")

    engine.submit(asking("a", max_tokens=400), broken)
    (listener,) = run(engine, asking("b", max_tokens=5))
    assert listener.events[-1].finish is Finish.LENGTH
    run(engine, asking("c", max_tokens=1))
    assert engine.n_running == 0  # the failing one was cancelled, not run to its end


def test_a_bug_in_the_engine_leaves_nobody_waiting(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[Exception] = []
    engine = on_torch(served)
    engine.on_death = deaths.append

    def broken(*_: object) -> None:
        raise RuntimeError("a bug in the scheduler")

    monkeypatch.setattr(engine._core.scheduler, "schedule", broken)
    engine.start()
    (listener,) = run(engine, asking("a"))
    assert listener.events[-1].finish is Finish.ERROR
    engine.stop()
    assert not engine.is_alive and [str(error) for error in deaths] == ["a bug in the scheduler"]
    with pytest.raises(EngineStoppedError):
        engine.submit(asking("a"), listener)


def test_stopping_ends_everything_and_refuses_new_requests(served: ServedModel) -> None:
    engine = on_torch(served)
    engine.start()
    listener = Collected()
    engine.submit(asking("a", max_tokens=500), listener)
    listener.next()
    engine.stop()
    assert listener.end().finish is Finish.CANCELLED
    with pytest.raises(EngineStoppedError):
        engine.submit(asking("a"), listener)


def test_what_cannot_fit_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="context of 512"):
        engine.submit(asking("a" * 500, max_tokens=13), Collected())


@pytest.mark.parametrize("change", [{"prompt": ()}, {"max_tokens": 0}, {"n": 0}, {"deadline_ms": 0}])
def test_what_asks_for_nothing_is_no_generation(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least"):
        replace(asking("a"), **change)
