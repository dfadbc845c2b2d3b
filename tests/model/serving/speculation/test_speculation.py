"""Guesses are what the past says, as many as pay, and leave an answer's tokens as plain decoding draws them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.sampling import Sampler, SamplingSettings
from model.serving.api.tokenizer import ByteTokenizer
from model.serving.engine.cache import SequenceCache
from model.serving.engine.constrained import JSONGrammars
from model.serving.executors.base import on_host
from model.serving.speculation.choice import proposers
from model.serving.speculation.proposer import (
    COST_PER_DRAFT,
    AdaptiveProposer,
    ConstrainedProposer,
    DraftLength,
    Proposer,
    cost_among,
    matching,
)
from model.transformer import Transformer
from tests.model.random_models import SMALL, random_transformer


class Scripted:
    """Proposes what a script holds behind the tokens so far, and counts what it was asked for."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script = script
        self.asked: list[int] = []

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        self.asked.append(n)
        return list(self.script[len(tokens) : len(tokens) + n])


def tokens_per_step(proposer: Proposer, text: Sequence[int], n_prompt: int, most: int = 6) -> float:
    """Follows a text whose drafts are verified by itself."""
    length, steps = n_prompt, 0
    while length < len(text):
        drafts = proposer.propose(text[:length], most)
        assert len(drafts) <= most
        length += matching(drafts, text[length:]) + 1
        steps += 1
    return (len(text) - n_prompt) / steps


def test_right_guesses_lead_to_the_longest_drafts() -> None:
    text = list(range(400))
    proposer = AdaptiveProposer(Scripted(text))
    assert tokens_per_step(proposer, text, 10) > 6
    assert proposer.length.share > 0.95
    assert proposer.length.next_length(6) == 6


def test_wrong_guesses_are_soon_given_up_and_seldom_tried_again() -> None:
    scripted = Scripted([-1] * 3000)
    tokens_per_step(AdaptiveProposer(scripted), list(range(2000)), 0)
    assert 20 < len(scripted.asked) < 60  # of 2000 steps
    assert sum(scripted.asked[5:]) == len(scripted.asked) - 5  # trials of one draft


def test_guessing_starts_again_where_it_pays_again() -> None:
    text = list(range(2000))
    scripted = Scripted([-1] * 1000 + text[1000:])
    proposer = AdaptiveProposer(scripted)
    tokens_per_step(proposer, text[:1000], 0)
    assert proposer.length.share < 0.2
    assert tokens_per_step(proposer, text, 1000) > 3


def test_a_proposer_without_ideas_is_asked_until_it_has_one() -> None:
    length = DraftLength()
    while length.next_length(4) > 0:
        length.verified(0, 1)
    for _ in range(DraftLength.LONGEST_REST):
        length.next_length(4)
    assert [length.next_length(4) for _ in range(5)] == [1] * 5  # nothing was verified meanwhile


def test_rests_double_up_to_the_longest_and_start_short_again_after_success() -> None:
    length = DraftLength()

    def rests_of_failures(n: int) -> list[int]:
        rests = []
        for _ in range(n):
            rests.append(sum(1 for _ in iter(lambda: length.next_length(4) > 0, True)))
            length.verified(0, 1)
        return [rest for rest in rests if rest]

    assert rests_of_failures(16)[:6] == [4, 8, 16, 32, 64, 64]
    for _ in range(20):
        length.verified(4, 4)
    assert rests_of_failures(40)[0] <= 2 * DraftLength.SHORTEST_REST


@given(st.floats(0.01, 0.99), st.floats(0.01, 1.5), st.integers(1, 12))
def test_the_length_maximises_tokens_per_time(share: float, cost: float, most: int) -> None:
    length = DraftLength()
    length._accepted, length._judged = share * 1000, 1000.0

    def rate(k: int) -> float:
        return (1 - share ** (k + 1)) / (1 - share) / (1 + cost * k)

    best = max(range(most + 1), key=rate)
    found = length.next_length(most, cost)
    assert found == max(1, best) or rate(found) == pytest.approx(rate(best))


def test_a_draft_costs_more_of_an_answers_share_the_more_answers_there_are() -> None:
    costs = [cost_among(n) for n in (1, 2, 4, 16, 1000)]
    assert costs[0] == pytest.approx(COST_PER_DRAFT) == cost_among(0)
    assert costs == sorted(costs) and costs[-1] < 1
    alone, crowded = DraftLength(), DraftLength()
    for length in (alone, crowded):
        for _ in range(20):
            length.verified(7, 10)
    assert alone.next_length(8, cost_among(1)) > crowded.next_length(8, cost_among(16)) == 1


def test_the_number_of_running_answers_is_asked_for_at_each_step() -> None:
    n_running = 1
    scripted = Scripted(range(1000))
    proposer = AdaptiveProposer(scripted, lambda: n_running)
    for length in range(0, 60, 5):
        proposer.propose(range(length), 6)
    n_running = 10_000
    proposer.propose(range(61), 6)
    proposer.propose(range(66), 6)
    assert scripted.asked[5] == 6 > scripted.asked[-1]


