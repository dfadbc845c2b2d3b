"""The engine: same answers alone and in company, fair, cancellable, bounded, and honest in its counters."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from model.sampling import SamplingSettings
from model.serving.engine import (
    Engine,
    EngineLimits,
    EngineStoppedError,
    Event,
    Finish,
    Generation,
    Job,
    QueueFullError,
)
from model.serving.served import ServedModel, tiny
from model.serving.text import TextStream

TIMEOUT_S = 30


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


@pytest.fixture
def engine(served: ServedModel) -> Iterator[Engine]:
    engine = Engine(served)
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
    engine = Engine(replace(eager, tokenizer=StopAtZero()))
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

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


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
    engine = Engine(served, EngineLimits(max_running=1, max_waiting=2))
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


def test_cache_memory_bounds_how_many_run_at_once(served: ServedModel) -> None:
    one = Job(served, asking("a" * 100, max_tokens=300), Collected()).cache_bytes_at_most
    engine = Engine(served, EngineLimits(max_cache_bytes=one * 2))
    most = 0

    def listen(event: Event) -> None:
        nonlocal most
        most = max(most, engine.n_running)
        if event.finish:
            ended.release()

    ended = threading.Semaphore(0)
    engine.start()
    for _ in range(5):
        engine.submit(asking("a" * 100, max_tokens=300), listen)
    for _ in range(5):
        assert ended.acquire(timeout=TIMEOUT_S)
    assert most == 2
    engine.stop()


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

    def poisoned(parts: list[tuple[object, list[int]]]) -> torch.Tensor:
        logits = step(parts).clone()
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
    engine = Engine(served, on_death=deaths.append)

    def broken() -> None:
        raise RuntimeError("a bug in the scheduler")

    monkeypatch.setattr(engine, "_schedule", broken)
    engine.start()
    (listener,) = run(engine, asking("a"))
    assert listener.events[-1].finish is Finish.ERROR
    engine.stop()
    assert not engine.is_alive and [str(error) for error in deaths] == ["a bug in the scheduler"]
    with pytest.raises(EngineStoppedError):
        engine.submit(asking("a"), listener)


def test_stopping_ends_everything_and_refuses_new_requests(served: ServedModel) -> None:
    engine = Engine(served)
    engine.start()
    listener = Collected()
    engine.submit(asking("a", max_tokens=500), listener)
    listener.next()
    engine.stop()
    assert listener.end().finish is Finish.CANCELLED
    with pytest.raises(EngineStoppedError):
        engine.submit(asking("a"), listener)


def test_what_cannot_fit_the_context_is_refused(engine: Engine) -> None:
    for impossible in (asking("a" * 500, max_tokens=13), asking("", 5), asking("a", 0)):
        with pytest.raises(ValueError):
            engine.submit(impossible, Collected())
