"""Encode text to token ids, and decode token ids to bytes.

Both tokenizers are byte-level, so each ordinary token has fixed bytes; whole characters are put together
by `model/serving/api/text.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import models

TOKENIZER_FILE = "tokenizer.json"
SPACE = "\u2581"  # what SentencePiece writes for a space
MOST_SHOWN = 20  # characters of a token in an error
CHARACTERS_PER_NFC_BYTE = 2  # at most, as a test shows: no character of n bytes is composed of more than 2 n
_KEEP_TEXT = frozenset({"Sequence", "ByteLevel", "Digits", "Split", "NFC"})  # steps that drop no text
_KINDS = {
    models.Unigram: f"SentencePiece (Unigram, {SPACE!r} for a space)",
    models.WordPiece: "WordPiece (pieces of words, '##' where one continues)",
    models.WordLevel: "WordLevel (whole words)",
}


class UnservedTokenizerError(ValueError):
    """A tokenizer of a kind that a node cannot decode correctly; the message names it and says what to do."""


class Tokenizer(Protocol):
    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end an answer."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which special tokens may be spelt out."""

    def encode_prompt(self, text: str) -> list[int]:
        """As `encode`, with the start token of tokenizers that put one before each sequence."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token; none for a special token. Tokens that are added and not special, such as runs of
        spaces or `<think>`, are text."""

    def least_tokens(self, text: str) -> int:
        """A lower bound of a text's number of tokens, without encoding it; 0 if none is known."""


