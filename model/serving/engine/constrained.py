"""Constrain answers to a JSON schema, or to any JSON object, by ruling out tokens (`Constraint` of model/sampling).

The grammar engine is llguidance (MIT; Rust wheels without dependencies), which works on tokens' bytes. What a schema
may contain is its subset of JSON Schema (github.com/guidance-ai/llguidance, docs/json_schema.md); a keyword outside of
it is refused, never ignored.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from model.sampling import ConstraintError
from model.serving.api.tokenizer import Tokenizer

MAX_SCHEMA_BYTES = 64 * 1024
# Bounds white space, with which a weak model might fill its answer; this is enough to indent six levels by four.
_WHITESPACE = r"[ \n\t]{1,25}"
_LIMITS = llguidance.LLParserLimits(verbose_errors=False)  # errors reach clients: they quote no parser states


# llguidance reads settings from this field of a schema; they could make it ignore keywords or write invalid JSON.
_SETTINGS = "x-guidance"


class SchemaError(ValueError):
    """A schema that cannot be used; the message says why, for the client."""


class JSONGrammars:
    """Makes constraints for one tokenizer. Building one takes 0.2 s for 49k tokens: keep it with the model.

    `vocab_size` is the model's: ids beyond the tokenizer's are never allowed. Special tokens are never allowed inside
    an answer; stop tokens end it. Safe to use from several threads.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        stops = sorted(token for token in tokenizer.stop_tokens if token < vocab_size)
        if not stops:
            raise ValueError(
                "constrained answers need a tokenizer with a stop token: without it they could not end"
            )
        self._vocab_size = vocab_size
        self._stop_tokens = frozenset(stops)
        self._tokens = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_TokenBytes(tokenizer, vocab_size, stops[0])),
            n_vocab=vocab_size,
            eos_token=stops,
            slices=llguidance.LLTokenizer.json_slices(),
        )

    def json_schema(self, schema: Mapping[str, Any]) -> GrammarConstraint:
        """JSON that validates against the schema.

        A large schema takes up to tenths of a second, without the interpreter's lock. Raises SchemaError.
        """
        if not isinstance(schema, Mapping):
            raise SchemaError("the schema must be a JSON object")
        if _SETTINGS in schema:
            raise SchemaError(
                f"the schema must not contain {_SETTINGS}: requests cannot change how JSON is written"
            )
        try:
            text = json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise SchemaError(f"the schema is not JSON: {error}") from error
        if len(text) > MAX_SCHEMA_BYTES:
            raise SchemaError(
                f"the schema has {len(text)} bytes, more than the maximum of {MAX_SCHEMA_BYTES}"
            )
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                text, overrides={"whitespace_pattern": _WHITESPACE}
            )
        except ValueError as error:
            raise SchemaError(f"the schema cannot be used: {_in_one_line(str(error))}") from error
        matcher = llguidance.LLMatcher(self._tokens, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise SchemaError(f"the schema cannot be used: {_in_one_line(matcher.get_error())}")
        constraint = GrammarConstraint(matcher, self._vocab_size, self._stop_tokens)
        try:
            constraint.mask()  # some schemas, such as endless references, fail only here
        except ConstraintError as error:
            raise SchemaError(f"the schema cannot be used, because no answer matches it: {error}") from error
        return constraint


class GrammarConstraint:
    """One answer's state in a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, stop_tokens: frozenset[int]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._stop_tokens = stop_tokens
        self._is_finished = False

    @property
    def is_finished(self) -> bool:
        return self._is_finished

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is whole, so that it may end here."""
        return self._matcher.is_accepting()

    def allows(self, token: int) -> bool:
        if self._is_finished:
            return False
        if token in self._stop_tokens:
            return self._matcher.is_accepting()
        return self._matcher.validate_tokens([token]) == 1

    def mask(self) -> NDArray[np.bool_]:
        if self._is_finished:
            raise ConstraintError("the constrained answer has ended; no token may follow")
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        if not self.allows(token):  # checked first: the matcher cannot be used after a refusal
            raise ConstraintError(f"token {token} is ruled out here")
        if token in self._stop_tokens:
            self._is_finished = True
        else:
            self._matcher.consume_token(token)
            self._check()

    def allowed_prefix(self, tokens: Sequence[int]) -> int:
        """As `Constraint.allowed_prefix`; a stop token counts as not allowed."""
        if self._is_finished:
            return 0
        known = itertools.takewhile(lambda token: token < self._vocab_size, tokens)
        return self._matcher.validate_tokens(list(known))

    def forced_tokens(self) -> list[int]:
        """Tokens that the grammar forces next, such as those of a required key; often none."""
        return [] if self._is_finished else self._matcher.compute_ff_tokens()

    def fork(self) -> GrammarConstraint:
        other = GrammarConstraint(self._matcher.deep_copy(), self._vocab_size, self._stop_tokens)
        other._is_finished = self._is_finished
        return other

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(
                f"the constraint cannot continue: {_in_one_line(self._matcher.get_error())}"
            )


class _TokenBytes:
    """A tokenizer as llguidance reads it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_token: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = stop_token
        self.bos_token_id = None
        self.tokens = [tokenizer.token_bytes(token) for token in range(vocab_size)]
        self.special_token_ids = [token for token, spelt in enumerate(self.tokens) if not spelt]

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("texts only")  # llguidance tests this way whether bytes are accepted
        return self._tokenizer.encode(text)


def _in_one_line(text: str) -> str:
    return " ".join(text.split())[:300]