def test_no_room_means_no_drafts_and_no_trial() -> None:
    length = DraftLength()
    assert length.next_length(0) == 0
    assert length.next_length(4) > 0


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan")])
def test_a_draft_costs_something(cost: float) -> None:
    with pytest.raises(ValueError, match="cost"):
        DraftLength().next_length(4, cost)


@pytest.mark.parametrize(
    ("drafts", "came", "accepted", "judged"),
    [
        ([1, 2, 3], [1, 2, 3, 4], 3, 3),
        ([1, 2, 3], [1, 2, 9], 2, 3),
        ([1, 2, 3], [9], 0, 1),
        ([1, 2, 3], [9, 2, 3], 0, 1),  # what stood behind a wrong one was not verified
        ([1, 2, 3], [1], 1, 1),  # the others were not verified
        ([1, 2, 3], [], 0, 0),
        ([], [5], 0, 0),
    ],
)
def test_what_came_tells_how_drafts_fared(
    drafts: list[int], came: list[int], accepted: int, judged: int
) -> None:
    class Told(DraftLength):
        told: list[tuple[int, int]] = []

        def next_length(self, most: int, cost: float = 1) -> int:
            return most

        def verified(self, accepted: int, judged: int) -> None:
            self.told.append((accepted, judged))

    length = Told()
    proposer = AdaptiveProposer(Scripted([0, *drafts]))
    proposer.length = length
    assert proposer.propose([0], 3) == drafts
    proposer.propose([0, *came], 3)
    assert length.told[-1] == (accepted, judged)


def test_a_constraint_drafts_what_it_forces_and_cuts_what_it_rules_out() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "integer"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    constraint = JSONGrammars(ByteTokenizer(), 261).json_schema(schema)
    script = list(b'{"name":12x')
    proposer = ConstrainedProposer(Scripted(script), constraint)
    for byte in b'{"n':
        constraint.accept(byte)
    assert proposer.propose(script[:3], 2) == list(b"am")
    for byte in b'ame":':
        constraint.accept(byte)
    assert proposer.propose(script[:8], 3) == list(b"12")
    assert proposer.propose(script[:10], 3) == []


def test_an_engine_drafts_what_an_answers_constraint_forces() -> None:
    constraint = JSONGrammars(ByteTokenizer(), 261).json_schema({"const": "forced"})
    proposer = proposers()(Sampler(SamplingSettings(), constraint=constraint), list)
    assert proposer.propose([1, 2, 3], 2) == list(b'"f')
    plain = proposers()(Sampler(SamplingSettings()), list)
    assert plain.propose([1, 2, 3], 4) == []
    assert plain.propose([1, 2, 3, 1, 2], 2) == [3, 1]


def decoded(
    model: Transformer, prompt: list[int], sampler: Sampler, n: int, proposer: Proposer | None
) -> tuple[list[int], int]:
    """Decodes as the engine does: drafts ride behind the last token; rejected ones are overwritten."""
    cache = SequenceCache(model.config, model.dtype, model.device)
    tokens, steps = list(prompt), 0
    new = tokens
    while True:
        drafts = proposer.propose(tokens, 4) if proposer is not None and steps else []
        logits = model.step([(cache, [*new, *drafts])], [1 + len(drafts)])
        found = [c.token for c in sampler.verify(on_host(logits), drafts)]
        cache.advance(len(new) + len(found) - 1)
        tokens += found
        new = tokens[-1:]
        steps += 1
        if len(tokens) >= len(prompt) + n:
            return tokens[: len(prompt) + n], steps


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0),
        SamplingSettings(seed=7, temperature=0.7),
        SamplingSettings(seed=8, temperature=0.5, top_p=0.8, frequency_penalty=0.2),
    ],
    ids=["greedy", "sampled", "filtered and penalised"],
)
def test_a_model_answers_the_same_with_and_without_speculation(settings: SamplingSettings) -> None:
    model = random_transformer(SMALL).eval()
    chooser = random.Random(3)
    prompt = [chooser.randrange(SMALL.vocab_size) for _ in range(12)] * 2
    plain, n_plain = decoded(model, prompt, Sampler(settings, prompt=prompt), 80, None)
    often_wrong = [token if i % 3 else 0 for i, token in enumerate(plain)]
    for proposer in (
        proposers()(Sampler(settings), list),
        Scripted([0] * 200),
        Scripted([*often_wrong, 0, 0, 0, 0]),
    ):
        found, steps = decoded(model, prompt, Sampler(settings, prompt=prompt), 80, proposer)
        assert found == plain
        assert steps <= n_plain
    _, steps = decoded(model, prompt, Sampler(settings, prompt=prompt), 80, Scripted([*plain, 0, 0, 0, 0]))
    assert steps == 1 + -(-79 // 5)  # five tokens a step where every draft is right
