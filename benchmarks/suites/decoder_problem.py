"""Secret small transformers and secret token ids for them: what the inference suites have in common.

A problem answers with the logits after the last id of each sequence. Ids are drawn so that no token's choice of experts
depends on rounding, at any layer: else two right implementations could answer differently. Imports numpy and the oracle, no
torch, and not what is timed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.oracle import transformer as oracle
from benchmarks.suites.base import Array, Exchange, Problem, Tensors, TensorSpec

Ids = NDArray[np.int64]

# Tokens whose choice of experts depends on less than this, in any layer, are drawn again: rounding may decide them either
# way. Single-precision margins were off by at most 1.3e-5 in 4 layers and 3.9e-5 in 8 (4,000 tokens each, of up to 1,000
# positions). One token in 4,000 is drawn again with 4 layers, one in 500 with 8 and one in 200 with 32 experts, top-4.
MIN_MARGIN = 1e-4

ROPE_THETA = 10_000
NORM_EPS_PPB = 10_000  # 1e-5

# Queries of random weights have nearly equal scores everywhere, and attention would only average: then an answer would
# hardly show what a sequence's past was. Three times the size makes it choose.
QUERY_SCALE = 3.0


class Reading(NamedTuple):
    """Result of reading sequences to their ends."""

    logits_BV: Array  # after each sequence's last id
    unclear: dict[int, int]  # sequence -> its first position whose choice of experts is not clear


class Reader:
    """Reads sequences in one precision; what a sequence shares with the last one in its place is not read again."""

    def __init__(self, weights: Tensors, config: oracle.DecoderConfig, places: int) -> None:
        self._weights, self._config = weights, config
        self._pasts = [oracle.Past(config) for _ in range(places)]
        self._held: list[Ids] = [np.empty(0, np.int64)] * places

    def read(self, sequences: list[Ids]) -> Reading:
        starts = []
        for past, held, ids in zip(self._pasts, self._held, sequences, strict=True):
            starts.append(min(_shared(held, ids), len(ids) - 1))  # the last id is read for its logits
            past.truncate(starts[-1])
        parts = [ids[start:] for ids, start in zip(sequences, starts, strict=True)]
        hidden_TD, margin_T = oracle.read(self._pasts, parts, self._weights, self._config)
        self._held = [ids.copy() for ids in sequences]
        ends = np.cumsum([len(part) for part in parts])
        unclear = {}
        for place, (start, part, end) in enumerate(zip(starts, parts, ends, strict=True)):
            (places,) = np.nonzero(margin_T[end - len(part) : end] < MIN_MARGIN)
            if places.size:
                unclear[place] = start + int(places[0])
        return Reading(oracle.logits(hidden_TD[ends - 1], self._weights), unclear)


def _shared(first: Ids, second: Ids) -> int:
    """Number of ids that two sequences have in common from their beginning."""
    length = min(len(first), len(second))
    (differs,) = np.nonzero(first[:length] != second[:length])
    return int(differs[0]) if differs.size else length


class DecoderProblem(Problem):
    """One transformer and `places` sequences at a time. Subclasses say what a turn adds to which sequences.

    Inputs of a message: `ids` [T], the new ids of its sequences one after the other; `lengths` [B], how many are whose;
    `places` [B], whose they are; `is_new` [1], whether the sequences begin with them (1) or continue (0). The answer is
    `logits` [B, V]. The sequences of a message advance together, as one batch that is the call. Those that advance alone
    (dimension `together` 0) have a message each.
    """

    def __init__(self, shape: dict[str, int], rng: np.random.Generator, places: int) -> None:
        self.shape, self.places = shape, places
        self.config = model_config(shape)
        self.weights = draw_weights(shape, rng)
        self.outputs = (TensorSpec("logits", "float32", (places, shape["vocab"])),)
        self.redrawn = 0  # ids whose choice of experts was not clear
        self._exact_weights: Tensors | None = None
        self._plain_reader = Reader(self.weights, oracle_config(shape), places)
        self._exact_reader: Reader | None = None
        self._asked: dict[tuple[int, bool], list[Ids]] = {}
        self._plain: dict[tuple[int, bool], Array] = {}
        self._sequences: list[Ids] = [np.empty(0, np.int64)] * places

    def begin(self, rng: np.random.Generator, turn: int, lengths: list[int]) -> Tensors:
        """Inputs of a call that begins a sequence of fresh ids in each place."""
        self._sequences = [np.empty(0, np.int64)] * self.places
        return self._extend(rng, turn, lengths, is_new=True)

    def add_ids(self, rng: np.random.Generator, turn: int) -> Tensors:
        """Inputs of a call that adds one fresh id to each sequence."""
        return self._extend(rng, turn, [1] * self.places, is_new=False)

    def _extend(self, rng: np.random.Generator, turn: int, counts: list[int], *, is_new: bool) -> Tensors:
        vocab = self.shape["vocab"]
        sequences = [
            np.concatenate((ids, rng.integers(vocab, size=count)))
            for ids, count in zip(self._sequences, counts, strict=True)
        ]
        while True:
            logits_BV, unclear = self._plain_reader.read(sequences)
            for place, position in unclear.items():
                sequences[place][position] = rng.integers(vocab)
            self.redrawn += len(unclear)
            if not unclear:
                break
        self._sequences = sequences
        self._asked[turn, is_new], self._plain[turn, is_new] = sequences, logits_BV
        return {
            "ids": np.concatenate([ids[-count:] for ids, count in zip(sequences, counts, strict=True)]),
            "lengths": np.array(counts, np.int64),
            "places": np.arange(self.places),
            "is_new": np.array([is_new], np.int64),
        }

    def exchanges(self, inputs: Tensors) -> tuple[Exchange, ...]:
        if self.shape.get("together", 1):
            return super().exchanges(inputs)
        ends = np.cumsum(inputs["lengths"])
        answer = (TensorSpec("logits", "float32", (1, self.shape["vocab"])),)
        return tuple(
            Exchange(
                {
                    "ids": inputs["ids"][end - length : end],
                    "lengths": np.array([length]),
                    "places": np.array([place]),
                    "is_new": inputs["is_new"],
                },
                answer,
            )
            for end, length, place in zip(ends, inputs["lengths"], inputs["places"], strict=True)
        )

    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        if self._exact_reader is None:
            double = {name: value.astype(np.float64) for name, value in self.weights.items()}
            self._exact_reader = Reader(double, oracle_config(self.shape), self.places)
        return {"logits": self._exact_reader.read(self._asked[turn, bool(inputs["is_new"][0])]).logits_BV}

    def plain(self, inputs: Tensors, turn: int) -> Tensors:
        return {"logits": self._plain[turn, bool(inputs["is_new"][0])]}


def oracle_config(shape: dict[str, int]) -> oracle.DecoderConfig:
    return oracle.DecoderConfig(
        n_layers=shape["n_layers"],
        n_heads=shape["n_heads"],
        n_kv_heads=shape["n_kv_heads"],
        d_head=shape["d_head"],
        top_k=shape["top_k"],
        rope_theta=float(ROPE_THETA),
        norm_eps=NORM_EPS_PPB / 1e9,
    )


def model_config(shape: dict[str, int]) -> dict[str, int | str]:
    """Values of which the sandboxed half makes the stack's configuration: whole numbers and text only."""
    names = (
        "n_layers",
        "n_heads",
        "n_kv_heads",
        "d_head",
        "d_model",
        "d_ff",
        "d_expert",
        "n_experts",
        "top_k",
    )
    return {
        **{name: shape[name] for name in (*names, "n_shared", "first_moe_layer", "tied", "max_context")},
        "vocab_size": shape["vocab"],
        "rope_theta": ROPE_THETA,
        "norm_eps_ppb": NORM_EPS_PPB,
    }


