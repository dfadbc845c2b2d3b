"""Serving with llama.cpp: continuous batching over its own batches of (token, position, sequence), greedy.

A prompt that arrives joins the next batch whole, with the tokens of those that decode, as llama.cpp's server does it.
"""

from __future__ import annotations

import time
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.peers.drivers.channel import resident_bytes, serve
from benchmarks.peers.drivers.record import Record

BATCH_TOKENS = 2048

_context: Any = None
_batch: Any = None
_vocabulary = 0


def load(path: str, weights: str, max_tokens: int, max_batch: int) -> dict[str, Any]:
    """The GGUF file, whose name says its `weights`; room for `max_batch` sequences of `max_tokens`."""
    global _context, _batch, _vocabulary
    begun = time.monotonic()
    llama_cpp.llama_backend_init()
    model_settings = llama_cpp.llama_model_default_params()
    model_settings.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), model_settings)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}; see the log")
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = max_tokens * max_batch
    settings.n_batch = BATCH_TOKENS
    settings.n_seq_max = max_batch
    settings.n_threads = settings.n_threads_batch = 1
    _context = llama_cpp.llama_init_from_model(model, settings)
    if not _context:
        raise RuntimeError("llama.cpp cannot make a context; see the log")
    _batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
    _vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    seconds = time.monotonic() - begun
    return {"version": llama_cpp.__version__, "load_s": seconds, "resident_bytes": resident_bytes()}


def run(name: str, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers the requests; the cache is empty before."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(_context), True)
    record = Record(requests)
    new: dict[int, list[int]] = {}  # what each running sequence has to compute next
    lengths: dict[int, int] = {}
    while not record.is_done:
        for number, request in record.arrived():
            new[number], lengths[number] = list(request["prompt"]), 0
        for number, token in _step(new, lengths).items():
            lengths[number] += len(new[number])
            new[number] = [token]
            if record.token(number, token, time.monotonic_ns()):
                del new[number]
    return record.answer()


def _step(new: dict[int, list[int]], lengths: dict[int, int]) -> dict[int, int]:
    """The next token of each sequence behind its new tokens."""
    last: dict[int, int] = {}
    at = 0
    for number, tokens in new.items():
        for offset, token in enumerate(tokens):
            _batch.token[at] = token
            _batch.pos[at] = lengths[number] + offset
            _batch.n_seq_id[at] = 1
            _batch.seq_id[at][0] = number
            _batch.logits[at] = offset == len(tokens) - 1
            at += 1
        last[number] = at - 1
    _batch.n_tokens = at
    if (status := llama_cpp.llama_decode(_context, _batch)) != 0:
        raise RuntimeError(f"llama_decode returned {status}")
    return {number: _best(position) for number, position in last.items()}


def _best(position: int) -> int:
    logits = llama_cpp.llama_get_logits_ith(_context, position)
    return int(np.ctypeslib.as_array(logits, shape=(_vocabulary,)).argmax())


if __name__ == "__main__":
    serve({"load": load, "run": run})
