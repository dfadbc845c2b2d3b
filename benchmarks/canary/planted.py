"""Planted words, and the forms in which a node could keep or tell one: text, hex, base64, UTF-16, token ids.

A form that is none of these, as an encrypted one, is not found: docs/reference/canary.md says what else is
against it.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.canary.texts import Count
from model.serving.api.tokenizer import Tokenizer

LEAST_IDS = 4  # fewer could come by chance
INTEGERS = ("<H", "<I", "<Q")  # little-endian ids, as arrays of numpy and torch hold them


@dataclass(frozen=True)
class Secret:
    """A word of one account's prompt, and all patterns that give it away. Patterns are lower-case where `is_folded`."""

    word: str
    folded: tuple[bytes, ...]
    exact: tuple[bytes, ...]

    def found_in(self, data: bytes) -> bool:
        """Whether the data holds the word in any form."""
        lower = data.lower()
        return any(form in lower for form in self.folded) or any(form in data for form in self.exact)


def secret_of(word: str, tokenizer: Tokenizer) -> Secret:
    """A planted word with its forms, as this model's tokenizer spells it between others."""
    plain = word.encode()
    ids = inner_ids(word, tokenizer)
    texts = [separator.join(map(str, ids)).encode() for separator in (", ", ",", " ", "\n")] if ids else []
    packed = [b"".join(struct.pack(form, one) for one in ids) for form in _forms(ids)] if ids else []
    wide = [plain.decode().encode(form) for form in ("utf-16-le", "utf-32-le")]
    return Secret(
        word,
        folded=(plain, plain[::-1], plain.hex().encode(), *wide, *texts),
        exact=(*_base64(plain), *packed),
    )


def inner_ids(word: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The word's ids without those at its ends, which depend on what is next to it; empty for too few of them."""
    ids = tuple(tokenizer.encode(f" {word}"))[1:-1]
    return ids if len(ids) >= LEAST_IDS else ()


def _forms(ids: Iterable[int]) -> Iterator[str]:
    most = max(ids)
    return (form for form in INTEGERS if most < 1 << 8 * struct.calcsize(form))


def _base64(plain: bytes) -> Iterator[bytes]:
    """The part of the base64 text that is the same whatever is before and after the word, for each of three places."""
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + plain)
        start = (8 * shift + 5) // 6
        yield whole[start : (8 * (shift + len(plain))) // 6]


def counter(tokenizer: Tokenizer) -> Count:
    """Counts a text's tokens."""

    def count(text: str) -> int:
        return len(tokenizer.encode_prompt(text))

    return count
