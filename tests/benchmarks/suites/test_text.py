"""Secret text: real, the same for the same secret, split by files, and not to be looked up anywhere."""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.catalogue.training import TEXT_VOCAB
from benchmarks.pairs.seeds import Seeds
from benchmarks.suites import text
from benchmarks.suites.text import SecretLanguage, SecretText, standard_library, windows

pytestmark = pytest.mark.slow

SECRET = bytes(range(32))
SOURCE = b"def width(self):\n    return self.width + WIDTH  # Width of the xylophone\n"


def rng(number: int = 0) -> np.random.Generator:
    return Seeds(SECRET).numbers("text", number)


def spelled(language: SecretLanguage, source: bytes) -> bytes:
    """The original text, for a reader who knows the secret permutation."""
    return bytes(np.argsort(language._ids)[language.translate(source)].astype(np.uint8))


def test_the_corpus_is_large_without_tests_and_has_one_hash() -> None:
    corpus = standard_library()
    assert corpus.size_bytes > 5_000_000 and len(corpus.files) > 300
    assert not any("test" in name.split("/") or "site-packages" in name for name in corpus.files)
    assert corpus is standard_library() and len(corpus.sha256) == 64


def test_words_are_replaced_everywhere_by_the_same_word_in_their_own_case() -> None:
    words = spelled(SecretLanguage(rng()), SOURCE).split()
    _, head, _, first, plus, second, _, third, *_ = words
    width = first.split(b".")[1]
    assert plus == b"+" and first.split(b".")[0] in head  # self
    assert second == width.upper() and third == width.capitalize() and head.startswith(width)
    assert b"width" not in b" ".join(words).lower()


def test_punctuation_indentation_and_line_ends_stay() -> None:
    kept = bytes(byte for byte in spelled(SecretLanguage(rng()), SOURCE) if not chr(byte).isalpha())
    assert kept == bytes(byte for byte in SOURCE if not chr(byte).isalpha())


def test_two_pairs_read_different_languages_and_one_pair_always_the_same() -> None:
    first, again, other = (SecretLanguage(rng(number)) for number in (0, 0, 1))
    np.testing.assert_array_equal(first.translate(SOURCE), again.translate(SOURCE))
    assert spelled(first, SOURCE) != spelled(other, SOURCE)
    assert (first._ids != other._ids).mean() > 0.9


def test_ids_are_a_permutation_of_characters_and_foreign_ones_share_one() -> None:
    language = SecretLanguage(rng())
    ids = language.translate(bytes(range(256)))
    assert ids.dtype == np.int64 and ids.min() >= 0 and ids.max() < TEXT_VOCAB
    assert sorted(np.unique(language._ids)) == list(range(TEXT_VOCAB))
    assert len(set(ids[-128:])) == 1


def test_training_and_held_out_text_come_from_different_files() -> None:
    language = SecretLanguage(rng())
    held_out = [name for name in standard_library().files if language.is_held_out(name)]
    assert 0.06 < len(held_out) / len(standard_library().files) < 0.2
    other = SecretLanguage(rng(1))
    assert held_out != [name for name in standard_library().files if other.is_held_out(name)]


def test_held_out_text_cannot_be_looked_up_even_by_one_who_knows_the_permutation() -> None:
    """Of windows of twenty characters that hold a word, next to none is in the sources that a sandbox can read."""
    secret = SecretText(rng(), training=20_000, held_out=60_000)
    corpus = standard_library()
    everything = b"\n".join((corpus.root / name).read_bytes() for name in corpus.files)
    readable = bytes(np.argsort(secret.language._ids)[secret.held_out].astype(np.uint8))
    windows_of_20 = [readable[place : place + 20] for place in range(0, len(readable) - 20, 97)]
    worded = [window for window in windows_of_20 if sum(chr(byte).isalpha() for byte in window) >= 8]
    assert len(worded) > 150
    assert sum(window in everything for window in worded[:250]) <= 5
    assert everything[5_000_000:5_000_020] in everything and not secret.language.translate(b"").size


def test_text_is_as_long_as_asked_for_and_a_corpus_too_small_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = SecretText(rng(), training=30_000, held_out=9_000)
    assert secret.training.size >= 30_000 and secret.held_out.size >= 9_000
    few = text.Corpus(standard_library().root, standard_library().files[:3], "", 1)
    monkeypatch.setattr(text, "standard_library", lambda: few)
    with pytest.raises(ValueError, match="install its sources"):
        SecretText(rng(), training=10_000_000, held_out=1)


def test_windows_are_stretches_of_the_text_drawn_again() -> None:
    ids = np.arange(1_000)
    drawn = windows(ids, np.random.default_rng(0), 50, 7)
    assert drawn.shape == (50, 7)
    assert all((after - before == 1).all() for before, after in pairwise(drawn.T))
    assert len({int(start) for start in drawn[:, 0]}) > 40
    assert windows(ids[:7], np.random.default_rng(0), 3, 7).max() == 6
