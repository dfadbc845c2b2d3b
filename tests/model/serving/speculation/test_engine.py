"""Through the whole engine: speculation and constraints together, alone and in company, leave what they must leave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from model.presets import PRESETS
from model.sampling import SamplingError, SamplingSettings
from model.serving.engine.constrained import JSONGrammars
from model.serving.executors.base import Executor
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.core import MakeProposer
from model.serving.metering.engine import Engine, EngineLimits, Event, Finish, Generation
from model.serving.node.served import ServedModel, tiny
from model.serving.node.service import Service
from model.serving.speculation.choice import proposers
from model.serving.speculation.mtp import AheadExecutor
from tests.model.random_models import random_transformer

pytestmark = pytest.mark.slow

LIMITS = EngineLimits(max_running=4, step_tokens=32, max_drafts=4)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "is_new": {"type": "boolean"}},
    "required": ["name", "is_new"],
    "additionalProperties": False,
}
N_BLOCKS = 60


@pytest.fixture(scope="module")
def served() -> ServedModel:
    """The tiny model with prediction modules, all random: their guesses are mostly wrong, which is what is tested."""
    transformer = random_transformer(replace(PRESETS["tiny"], n_ahead=2)).requires_grad_(False).eval()
    return replace(tiny(), transformer=transformer)


@pytest.fixture(scope="module")
def grammars(served: ServedModel) -> JSONGrammars:
    return JSONGrammars(served.tokenizer, served.transformer.config.vocab_size)


class Collected:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self._is_over = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if event.is_last:
            self._is_over.set()

    def answers(self) -> dict[int, tuple[str, list[int], Finish | None]]:
        """Text, tokens and end of each answer."""
        assert self._is_over.wait(200)
        found: dict[int, tuple[str, list[int], Finish | None]] = {}
        for event in self.events:
            text, tokens, _ = found.get(event.answer, ("", [], None))
            more = [] if event.chosen is None else [event.chosen.token]
            found[event.answer] = (text + event.text, tokens + more, event.finish)
        return found


@contextmanager
def running(served: ServedModel, executor: Executor, make_proposer: MakeProposer | None) -> Iterator[Engine]:
    engine = Engine(served, LIMITS, executor=executor, make_proposer=make_proposer)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def answered(engine: Engine, *generations: Generation) -> list[dict[int, Any]]:
    listeners = [Collected() for _ in generations]
    for generation, listener in zip(generations, listeners, strict=True):
        engine.submit(generation, listener)
    return [listener.answers() for listener in listeners]


Ask = Callable[[], list[Generation]]


def plain_requests() -> list[Generation]:
    repeating = tuple(b"to be or not to be or not to ")
    return [
        Generation(repeating, 24, SamplingSettings(temperature=0), ignore_stop_tokens=True),
        Generation(repeating, 24, SamplingSettings(seed=5, temperature=0.3), ignore_stop_tokens=True, n=2),
        Generation(
            (7,), 24, SamplingSettings(seed=6, top_p=0.7, presence_penalty=0.5), ignore_stop_tokens=True
        ),
        Generation(
            repeating, 24, SamplingSettings(seed=7), stop_token_ids=frozenset(range(0, 250, 5)), min_tokens=9
        ),
    ]


def compared(served: ServedModel, ask: Ask) -> Engine:
    """Plain decoding, lookups and modules answer the same; returns the last engine, stopped."""
    transformer = served.transformer
    with running(served, TorchExecutor(transformer, N_BLOCKS), None) as plain:
        expected = [answered(plain, generation)[0] for generation in ask()]
    with running(served, TorchExecutor(transformer, N_BLOCKS), proposers()) as looking:
        assert answered(looking, *ask()) == expected
    executor = AheadExecutor(transformer, N_BLOCKS)
    with running(served, executor, proposers(executor)) as guessing:
        assert answered(guessing, *ask()) == expected
    return guessing


def test_answers_in_company_and_speculated_equal_those_alone_and_plain(served: ServedModel) -> None:
    assert compared(served, plain_requests).stats.n_drafted > 0


def test_constrained_answers_validate_and_are_the_same_speculated(
    served: ServedModel, grammars: JSONGrammars
) -> None:
    def ask() -> list[Generation]:
        sampled = Generation((65, 66), 200, SamplingSettings(seed=2), n=2)
        greedy = Generation(
            (65, 66), 200, SamplingSettings(temperature=0), ignore_stop_tokens=True
        )  # ends all the same
        return [replace(asked, constraint=grammars.json_schema(SCHEMA)) for asked in (sampled, greedy)]

    engine = compared(served, ask)
    assert engine.stats.n_accepted > 0  # what the schema forces is drafted, and right
    with running(served, TorchExecutor(served.transformer, N_BLOCKS), None) as plain:
        for answers in answered(plain, *ask()):
            for text, _, finish in answers.values():
                assert finish is Finish.STOP
                jsonschema.validate(json.loads(text), SCHEMA)


def test_a_constrained_answer_that_is_cut_off_says_so(served: ServedModel, grammars: JSONGrammars) -> None:
    asked = Generation((65,), 5, SamplingSettings(seed=1), constraint=grammars.json_schema(SCHEMA))
    with running(served, TorchExecutor(served.transformer, N_BLOCKS), proposers()) as engine:
        ((text, tokens, finish),) = answered(engine, asked)[0].values()
    assert finish is Finish.LENGTH and len(tokens) == 5
    assert text.startswith("{")


def test_an_answer_whose_constraint_breaks_ends_alone(served: ServedModel, grammars: JSONGrammars) -> None:
    broken = grammars.json_schema(SCHEMA)
    for token in (*b'{"name":"a","is_new":true}', *served.tokenizer.stop_tokens):
        broken.accept(token)  # it has ended before its answer begins
    asked = [
        Generation((65,), 6, SamplingSettings(seed=1), constraint=broken),
        Generation((66,), 6, SamplingSettings(seed=1), ignore_stop_tokens=True),
    ]
    with running(served, TorchExecutor(served.transformer, N_BLOCKS), None) as engine:
        first, second = answered(engine, *asked)
    assert first[0][2] is Finish.ERROR
    assert second[0][2] is Finish.LENGTH


def test_a_bias_on_a_token_that_the_model_lacks_is_refused_at_once(served: ServedModel) -> None:
    asked = Generation((1,), 3, SamplingSettings(logit_bias={9999: 1.0}))
    with running(served, TorchExecutor(served.transformer, N_BLOCKS), None) as engine:
        with pytest.raises(SamplingError, match="token 9999"):
            engine.submit(asked, Collected())


@pytest.mark.parametrize("max_drafts", [0, 4])
def test_a_nodes_engine_speculates_unless_told_not_to(max_drafts: int) -> None:
    service = Service(tiny(), replace(LIMITS, max_drafts=max_drafts))
    try:
        repeating = tuple(b"round and round and round and ")
        bias = dict.fromkeys(b"round ", 100.0)  # an answer that repeats itself
        settings = SamplingSettings(temperature=0, logit_bias=bias)
        asked = Generation(repeating, 40, settings, ignore_stop_tokens=True)
        ((_, tokens, _),) = answered(service.engine, asked)[0].values()
    finally:
        service.engine.stop()
    assert len(tokens) == 40
    assert (service.stats()["accepted_tokens"] > 0) is (max_drafts > 0)
