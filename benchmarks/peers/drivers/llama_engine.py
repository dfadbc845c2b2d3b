"""Serving through the C interface of llama.cpp and its fork: continuous batching over their batches, greedy.

A prompt that arrives joins the next batch whole, with the tokens of those that decode, as llama.cpp's server does it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.peers.drivers.channel import resident_bytes
from benchmarks.peers.drivers.record import Record

BATCH_TOKENS = 2048


class LlamaEngine:
    """One model on one thread.

    `api` has the functions of `llama.h`, `clear_cache` empties the cache of a context, `settings` are the context's own.
    """

    def __init__(
        self, api: Any, *, version: str, clear_cache: Callable[[Any], None], settings: Mapping[str, Any]
    ) -> None:
        self._api, self._version, self._clear_cache = api, version, clear_cache
        self._settings = settings
        self._context: Any = None
        self._batch: Any = None
        self._vocabulary = 0

    def load(self, path: str, weights: str, max_tokens: int, max_batch: int) -> dict[str, Any]:
        """The GGUF file, whose name says its `weights`; room for `max_batch` sequences of `max_tokens`."""
        api, begun = self._api, time.monotonic()
        api.llama_backend_init()
        model_settings = api.llama_model_default_params()
        model_settings.n_gpu_layers = 0
        model = api.llama_model_load_from_file(path.encode(), model_settings)
        if not model:
            raise RuntimeError(f"{path} cannot be loaded; see the log")
        settings = api.llama_context_default_params()
        settings.n_ctx = max_tokens * max_batch
        settings.n_batch = BATCH_TOKENS
        settings.n_seq_max = max_batch
        settings.n_threads = settings.n_threads_batch = 1
        for name, value in self._settings.items():
            setattr(settings, name, value)
        self._context = api.llama_init_from_model(model, settings)
        if not self._context:
            raise RuntimeError("no context can be made; see the log")
        self._batch = api.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        seconds = time.monotonic() - begun
        return {"version": self._version, "load_s": seconds, "resident_bytes": resident_bytes()}

    def run(self, name: str, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Answers the requests; the cache is empty before."""
        self._clear_cache(self._context)
        record = Record(requests)
        new: dict[int, list[int]] = {}  # what each running sequence has to compute next
        lengths: dict[int, int] = {}
        while not record.is_done:
            for number, request in record.arrived():
                new[number], lengths[number] = list(request["prompt"]), 0
            for number, token in self._step(new, lengths).items():
                lengths[number] += len(new[number])
                new[number] = [token]
                if record.token(number, token, time.monotonic_ns()):
                    del new[number]
        return record.answer()

    def _step(self, new: dict[int, list[int]], lengths: dict[int, int]) -> dict[int, int]:
        """The next token of each sequence behind its new tokens."""
        batch, last = self._batch, dict[int, int]()
        at = 0
        for number, tokens in new.items():
            for offset, token in enumerate(tokens):
                batch.token[at] = token
                batch.pos[at] = lengths[number] + offset
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = number
                batch.logits[at] = offset == len(tokens) - 1
                at += 1
            last[number] = at - 1
        batch.n_tokens = at
        if (status := self._api.llama_decode(self._context, batch)) != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return {number: self._best(position) for number, position in last.items()}

    def _best(self, position: int) -> int:
        logits = self._api.llama_get_logits_ith(self._context, position)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax())