class ByteTokenizer:
    """One token per UTF-8 byte plus five special ones: the tokenizer of the tiny random model."""

    SPECIAL = ("<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>")
    _PATTERN = re.compile("(" + "|".join(re.escape(token) for token in SPECIAL) + ")")

    @property
    def stop_tokens(self) -> frozenset[int]:
        return frozenset({256 + self.SPECIAL.index("<|eos|>")})

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in self._PATTERN.split(text):
            if piece in self.SPECIAL:
                ids.append(256 + self.SPECIAL.index(piece))
            else:
                ids.extend(piece.encode("utf-8", errors="replace"))  # lone surrogates have no UTF-8 form
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def least_tokens(self, text: str) -> int:
        return -(-len(text) // max(map(len, self.SPECIAL)))


class BPETokenizer:
    """A byte-level BPE tokenizer from the file of a model folder. The file's truncation and padding are ignored.

    Raises ValueError that names an unusable file, UnservedTokenizerError for one of another kind.
    """

    def __init__(self, file: Path, stop_tokens: Sequence[int]) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception without the file's name
            raise ValueError(f"{file.name}: {error}") from error
        _check_byte_level(self._tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._stop_tokens = frozenset(stop_tokens)
        byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        added = self._tokenizer.get_added_tokens_decoder()  # added tokens are spelt as they are
        self._bytes = {
            token: bytes(byte_of[character] for character in text)
            for text, token in self._tokenizer.get_vocab(with_added_tokens=True).items()
            if token not in added
        }
        ordinary = {token for token, given in added.items() if not given.special} - self._stop_tokens
        self._bytes |= {token: added[token].content.encode() for token in ordinary}
        self._most_characters = _most_characters(self._tokenizer, frozenset(self._bytes.values()))

    @property
    def stop_tokens(self) -> frozenset[int]:
        return self._stop_tokens

    def encode(self, text: str) -> list[int]:
        return self._encoded(text, add_special_tokens=False)

    def encode_prompt(self, text: str) -> list[int]:
        return self._encoded(text, add_special_tokens=True)

    def _encoded(self, text: str, *, add_special_tokens: bool) -> list[int]:
        clean = text.encode("utf-8", errors="replace").decode("utf-8")
        # As a batch, since `encode` keeps Python's lock: other threads would wait while a long text is encoded.
        (encoding,) = self._tokenizer.encode_batch_fast([clean], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.get(token, b"")

    def least_tokens(self, text: str) -> int:
        return 0 if self._most_characters is None else -(-len(text) // self._most_characters)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises UnservedTokenizerError where a token id, stop tokens included, is not in the model's vocabulary."""
        last = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if last >= vocab_size:
            raise UnservedTokenizerError(
                f"{TOKENIZER_FILE} has token ids up to {last:,} and the model has {vocab_size:,} tokens, 0 to "
                f"{vocab_size - 1:,}: prompts with higher ids could not be computed. Fetch the tokenizer that belongs to "
                "these weights"
            )
        if beyond := sorted(token for token in self._stop_tokens if not 0 <= token < vocab_size):
            raise UnservedTokenizerError(
                f"the stop token {beyond[0]:,} is not in the model's vocabulary of {vocab_size:,} tokens, 0 to "
                f"{vocab_size - 1:,}: answers would not end there. Correct eos_token_id or stop_tokens"
            )


def _check_byte_level(tokenizer: tokenizers.Tokenizer) -> None:
    """Raises UnservedTokenizerError where tokens are not spelt in the alphabet of `byte_alphabet`."""
    model = tokenizer.model
    steps = {
        step["type"] for part in (tokenizer.normalizer, tokenizer.pre_tokenizer) for step in _steps(part)
    }
    added, alphabet = tokenizer.get_added_tokens_decoder(), frozenset(byte_alphabet())
    unknown = [
        text
        for text, token in tokenizer.get_vocab(with_added_tokens=False).items()
        if token not in added and not alphabet.issuperset(text)
    ]
    kind = _KINDS.get(type(model))
    if kind is None and (model.byte_fallback or any(SPACE in text for text in unknown)):
        kind = f"SentencePiece (BPE, {SPACE!r} for a space)"
    elif kind is None and (model.continuing_subword_prefix or model.end_of_word_suffix):
        kind = "BPE with marks where words continue or end"
    elif kind is None and ("ByteLevel" not in steps or unknown):
        kind = "BPE of characters" + (f", as {min(unknown)[:MOST_SHOWN]!r}" if unknown else "")
    if kind is not None:
        raise UnservedTokenizerError(
            f"{TOKENIZER_FILE} is {kind}, and a node serves byte-level BPE only, as in Llama 3, Qwen and SmolLM2: "
            "answers would come out as wrong text. Choose a model with such a tokenizer, or have a server that reads this "
            "one (vLLM, llama.cpp) answer behind a node with --upstream"
        )


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The settings of a normalizer or pre-tokenizer; of each of its parts where it is a sequence."""
    pending = [] if part is None else [json.loads(part.__getstate__())]
    for step in pending:
        pending += step.get("normalizers") or step.get("pretokenizers") or []
        yield step


def _most_characters(tokenizer: tokenizers.Tokenizer, spelt: Collection[bytes]) -> int | None:
    """Most characters of text in one token; None if some text may get no token."""
    added = tokenizer.get_added_tokens_decoder().values()
    if not {bytes([byte]) for byte in range(256)}.issubset(spelt) or any(
        token.lstrip or token.rstrip for token in added
    ):
        return None
    splits, forms = list(_steps(tokenizer.pre_tokenizer)), list(_steps(tokenizer.normalizer))
    if not _KEEP_TEXT.issuperset(step["type"] for step in (*splits, *forms)):
        return None
    if any(step.get("behavior") == "Removed" for step in splits):
        return None
    most = max(map(len, (*spelt, *(token.content.encode() for token in added))))
    return most * CHARACTERS_PER_NFC_BYTE if any(step["type"] == "NFC" for step in forms) else most


def byte_alphabet() -> list[str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    alphabet: list[str] = []
    unprintable = 0
    for byte in range(256):
        if byte in printable:
            alphabet.append(chr(byte))
        else:
            alphabet.append(chr(256 + unprintable))
            unprintable += 1
    return alphabet
