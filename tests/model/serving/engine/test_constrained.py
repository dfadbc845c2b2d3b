"""Constrained answers parse and validate whatever the model prefers, and bad schemas are refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.data.tokenizer import TOKENIZER_FILE, TextTokenizer
from model.sampling import Chosen, ConstraintError, Sampler, SamplingSettings
from model.serving.api.tokenizer import BPETokenizer, ByteTokenizer, Tokenizer
from model.serving.engine.constrained import MAX_SCHEMA_BYTES, GrammarConstraint, JSONGrammars, SchemaError

pytestmark = pytest.mark.slow

BYTES = ByteTokenizer()
(END,) = BYTES.stop_tokens
VOCABULARY = 300  # a model's is often padded beyond its tokenizer's
GRAMMARS = JSONGrammars(BYTES, VOCABULARY)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

leaves = st.one_of(
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": "string", "maxLength": 4}]
    ),
    st.integers(-50, 50).map(lambda low: {"type": "integer", "minimum": low, "maximum": low + 30}),
    st.lists(st.sampled_from(["a", 'b"c', "dé", 1, None]), min_size=1, max_size=3).map(lambda v: {"enum": v}),
    st.sampled_from(["x", 3, [1], {"k": True}]).map(lambda v: {"const": v}),
)
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(
            lambda items, n: {"type": "array", "items": items, "maxItems": n}, inner, st.integers(0, 3)
        ),
        st.dictionaries(st.sampled_from(["a", "b c", "ü"]), inner, max_size=3).map(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": list(properties)[:1],
                "additionalProperties": False,
            }
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=5,
)


def logits(seed: int, index: int, vocab_size: int = VOCABULARY) -> NDArray[np.float32]:
    generator = torch.Generator().manual_seed(seed * 100_003 + index)
    return (3 * torch.randn(vocab_size, generator=generator)).numpy()


def answered(constraint: GrammarConstraint, seed: int, **asked: Any) -> list[Chosen]:
    """Draws from random logits until the answer ends."""
    sampler = Sampler(SamplingSettings(seed=seed, **asked), constraint=constraint)
    chosen: list[Chosen] = []
    while not constraint.is_finished:
        chosen.append(sampler(logits(seed, len(chosen))))
        assert len(chosen) < 3000, "the answer does not end"
    return chosen


def text_of(chosen: list[Chosen], tokenizer: Tokenizer = BYTES) -> str:
    return b"".join(tokenizer.token_bytes(c.token) for c in chosen).decode()


@settings(max_examples=60, deadline=None)
@given(
    schemas, st.integers(0, 2**31), st.sampled_from([{}, {"temperature": 0.0}, {"top_k": 40, "top_p": 0.8}])
)
def test_every_answer_under_a_schema_validates(schema: Any, seed: int, asked: dict[str, Any]) -> None:
    chosen = answered(GRAMMARS.json_schema(schema), seed, **asked)
    assert chosen[-1].token == END
    jsonschema.validate(json.loads(text_of(chosen)), schema)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_every_json_object_parses(seed: int) -> None:
    quotes_end_strings = dict.fromkeys(b'"}],', 6.0)
    chosen = answered(GRAMMARS.json_schema({"type": "object"}), seed, logit_bias=quotes_end_strings)
    assert isinstance(json.loads(text_of(chosen)), dict)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.text(max_size=4), min_size=1, max_size=6), st.booleans())
def test_drafts_leave_a_constrained_answer_as_it_is(seed: int, texts: list[str], is_greedy: bool) -> None:
    asked = {"temperature": 0.0} if is_greedy else {}
    plain = answered(GRAMMARS.json_schema(PERSON), seed, **asked)
    constraint = GRAMMARS.json_schema(PERSON)
    sampler = Sampler(SamplingSettings(seed=seed, **asked), constraint=constraint)
    found: list[Chosen] = []
    turn = 0
    while not constraint.is_finished:
        right = [c.token for c in plain[len(found) : len(found) + 2]]
        drafts = [*right[: turn % 3], *BYTES.encode(texts[turn % len(texts)])]
        rows = [logits(seed, len(found) + i) for i in range(len(drafts) + 1)]
        found += sampler.verify(np.stack(rows), drafts)
        turn += 1
    assert found == plain


def test_verification_stops_where_a_draft_ends_the_answer() -> None:
    constraint = GRAMMARS.json_schema({"const": 7})
    sampler = Sampler(SamplingSettings(temperature=0), constraint=constraint)
    found = sampler.verify(np.zeros((4, VOCABULARY), np.float32), [ord("7"), END, END])
    assert [c.token for c in found] == [ord("7"), END]


def test_one_question_of_a_token_equals_the_mask() -> None:
    constraint = GRAMMARS.json_schema(PERSON)
    for byte in b'{"name": "\xc3\xa9x", "age":-3}':
        mask = constraint.mask()
        assert mask.shape == (VOCABULARY,) and mask.dtype == np.bool_
        assert [constraint.allows(token) for token in range(VOCABULARY)] == mask.tolist()
        constraint.accept(byte)
    assert constraint.is_complete
    assert np.flatnonzero(constraint.mask()).tolist() == [END]


def test_the_shortcut_draws_what_the_mask_draws() -> None:
    for seed in range(10):
        plain = answered(GRAMMARS.json_schema(PERSON), seed)
        masked = GRAMMARS.json_schema(PERSON)
        sampler = Sampler(SamplingSettings(seed=seed), constraint=masked)
        for i, expected in enumerate(plain):
            row = np.where(masked.mask(), logits(seed, i), np.float32(-np.inf))
            assert sampler(row) == expected


def test_an_unfinished_answer_cannot_end_and_a_finished_one_cannot_go_on() -> None:
    constraint = GRAMMARS.json_schema({"const": "a"})
    assert not constraint.allows(END)
    with pytest.raises(ConstraintError, match="ruled out"):
        constraint.accept(END)
    for token in (*b'"a"', END):  # the refusal has left no trace
        constraint.accept(token)
    assert constraint.is_finished
    assert not constraint.allows(END)
    with pytest.raises(ConstraintError, match="ended"):
        constraint.mask()


def test_special_and_padded_tokens_are_never_allowed() -> None:
    constraint = GRAMMARS.json_schema({"type": "string"})
    constraint.accept(ord('"'))
    mask = constraint.mask()
    assert mask[: ord('"')].any()
    assert not mask[256:].any()


def test_a_prefix_of_drafts_is_judged_without_being_taken() -> None:
    constraint = GRAMMARS.json_schema(PERSON)
    assert constraint.allowed_prefix(list(b'{"name":12')) == len(b'{"name":')
    assert constraint.allowed_prefix(list(b"[")) == 0
    assert constraint.allowed_prefix([ord("{"), VOCABULARY + 7, ord('"')]) == 1
    assert constraint.allows(ord("{"))


def test_what_a_schema_forces_is_known_ahead() -> None:
    constraint = GRAMMARS.json_schema(PERSON)
    for byte in b'{"n':
        constraint.accept(byte)
    assert bytes(constraint.forced_tokens()) == b'ame"'


def test_a_fork_goes_its_own_way() -> None:
    constraint = GRAMMARS.json_schema({"enum": ["ab", "ac"]})
    for byte in b'"a':
        constraint.accept(byte)
    fork = constraint.fork()
    constraint.accept(ord("b"))
    assert fork.allows(ord("c")) and not constraint.allows(ord("c"))
    for token in (*b'"', END):
        constraint.accept(token)
    assert constraint.is_finished and not fork.is_finished


def test_logits_that_leave_no_allowed_token_are_an_error() -> None:
    row = np.full(VOCABULARY, -np.inf, np.float32)
    row[ord("x")] = 0
    for asked in ({"temperature": 0.0}, {}, {"top_k": 3}):
        sampler = Sampler(SamplingSettings(**asked), constraint=GRAMMARS.json_schema({"type": "object"}))  # type: ignore[arg-type]
        with pytest.raises(FloatingPointError, match="constraint allows"):
            sampler(row)


def test_white_space_is_bounded() -> None:
    constraint = GRAMMARS.json_schema({"type": "object"})
    constraint.accept(ord("{"))
    for _ in range(25):
        constraint.accept(ord(" "))
    assert not constraint.allows(ord(" "))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "foo"}, "Invalid type"),
        ([1], "JSON object"),
        (False, "JSON object"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
        ({"$ref": "https://example.com/schema"}, "not fetch"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "pattern": "(?=x)"}, "look-around"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": {1, 2}}, "not JSON"),
        ({"const": "x" * MAX_SCHEMA_BYTES}, "bytes"),
        ({"$ref": "#"}, "because no answer matches it"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            "no answer matches",
        ),
        ({"not": {"type": "null"}, "x-guidance": {"lenient": True}}, "x-guidance"),
        ({"enum": [[1, 2]], "x-guidance": {"item_separator": ";"}}, "x-guidance"),
    ],
)
def test_a_schema_that_cannot_be_held_is_refused_with_the_reason(schema: Any, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason) as refusal:
        GRAMMARS.json_schema(schema)
    assert "\n" not in str(refusal.value)


def test_a_schema_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(200):
        schema = {"properties": {"a": schema}}
    with pytest.raises(SchemaError, match="recursion"):
        GRAMMARS.json_schema(schema)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="stop token"):
        JSONGrammars(BYTES, vocab_size=200)


def test_tokens_of_many_bytes_work_alike(tmp_path: Path) -> None:
    """A BPE tokenizer whose tokens cross the grammar's boundaries, such as `{"` and `":`."""
    text = json.dumps({"name": "Ann", "age": 31, "tags": ["red", "green"]}) + '{"name":"Bob","age":7}'
    TextTokenizer.train([text] * 3, 330).save(tmp_path)
    tokenizer = BPETokenizer(tmp_path / TOKENIZER_FILE, [0])
    grammars = JSONGrammars(tokenizer, 330)
    crossing = [
        t for t in range(330) if len(tokenizer.token_bytes(t)) > 1 and b'"' in tokenizer.token_bytes(t)
    ]
    assert crossing, "the test needs tokens that span a quote"
    used: set[int] = set()
    for seed in range(30):
        constraint = grammars.json_schema(PERSON)
        sampler = Sampler(SamplingSettings(seed=seed), constraint=constraint)
        chosen: list[Chosen] = []
        while not constraint.is_finished:
            chosen.append(sampler(logits(seed, len(chosen), 330)))
        jsonschema.validate(json.loads(text_of(chosen, tokenizer)), PERSON)
        used |= {c.token for c in chosen}
    assert used & set(crossing)
