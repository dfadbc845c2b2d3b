"""Batching of llama.cpp's drivers, on an interface whose next token is the sum of a sequence's tokens."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.peers.drivers.llama_engine import BATCH_TOKENS, LlamaEngine
from benchmarks.peers.workloads import Request, Workload

VOCABULARY = 97


class SummingLlama:
    """The functions of `llama.h` that the drivers call; `batches` has the (token, position, sequence) of each batch."""

    def __init__(self, *, has_model: bool = True, has_context: bool = True, status: int = 0) -> None:
        self.has_model, self.has_context, self.status = has_model, has_context, status
        self.batches: list[list[tuple[int, int, int]]] = []
        self.cells: dict[int, list[int]] = {}
        self.settings = SimpleNamespace()
        self._logits: dict[int, Any] = {}

    def llama_backend_init(self) -> None:
        pass

    def llama_model_default_params(self) -> SimpleNamespace:
        return SimpleNamespace()

    def llama_context_default_params(self) -> SimpleNamespace:
        return SimpleNamespace(flash_attn=True)

    def llama_model_load_from_file(self, path: bytes, settings: SimpleNamespace) -> str | None:
        assert settings.n_gpu_layers == 0
        return path.decode() if self.has_model else None

    def llama_init_from_model(self, model: str, settings: SimpleNamespace) -> str | None:
        self.settings = settings
        return f"context of {model}" if self.has_context else None

    def llama_model_get_vocab(self, model: str) -> str:
        return model

    def llama_vocab_n_tokens(self, vocabulary: str) -> int:
        return VOCABULARY

    def llama_batch_init(self, n_tokens: int, embedding: int, n_sequences: int) -> SimpleNamespace:
        assert (embedding, n_sequences) == (0, 1)
        names = ("token", "pos", "n_seq_id", "logits")
        batch = SimpleNamespace(**{name: [0] * n_tokens for name in names}, n_tokens=0)
        batch.seq_id = [[0] for _ in range(n_tokens)]
        return batch

    def llama_decode(self, context: str, batch: SimpleNamespace) -> int:
        self._logits = {}
        rows = range(batch.n_tokens)
        self.batches.append([(batch.token[row], batch.pos[row], batch.seq_id[row][0]) for row in rows])
        for row, (token, position, sequence) in zip(rows, self.batches[-1], strict=True):
            cells = self.cells.setdefault(sequence, [])
            assert position == len(cells) and batch.n_seq_id[row] == 1
            cells.append(token)
            if batch.logits[row]:
                values = [0.0] * VOCABULARY
                values[sum(cells) % VOCABULARY] = 1.0
                self._logits[row] = (ctypes.c_float * VOCABULARY)(*values)
        return self.status

    def llama_get_logits_ith(self, context: str, row: int) -> Any:
        return ctypes.cast(self._logits[row], ctypes.POINTER(ctypes.c_float))

    def clear_cache(self, context: str) -> None:
        assert context == "context of model.gguf"
        self.cells.clear()


def engine(api: SummingLlama, **settings: Any) -> LlamaEngine:
    return LlamaEngine(api, version="1.0", clear_cache=api.clear_cache, settings=settings)


def loaded(api: SummingLlama, **settings: Any) -> LlamaEngine:
    made = engine(api, **settings)
    answer = made.load("model.gguf", "f16", max_tokens=64, max_batch=4)
    assert answer["version"] == "1.0" and answer["load_s"] >= 0 < answer["resident_bytes"]
    return made


def sums(prompt: tuple[int, ...], n_new: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n_new):
        tokens.append(sum(tokens) % VOCABULARY)
    return tokens[len(prompt) :]


REQUESTS = (Request((3, 4), 5), Request((10, 20, 30), 2), Request((7,), 3, after=4))


def test_each_request_is_answered_as_if_it_were_alone() -> None:
    running = loaded(SummingLlama())
    for _ in range(2):  # the cache is emptied before the second run
        answers = running.run("w", Workload("w", REQUESTS).to_json())["requests"]
        assert [each["tokens"] for each in answers] == [sums(each.prompt, each.n_new) for each in REQUESTS]


def test_a_late_prompt_joins_the_batch_of_those_that_decode() -> None:
    api = SummingLlama()
    loaded(api).run("w", Workload("w", REQUESTS).to_json())
    sequences = [[sequence for _, _, sequence in batch] for batch in api.batches]
    # Prompts of the first two; a token of each; the third prompt with the first one's token, for the second has ended.
    assert sequences == [[0, 0, 1, 1, 1], [0, 1], [0, 2], [0, 2], [0, 2]]
    assert api.batches[2] == [(sums((3, 4), 5)[1], 3, 0), (7, 0, 2)]


def test_a_context_has_room_for_all_sequences_on_one_thread() -> None:
    api = SummingLlama()
    loaded(api)
    settings = api.settings
    assert (settings.n_ctx, settings.n_seq_max, settings.n_batch) == (4 * 64, 4, BATCH_TOKENS)
    assert settings.n_threads == settings.n_threads_batch == 1
    assert settings.flash_attn


def test_a_driver_has_settings_of_its_own() -> None:
    api = SummingLlama()
    loaded(api, flash_attn=False)
    assert api.settings.flash_attn is False


@pytest.mark.parametrize(
    ("api", "message"),
    [
        (SummingLlama(has_model=False), r"model\.gguf cannot be loaded"),
        (SummingLlama(has_context=False), "no context can be made"),
    ],
)
def test_what_cannot_be_loaded_is_said(api: SummingLlama, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        engine(api).load("model.gguf", "f16", max_tokens=64, max_batch=4)


def test_a_batch_that_fails_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="llama_decode returned 1"):
        loaded(SummingLlama(status=1)).run("w", Workload("w", REQUESTS).to_json())
