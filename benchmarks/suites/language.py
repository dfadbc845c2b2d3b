"""Base of the suites that train on text: a pair's model and text, held-out scoring, and proof of causality.

The judge sends batches of training text and, apart from them, held-out sequences, for which a side answers with logits.
Their loss is computed here, in double precision: nothing that a side says about its own loss counts. Held-out sequences
are fresh every time, so none can be learnt by heart, and a model that looks at the future is found by changing the future:
the logits of what came before must stay. The shipped stack may be patched in all of `model/`, its recipe included.

Imports numpy and the oracle's arithmetic; neither torch nor a clock.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue.training import TEXT_VOCAB
from benchmarks.oracle.decoder_backward import log_softmax
from benchmarks.oracle.transformer import Ids
from benchmarks.suites import grammar
from benchmarks.suites.base import (
    SAMPLES,
    Array,
    Problem,
    Suite,
    Tensors,
    TensorSpec,
    Tolerance,
    TrialSides,
)
from benchmarks.suites.decoder_problem import model_config
from benchmarks.suites.text import SecretText, windows
from benchmarks.suites.train_step import training_weights

NANO = 1_000_000_000

# How far the logits of a prefix may move when what follows it changes: root mean square of the difference over that of the
# logits, rows centred. Those of the shipped stack are equal to the bit, with bfloat16 inside too; kernels that sum in
# another order for other neighbours have room. One step on the very sequences that are scored moves them by 2 to 3 %.
CAUSAL_PPB = 5_000_000
NO_TOLERANCE = Tolerance(
    rms_ppb=0, peak_ppb=0
)  # answers of two sides are never compared: each trains its own way


class LanguageProblem(Problem):
    """A transformer and a secret language. A step's input is `tokens` [B, S]; scoring's is `held_out` [H, S]."""

    def __init__(self, shape: dict[str, int], rng: np.random.Generator) -> None:
        self.shape = shape
        self.weights = training_weights(shape, rng)
        self.config = model_config(shape)
        self.outputs = (TensorSpec("loss", "float32", (1,)),)
        self.scored = (TensorSpec("logits", "float32", (shape["held_out"], shape["tokens"], shape["vocab"])),)
        self.floor_flops = 0  # a patch may come to the same loss with fewer steps, and with smaller ones
        self.text = SecretText(rng, training=shape["training_ids"], held_out=shape["held_out_ids"])
        self._bigram = bigram_surprise(self.text.training)

    def batch(self, rng: np.random.Generator) -> Tensors:
        return {"tokens": windows(self.text.training, rng, self.shape["sequences"], self.shape["tokens"])}

    def unseen(self, rng: np.random.Generator) -> Ids:
        """Held-out sequences [H, S + 1]; the last id of each is never sent."""
        return windows(self.text.held_out, rng, self.shape["held_out"], self.shape["tokens"] + 1)

    def changed(self, rng: np.random.Generator, ids_HS: Ids) -> tuple[Ids, Ids]:
        """The same sequences up to a place of each, [H], from which on they are other text."""
        count, length = ids_HS.shape
        place_H = rng.integers(length // 4, length, size=count)
        other_HS = windows(self.text.held_out, rng, count, length)
        changed = np.where(np.arange(length) < place_H[:, None], ids_HS, other_HS)
        row = np.arange(count)
        moved = rng.integers(1, TEXT_VOCAB, size=count)  # the first one differs for certain
        changed[row, place_H] = (ids_HS[row, place_H] + moved) % TEXT_VOCAB
        return changed, place_H

    def bigram_loss(self, ids: Ids) -> float:
        """Loss in nats per id of a bigram table, which predicts each id from the one before it."""
        return float(self._bigram[ids[:, :-1], ids[:, 1:]].mean())

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        return self.batch(rng)

    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        raise TypeError("what training leads to has no exact answer: a trial scores it")

    plain = exact


def bigram_surprise(text: Ids) -> Array:
    """-ln of each id's chance after each other one [V, V], smoothed towards the ids' own frequencies."""
    single_V = np.bincount(text, minlength=TEXT_VOCAB) + 0.5
    single_V = single_V / single_V.sum()
    pair_VV = np.zeros((TEXT_VOCAB, TEXT_VOCAB))
    np.add.at(pair_VV, (text[:-1], text[1:]), 1)
    kinds_V1 = (pair_VV > 0).sum(axis=1, keepdims=True) + 1
    surprise: Array = -np.log(
        (pair_VV + kinds_V1 * single_V) / (pair_VV.sum(axis=1, keepdims=True) + kinds_V1)
    )
    return surprise


@dataclass(frozen=True)
class Score:
    """Score of one side's logits: nats [H, S] of each next id; nanoseconds of the calls that gave them."""

    nats_HS: Array
    elapsed_ns: int

    @property
    def loss(self) -> float:
        return float(self.nats_HS.mean())


