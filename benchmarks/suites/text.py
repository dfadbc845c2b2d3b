"""Secret text for the training suites: real text that every machine has, respelled so that no one has seen it.

The text is Python's own standard library. Its sources are in every sandbox that runs Python, so a split into training
and held-out files alone would keep nothing secret. Hence each pair reads another language: every word is replaced,
everywhere by the same secret word made of secret syllables, and ids are a secret permutation of the characters. Grammar,
indentation, names that come back: what a model can learn stays. What it could look up does not.

Other versions of Python have other texts: `Corpus.sha256` is in the evidence, and both sides of a pair always read the
same. Knows numpy, no torch and no models.
"""

import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.catalogue.training import TEXT_VOCAB
from benchmarks.oracle.transformer import Ids

UNKNOWN = 127  # of all other characters
HELD_OUT_SHARE = 8  # one file in so many is held out
LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}
)
WORD = re.compile(rb"[A-Za-z]{2,}")
SYLLABLES = 96


@dataclass(frozen=True)
class Corpus:
    """The files that text is drawn from, by their paths below `root`."""

    root: Path
    files: tuple[str, ...]
    sha256: str  # over paths and contents
    size_bytes: int


@cache
def standard_library() -> Corpus:
    """Python's own sources, without tests and tables of characters."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(_sources(root))
    digest, size = hashlib.sha256(), 0
    for name in files:
        data = (root / name).read_bytes()
        size += len(data)
        digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    return Corpus(root, tuple(files), digest.hexdigest(), size)


def _sources(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name for name in folders if name not in LEFT_OUT
        ]  # installed packages are not walked through
        for name in names:
            if name.endswith(".py"):
                yield str((Path(folder) / name).relative_to(root))


class SecretLanguage:
    """One pair's spelling and ids."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._key = rng.bytes(32)
        self._ids = rng.permutation(TEXT_VOCAB)
        vowels, consonants = b"aeiou", b"bcdfghjklmnpqrstvwxz"
        shapes = rng.integers(len(consonants), size=SYLLABLES), rng.integers(len(vowels), size=SYLLABLES)
        self._syllables = [consonants[c : c + 1] + vowels[v : v + 1] for c, v in zip(*shapes, strict=True)]
        self._words: dict[bytes, bytes] = {}

    def translate(self, text: bytes) -> Ids:
        """Source text to ids."""
        respelled = np.frombuffer(WORD.sub(lambda found: self._word(found[0]), text), dtype=np.uint8)
        ids: Ids = self._ids[np.minimum(respelled, UNKNOWN)]
        return ids

    def is_held_out(self, name: str) -> bool:
        """Say if a file is held out; which ones are is secret as well."""
        return hashlib.sha256(self._key + b"file" + name.encode()).digest()[0] % HELD_OUT_SHARE == 0

    def _word(self, word: bytes) -> bytes:
        """The same for the same letters, in the case of the original; of another length most of the time."""
        small = word.lower()
        if small not in self._words:
            digest = hashlib.sha256(self._key + b"word" + small).digest()
            count = max(1, (len(small) + digest[0] % 3) // 2)
            self._words[small] = b"".join(
                self._syllables[part % SYLLABLES] for part in hashlib.shake_128(digest).digest(count)
            )
        spelled = self._words[small]
        if word.isupper():
            return spelled.upper()
        return spelled.capitalize() if word[:1].isupper() else spelled


class SecretText:
    """Training text and held-out text of one pair, as ids. Files are never in both."""

    def __init__(self, rng: np.random.Generator, *, training: int, held_out: int) -> None:
        """Read at least so many ids of each. Raises ValueError where the corpus has fewer."""
        self.language = SecretLanguage(rng)
        corpus = standard_library()
        order = [corpus.files[number] for number in rng.permutation(len(corpus.files))]
        self.training = self._read(corpus, [f for f in order if not self.language.is_held_out(f)], training)
        self.held_out = self._read(corpus, [f for f in order if self.language.is_held_out(f)], held_out)

    def _read(self, corpus: Corpus, files: list[str], count: int) -> Ids:
        parts: list[Ids] = []
        have = 0
        for name in files:
            parts.append(self.language.translate((corpus.root / name).read_bytes()))
            have += parts[-1].size
            if have >= count:
                return np.concatenate(parts)
        raise ValueError(
            f"Python's standard library at {corpus.root} holds {corpus.size_bytes} bytes of text, not enough for "
            f"{count} ids: install its sources (Debian: libpython3-stdlib)"
        )


def windows(text: Ids, rng: np.random.Generator, count: int, length: int) -> Ids:
    """[count, length] ids from places drawn at random."""
    starts = rng.integers(text.size - length + 1, size=count)
    drawn: Ids = text[starts[:, None] + np.arange(length)]
    return drawn