def draw_weights(shape: dict[str, int], rng: np.random.Generator) -> Tensors:
    """Single-precision weights under the stack's parameter names, scaled so that every layer counts."""
    d_model, d_expert, experts = shape["d_model"], shape["d_expert"], shape["n_experts"]
    d_query, d_key = shape["n_heads"] * shape["d_head"], shape["n_kv_heads"] * shape["d_head"]

    def normal(*size: int, scale: float = 1.0) -> Array:
        values = rng.standard_normal(size, dtype=np.float32)
        values *= np.float32(scale * size[-1] ** -0.5)
        return values

    def around_one(size: int) -> Array:
        return rng.uniform(0.5, 1.5, size).astype(np.float32)

    weights: Tensors = {"embedding": normal(shape["vocab"], d_model, scale=d_model**0.5)}
    for layer in range(shape["n_layers"]):
        own: Tensors = {
            "attention_norm.weight": around_one(d_model),
            "attention.w_q": normal(d_query, d_model, scale=QUERY_SCALE),
            "attention.w_k": normal(d_key, d_model),
            "attention.w_v": normal(d_key, d_model),
            "attention.w_o": normal(d_model, d_query),
            "ffn_norm.weight": around_one(d_model),
        }
        prefix, width = "ffn.", shape["d_ff"]
        if layer >= shape["first_moe_layer"]:
            prefix, width = "ffn.shared.", shape["n_shared"] * d_expert
            own |= {
                "ffn.router.weight": normal(experts, d_model),
                "ffn.experts.w_gate": normal(experts, d_expert, d_model),
                "ffn.experts.w_up": normal(experts, d_expert, d_model),
                "ffn.experts.w_down": normal(experts, d_model, d_expert),
            }
        if width:
            own |= {
                f"{prefix}w_gate": normal(width, d_model),
                f"{prefix}w_up": normal(width, d_model),
                f"{prefix}w_down": normal(d_model, width),
            }
        weights |= {f"layers.{layer}.{name}": value for name, value in own.items()}
    weights["norm.weight"] = around_one(d_model)
    if not shape["tied"]:
        weights["head"] = normal(shape["vocab"], d_model)
    return weights


def active_parameters(shape: dict[str, int]) -> int:
    """Weights that every token is multiplied with, up to the last norm; the head counts once per answer."""
    d_model = shape["d_model"]
    attention = 2 * d_model * shape["d_head"] * (shape["n_heads"] + shape["n_kv_heads"])
    dense = min(shape["first_moe_layer"], shape["n_layers"])
    width = (shape["top_k"] + shape["n_shared"]) * shape["d_expert"]
    moe = 3 * d_model * width + shape["n_experts"] * d_model
    return (
        shape["n_layers"] * attention
        + dense * 3 * d_model * shape["d_ff"]
        + (shape["n_layers"] - dense) * moe
    )


def head_parameters(shape: dict[str, int]) -> int:
    return shape["vocab"] * shape["d_model"]
