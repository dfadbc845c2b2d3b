"""Secret text: the same for the same secret, another for another, and in no file of any sandbox."""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.catalogue.training import TEXT_VOCAB
from benchmarks.oracle.transformer import Ids
from benchmarks.pairs.seeds import Seeds
from benchmarks.suites.grammar import ADJECTIVES, BRACKETS, Grammar
from benchmarks.suites.language import LanguageProblem, Scoring, bigram_surprise
from benchmarks.suites.quality import quality
from benchmarks.suites.text import SecretText, windows
from tests.benchmarks.suites.language_sides import InProcessSides
from tests.benchmarks.suites.suite_pairs import Trees, draw
from tests.benchmarks.suites.walked_sample import WalkedSample

pytestmark = pytest.mark.slow

SECRET = bytes(range(32))
PIECE_BYTES = 32


def rng(number: int = 0) -> np.random.Generator:
    return Seeds(SECRET).numbers("text", number)


def secret_text(number: int = 0) -> SecretText:
    return SecretText(rng(number), training=60_000, held_out=30_000)


def readable(text: SecretText, ids: Ids) -> str:
    """The original, for a reader who knows the secret permutation."""
    return bytes(np.argsort(text.ids)[ids].astype(np.uint8)).decode("ascii")


def test_the_same_secret_draws_the_same_text_and_another_secret_another_language() -> None:
    first, again, other = (secret_text(number) for number in (0, 0, 1))
    np.testing.assert_array_equal(first.training, again.training)
    np.testing.assert_array_equal(first.held_out, again.held_out)
    words, others = (set(readable(each, each.training).lower().split()) for each in (first, other))
    assert len(words & others) < len(words) / 10


def test_text_is_as_long_as_asked_for_and_of_the_vocabulary() -> None:
    text = secret_text()
    assert text.training.size >= 60_000 and text.held_out.size >= 30_000
    assert text.training.dtype == np.int64
    assert text.training.min() >= 0 and text.training.max() < TEXT_VOCAB
    assert sorted(text.ids) == list(range(TEXT_VOCAB))


def test_no_line_of_held_out_text_is_in_training_text() -> None:
    """Some short ones may be; none that says something."""
    text = secret_text()
    trained = readable(text, text.training)
    lines = [line for line in readable(text, text.held_out).split("\n") if len(line) >= PIECE_BYTES]
    assert len(lines) > 100
    assert not any(line in trained for line in lines)


def test_held_out_pieces_are_not_in_training_text() -> None:
    text = secret_text()
    trained, held_out = readable(text, text.training), readable(text, text.held_out)
    pieces = [held_out[at : at + PIECE_BYTES] for at in range(0, len(held_out) - PIECE_BYTES, 61)]
    assert sum(piece in trained for piece in pieces) <= len(pieces) // 100


def test_there_is_something_near_and_far_to_learn() -> None:
    """A bigram table knows much more than single characters, and names come back in their document only."""
    text = secret_text()
    chance = np.bincount(text.training, minlength=TEXT_VOCAB) / text.training.size
    single = -np.log(chance[text.held_out]).mean()
    bigram = bigram_surprise(text.training)[text.held_out[:-1], text.held_out[1:]].mean()
    assert single - bigram > 0.5
    documents = readable(text, text.held_out).split("\n\n\n")[:-1]
    firsts = [document.strip().split("\n")[0] for document in documents]
    assert len(set(firsts)) > 0.9 * len(firsts)
    assert np.mean([document.count(name) > 2 for document, name in zip(documents, firsts, strict=True)]) > 0.6


def test_endings_agree_and_brackets_close() -> None:
    grammar = Grammar(random.Random(3))
    text = "".join(
        document for document, _ in zip(grammar.documents(random.Random(4)), range(60), strict=False)
    )
    for opening, closing in BRACKETS:
        assert text.count(opening) == text.count(closing)
    assert sum(text.count(opening) for opening, _ in BRACKETS) > 20
    assert len(grammar._adjectives.forms) == ADJECTIVES
    singular, plural = grammar._endings["adjective"]
    assert all(
        one[: len(one) - len(singular)] == two[: len(two) - len(plural)]
        for one, two in grammar._adjectives.forms
    )