class Scoring:
    """Scores both sides on held-out text, one fresh batch after the other."""

    def __init__(self, problem: LanguageProblem, sides: TrialSides) -> None:
        self._problem, self._sides = problem, sides

    def once(self, name: str, ids: Ids) -> Score:
        """One call with all of a batch but the last ids."""
        logits, elapsed_ns = self._ask(name, ids[:, :-1])
        self._sides.checked(with_oracle=False)
        return Score(nats(logits, ids[:, 1:]), elapsed_ns)

    def proven(self, name: str, ids: Ids, rng: np.random.Generator, *, is_changed_first: bool) -> Score:
        """Score with two calls, in either order: the batch, and the batch with another future.

        Raises the sides' failure where logits of the common past differ: then they depended on the future. A side
        does not know which of the two it has before it, so it cannot be honest in one of them only.
        """
        changed, place_H = self._problem.changed(rng, ids[:, :-1])
        first, second = (changed, ids[:, :-1]) if is_changed_first else (ids[:, :-1], changed)
        (one, one_ns), (two, two_ns) = self._ask(name, first), self._ask(name, second)
        off_ppb = common_past_ppb(one, two, place_H)
        self._sides.checked(with_oracle=True)
        if off_ppb > CAUSAL_PPB:
            raise self._sides.fail(
                "wrong_output",
                name,
                f"uses future tokens: where only the text after a position was changed, the logits before it moved by "
                f"{off_ppb / 1e7:.2g} % of their size (allowed {CAUSAL_PPB / 1e7:.2g} %)",
            )
        return Score(nats(two if is_changed_first else one, ids[:, 1:]), one_ns + two_ns)

    def _ask(self, name: str, ids: Ids) -> tuple[Array, int]:
        inputs = {"held_out": np.ascontiguousarray(ids)}
        answers, elapsed_ns = self._sides.call(name, inputs, self._problem.scored)
        return answers["logits"], elapsed_ns


def nats(logits_HSV: Array, next_HS: Ids) -> Array:
    """-ln of the chance that the logits give to each next id, in double precision."""
    log_p = log_softmax(logits_HSV.astype(np.float64))
    surprise: Array = -np.take_along_axis(log_p, next_HS[..., None], axis=-1)[..., 0]
    return surprise


def common_past_ppb(one_HSV: Array, two_HSV: Array, place_H: Ids) -> int:
    """Distance of two answers' logits before the place of each row, parts per billion of their size.

    The larger of two figures: over all of them, and over the last ones alone, which attention to the next id moves most.
    """
    one, two = (value.astype(np.float64) for value in (one_HSV, two_HSV))
    one, two = one - one.mean(axis=-1, keepdims=True), two - two.mean(axis=-1, keepdims=True)
    position = np.arange(one.shape[1])
    is_past, is_last = position < place_H[:, None], position == place_H[:, None] - 1
    parts = []
    for where in (is_past, is_last):
        size = float(np.sqrt(np.mean(np.square(one[where])))) or 1.0
        parts.append(float(np.sqrt(np.mean(np.square(one[where] - two[where])))) / size)
    return int(min(max(parts), 1e6) * NANO)


@dataclass(frozen=True)
class LanguageSuite(Suite):
    """A suite whose sides train through `language_sample.py`."""

    @property
    def sample_module(self) -> Path:
        return SAMPLES / "language_sample.py"

    @property
    def sample_helpers(self) -> tuple[Path, ...]:
        return (SAMPLES / "training_models.py",)

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> LanguageProblem:
        return LanguageProblem(shape, rng)

    def describe(self) -> dict[str, Any]:
        """The suite with the rules that its text is drawn by: figures of different rules do not compare."""
        return super().describe() | {
            "corpus": {
                "name": "documents of a secret language, drawn for each pair",
                "version": grammar.VERSION,
            }
        }
