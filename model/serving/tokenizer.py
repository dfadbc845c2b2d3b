"""Text to token ids and token ids to bytes. Knows nothing of chat or of generation.

Both tokenizers are byte-level, so each ordinary token stands for fixed bytes; whole characters are put together
by `model/serving/text.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import tokenizers

TOKENIZER_FILE = "tokenizer.json"


class Tokenizer(Protocol):
    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end an answer."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which special tokens may be spelt out."""

    def encode_prompt(self, text: str) -> list[int]:
        """The same of a text that begins a sequence: with the start token of tokenizers that set one before each."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a special token. Runs of spaces, or `<think>`, are often added
        to a vocabulary without being special: they are text."""


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


class BPETokenizer:
    """A byte-level BPE tokenizer from the file of a model folder. Raises ValueError that names an unusable file."""

    def __init__(self, file: Path, stop_tokens: Sequence[int]) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception, which names no file
            raise ValueError(f"{file.name}: {error}") from error
        self._stop_tokens = frozenset(stop_tokens)
        byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        added = self._tokenizer.get_added_tokens_decoder()  # whose texts are spelt as they are
        self._bytes = {
            token: bytes(byte_of[character] for character in text)
            for text, token in self._tokenizer.get_vocab(with_added_tokens=True).items()
            if token not in added
        }
        ordinary = {token for token, given in added.items() if not given.special} - self._stop_tokens
        self._bytes |= {token: added[token].content.encode() for token in ordinary}

    @property
    def stop_tokens(self) -> frozenset[int]:
        return self._stop_tokens

    def encode(self, text: str) -> list[int]:
        return self._encoded(text, add_special_tokens=False)

    def encode_prompt(self, text: str) -> list[int]:
        return self._encoded(text, add_special_tokens=True)

    def _encoded(self, text: str, *, add_special_tokens: bool) -> list[int]:
        clean = text.encode("utf-8", errors="replace").decode("utf-8")
        # A batch, since `encode` keeps Python's lock: all other threads would stand still for a long text.
        (encoding,) = self._tokenizer.encode_batch_fast([clean], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.get(token, b"")


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
