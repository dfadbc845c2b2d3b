"""Suite `checkpoint_load`: from a checkpoint on disk to the first logits, in single precision.

Every load has a fresh process on each side, as a node that starts: a pair is one load, so a process has no earlier load to
remember. An untimed call hands over the tensors' bytes of a fresh checkpoint, which the sample writes to its own /tmp:
safetensors, never pickle. Their order in the file is secret, and the file's header, without which no one knows which bytes
are whose, comes only with the timed call. That call loads the folder as a node does, with the stack's own loader
(`model.checkpoint.load_transformer`) and the executor that takes the weights over. When it has answered that it is loaded,
fresh prompts follow on the same clock, so that loading really happened. Weights that no token needs may stay unread: lazy
loading is a gain like others.

    sizes      `benchmarks/catalogue/decoders.py`; at most CHECKPOINT_CAP_BYTES, because the sample's /tmp holds 64 MiB
    tolerance  `decoder_suite.TOLERANCES`: single precision; bfloat16 inside fails by a factor of 1,000
    unit       ns per load; a pair's value is ln(base's / candidate's) of one load each, the gate's test on the pairs' median
    roofline   the prompts' operations as in suite `prefill`; the honest bound is reading the file from memory once
    cap        reading the bytes and the prompts' pass remain
    power      one load of 30 ms or more a pair and no median of turns, so a pair is noisier than in the kernel suites; pairs
               are short, and where the noise asks for it the gate takes 96 or 144 of them
    time       at most 10 s a pair (demo), 15 s (standard), most of it starting processes and drawing weights

Imports numpy and the oracle, not torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.catalogue import CHECKPOINT_LOAD
from benchmarks.catalogue.decoders import CHECKPOINT_CAP_BYTES, HEADER_BYTES, STEP_TOKENS
from benchmarks.catalogue.facts import spread
from benchmarks.suites.base import (
    SAMPLES,
    Array,
    Exchange,
    Problem,
    Suite,
    Tensors,
    TensorSpec,
    sized,
)
from benchmarks.suites.decoder_problem import DecoderProblem, model_config
from benchmarks.suites.decoder_suite import TOLERANCES
from benchmarks.suites.prefill import prefill_flops

LOADED = TensorSpec("loaded", "int64", (1,))


class Checkpoint(DecoderProblem):
    """One checkpoint and its prompts."""

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        return self.begin(rng, turn, spread(self.shape["tokens"], self.places))


class CheckpointLoadProblem(Problem):
    """A fresh checkpoint for each turn. Dimensions in addition to the widths: `sequences` prompts, the longest of `tokens` ids.

    Inputs of the untimed call: `data`, the tensors' bytes; it answers how many bytes were `stored`. Inputs of the
    timed call: `header`, the file's beginning, answered by `loaded`; then `ids`, `lengths`, `places`, `is_new` as in
    suite `prefill`.
    """

    def __init__(self, shape: dict[str, int], rng: np.random.Generator) -> None:
        self.shape = shape
        self.config = model_config(shape) | {"step_tokens": STEP_TOKENS}
        self.weights = {}  # LOAD imports the stack; each call brings its own
        self.outputs = (LOADED, TensorSpec("logits", "float32", (shape["sequences"], shape["vocab"])))
        self.floor_flops = prefill_flops(shape, spread(shape["tokens"], shape["sequences"]))
        self._seeds: dict[int, tuple[Array, Array]] = {}
        self._header: Array = np.empty(0, np.uint8)
        self._held: tuple[int, Checkpoint] | None = None

    def before(self, rng: np.random.Generator, turn: int) -> Tensors:
        self._seeds[turn] = (rng.integers(2**63, size=4), rng.integers(2**63, size=4))
        self._held = None
        weights = self._checkpoint(turn).weights
        names = [str(name) for name in rng.permutation(list(weights))]
        self._header = header(weights, names)
        data = np.concatenate([weights[name].reshape(-1).view(np.uint8) for name in names])
        assert data.size + HEADER_BYTES <= CHECKPOINT_CAP_BYTES
        return {"data": data}

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        return {"header": self._header, **self._prompts(turn)}

    def outputs_for(self, inputs: Tensors) -> tuple[TensorSpec, ...]:
        return (TensorSpec("stored", "int64", (1,)),) if "data" in inputs else self.outputs

    def exchanges(self, inputs: Tensors) -> tuple[Exchange, ...]:
        if "data" in inputs:
            return super().exchanges(inputs)
        prompts = {name: value for name, value in inputs.items() if name != "header"}
        loaded, logits = self.outputs
        return Exchange({"header": inputs["header"]}, (loaded,)), Exchange(prompts, (logits,))

    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        if "data" in inputs:
            return {"stored": np.array([inputs["data"].size], np.float64)}
        return {"loaded": np.ones(1), **self._asked(turn).exact(inputs, turn)}

    def plain(self, inputs: Tensors, turn: int) -> Tensors:
        if "data" in inputs:
            return self.exact(inputs, turn)
        return {"loaded": np.ones(1), **self._asked(turn).plain(inputs, turn)}

    def _checkpoint(self, turn: int) -> Checkpoint:
        """The turn's checkpoint; only one is kept, and any can be drawn again."""
        if self._held is None or self._held[0] != turn:
            weights_rng = np.random.default_rng(self._seeds[turn][0])
            self._held = (turn, Checkpoint(self.shape, weights_rng, self.shape["sequences"]))
        return self._held[1]

    def _prompts(self, turn: int) -> Tensors:
        return self._checkpoint(turn).draw_inputs(np.random.default_rng(self._seeds[turn][1]), turn)

    def _asked(self, turn: int) -> Checkpoint:
        """The turn's checkpoint, asked the turn's prompts."""
        if self._held is None or self._held[0] != turn:
            self._prompts(turn)
        return self._checkpoint(turn)


def header(weights: Tensors, names: list[str]) -> Array:
    """The first HEADER_BYTES of a safetensors file whose tensors are in the order of `names`."""
    fields, offset = {}, 0
    for name in names:
        value = weights[name]
        end = offset + value.nbytes
        fields[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    length = HEADER_BYTES - 8
    if len(text) > length:
        raise ValueError(f"a header of {len(text)} bytes does not fit into {length}: raise HEADER_BYTES")
    return np.frombuffer(length.to_bytes(8, "little") + text.ljust(length), np.uint8)


@dataclass(frozen=True)
class CheckpointLoad(Suite):
    """See the module's docstring."""

    @property
    def sample_module(self) -> Path:
        return SAMPLES / "checkpoint_load_sample.py"

    @property
    def sample_helpers(self) -> tuple[Path, ...]:
        return (SAMPLES / "decoder_sample.py",)

    @property
    def has_warm_up(self) -> bool:
        """A process that has loaded once knows what a fresh one does not."""
        return False

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> CheckpointLoadProblem:
        return CheckpointLoadProblem(shape, rng)


def checkpoint_load(preset: str) -> CheckpointLoad:
    """The suite at one preset's sizes; raises UnknownSuite."""
    return CheckpointLoad(**sized(CHECKPOINT_LOAD, preset), oracle_checks=1, tolerance=TOLERANCES[preset])
