"""Token ids that Hugging Face's files name, within the model's vocabulary. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig
from model.hf.config.fields import CONFIG_FILE, Ours, Theirs, shown
from model.hf.errors import UnsupportedModel

TOKEN_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_LISTED = ("eos_token_id", "stop_tokens")  # fields that may name several


@dataclass(frozen=True)
class TokenIds:
    """Rule for the special tokens of `config.json`: they are not used, but must be in the vocabulary."""

    def read(self, theirs: Theirs, ours: Ours) -> None:
        for name in TOKEN_FIELDS:
            token_ids(name, theirs.get(name), ours["vocab_size"])

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        """Write nothing: `model/hf/folder.py` writes the tokens."""


def token_ids(name: str, given: object, vocab_size: int, *, file: str = CONFIG_FILE) -> list[int]:
    """The ids of a field, none if it is null. Raises UnsupportedModel for an id outside of the vocabulary."""
    if given is None:
        return []
    named: list[object] = given if isinstance(given, list) and name in _LISTED else [given]
    ids = [token for token in named if isinstance(token, int) and not isinstance(token, bool)]
    if len(ids) < len(named):
        wanted = "a token id or a list of them" if name in _LISTED else "a token id"
        raise UnsupportedModel(
            f"{name} must be {wanted}, not {shown(given)}: correct it in {file}, or set it to null"
        )
    for token in ids:
        if not 0 <= token < vocab_size:
            raise UnsupportedModel(
                f"{name} = {shown(given)} names a token outside of the model's vocabulary, 0 to {vocab_size - 1:,}: "
                f"correct it in {file}, or set it to null"
            )
    return ids