def test_few_words_come_often_and_many_seldom() -> None:
    text = secret_text()
    counts = sorted(Counter(readable(text, text.training).lower().split()).values(), reverse=True)
    assert counts[0] > 50 * counts[len(counts) // 2]
    assert len(counts) > 1_000


def test_windows_are_stretches_of_the_text_drawn_again() -> None:
    ids = np.arange(1_000)
    drawn = windows(ids, np.random.default_rng(0), 50, 7)
    assert drawn.shape == (50, 7)
    assert all((after - before == 1).all() for before, after in pairwise(drawn.T))
    assert len({int(start) for start in drawn[:, 0]}) > 40
    assert windows(ids[:7], np.random.default_rng(0), 3, 7).max() == 6


# -- a whole sandbox ------------------------------------------------------------------------------

STEP = "model/training/run/trainer.py:Trainer.step"
BITS = 24
EVERY = 16  # bytes between two places of a file at which a piece is looked up


@pytest.mark.long
@pytest.mark.sandbox
@pytest.mark.timeout(1800)
def test_no_file_of_a_whole_sandbox_has_32_bytes_of_held_out_text(open_folder: Path) -> None:
    """While a batch is trained on: of the text as it is written, and of its ids as bytes.

    Not of ids in eight bytes each: 32 bytes are four of them then, which a binary has by chance.
    """
    suite = quality("tiny")
    suite = replace(suite, time_limits=replace(suite.time_limits, call_ms=1_500_000))
    problem = draw(suite)
    sample = WalkedSample(suite, problem, Trees(open_folder), [STEP])
    batch = problem.draw_inputs(rng(), 0)
    searched: list[int] = []
    with sample.started():
        sample.stops(
            problem.exchanges(batch), at_stop=lambda root: searched.append(search(root, problem.text))
        )
    assert searched and searched[0] > 200_000_000  # the interpreter, torch, the tree


def search(root: Path, text: SecretText) -> int:
    """Bytes of files below `root`. Fails where one has a piece of the held-out text at any place."""
    pieces = Pieces(
        [
            readable(text, text.held_out).encode("ascii"),
            text.held_out.astype(np.uint8).tobytes(),
        ]
    )
    assert pieces.found_in(b"before " + readable(text, text.held_out)[777:900].encode())  # it does find one
    total = 0
    for path in files_below(root):
        data = path.read_bytes()
        assert not pieces.found_in(data), path
        total += len(data)
    return total


class Pieces:
    """All pieces of 32 bytes of some texts, found wherever they begin in a file.

    A file is cut into blocks of 16 bytes: a piece of 32 bytes holds a whole block, wherever it begins. So the blocks are
    looked up among all stretches of 16 bytes of the texts, and what is found is compared at its full length.
    """

    def __init__(self, texts: list[bytes]) -> None:
        self._texts = texts
        stretches = [
            np.ascontiguousarray(
                np.lib.stride_tricks.sliding_window_view(np.frombuffer(text, np.uint8), EVERY)
            )
            for text in texts
        ]
        self._known = np.unique(np.concatenate([hashed(each) for each in stretches]))
        self._may_be = np.zeros(
            1 << BITS, bool
        )  # most blocks are told from all stretches by a few bits of their hash
        self._may_be[self._known >> np.uint64(64 - BITS)] = True

    def found_in(self, data: bytes) -> bool:
        whole = len(data) // EVERY * EVERY
        if whole == 0:
            return False
        hashes = hashed(np.frombuffer(data, np.uint8, whole).reshape(-1, EVERY))
        (likely,) = np.nonzero(self._may_be[hashes >> np.uint64(64 - BITS)])
        at = np.searchsorted(self._known, hashes[likely])
        hits = likely[self._known[np.minimum(at, self._known.size - 1)] == hashes[likely]]
        return any(self._holds_piece(data, int(hit) * EVERY) for hit in hits)

    def _holds_piece(self, data: bytes, block: int) -> bool:
        """Whether some 32 bytes around this block are in a text, and are more than one character repeated."""
        for start in range(max(0, block - EVERY), block + 1):
            piece = data[start : start + PIECE_BYTES]
            if (
                len(piece) == PIECE_BYTES
                and len(set(piece)) > 4
                and any(piece in text for text in self._texts)
            ):
                return True
        return False


def hashed(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """A 64-bit hash of each row of 16 bytes."""
    halves = rows.view("<u8")
    low, high = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15), halves[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed: np.ndarray = (low ^ (high >> np.uint64(29))) * np.uint64(0x165667B19E3779F9) + high  # type: ignore[type-arg]
    return mixed


def files_below(root: Path) -> Iterator[Path]:
    """All ordinary files of a sandbox: devices and the kernel's own are left out."""
    for folder, folders, names in os.walk(root):
        if Path(folder) == root:
            folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


# -- models of three sizes ------------------------------------------------------------------------

SIZES = (
    {"d_model": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "d_ff": 32, "d_expert": 32},
    {"d_model": 64, "n_layers": 2, "d_expert": 64},
    {"d_model": 128, "n_layers": 3, "d_ff": 128, "d_head": 32, "d_expert": 128},
)
LANGUAGES, STEPS, SCORED = (1, 2), 150, 6


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_larger_of_three_models_has_the_lower_held_out_loss() -> None:
    """The shipped recipe, the same steps, the mean of two languages: 2.12, 1.93 and 1.84 nats when this was written."""
    small, middle, large = np.mean([losses_of_all_sizes(number) for number in LANGUAGES], axis=0)
    assert small - middle > 0.08 and middle - large > 0.03, (small, middle, large)


def losses_of_all_sizes(number: int) -> list[float]:
    seeds, suite = Seeds(bytes([number]) * 32), quality("demo")
    shape = suite.cases[0].draw(seeds.numbers("shape"))
    losses = []
    for size in SIZES:
        problem = LanguageProblem(shape | size, seeds.numbers("p"))
        sides = InProcessSides(suite, problem)
        for step in range(STEPS):
            sides.call("base", problem.batch(seeds.numbers("b", step)), problem.outputs)
        scoring = Scoring(problem, sides)
        scored = [scoring.once("base", problem.unseen(seeds.numbers("h", at))).loss for at in range(SCORED)]
        losses.append(float(np.mean(scored)))
    return losses
