"""The figures of the compiled executor alone, on a model of a second's work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.figures import kernels
from benchmarks.figures.kernels import Plan, decode_parts, prefill_parts, random_transformer, text_loss
from benchmarks.peers.models import QWEN3_MOE_22M
from benchmarks.peers.targets import DECODE_SHARE
from model import native
from model.serving.executors.native import NativeExecutor

SMALL = replace(QWEN3_MOE_22M, n_layers=1, vocab_size=300)


def test_every_form_of_weights_has_its_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "models_home", lambda: tmp_path)
    monkeypatch.setattr(kernels, "bandwidth", lambda n_bytes: {"bytes_per_s": 1e9, "way": f"{n_bytes}"})
    monkeypatch.setattr(kernels, "gemm", lambda dtype: {"flops": 1e9, "dtype": dtype})
    rows = {row.name: row for row in kernels.measure(Plan(1, 1, ("bf16", "int8")), SMALL)}
    for weights in ("bf16", "int8"):
        for name in ("decode B1", "decode B8", "decode B16", "prefill 128", "prefill 512"):
            assert float(rows[f"{name} {weights}"].value or 0) > 0
        share = rows[f"decode B1 {weights}, of the roofline"]
        assert share.target and share.holds == (float(share.value or 0) >= DECODE_SHARE[weights])
    assert rows["prefill 128 int8, of the products' peak"].target is None
    assert rows["loss on SmolLM2"].value is None and "model.smollm2 fetch" in rows["loss on SmolLM2"].how


def test_without_kernels_there_is_a_reason_and_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "state", lambda: "no native kernels, install a compiler")
    (row,) = kernels.measure(Plan(1, 1), SMALL)
    assert row.value is None and "install a compiler" in row.how


def test_sequences_and_prompts_have_blocks_of_their_own() -> None:
    blocks = [block for part in (*decode_parts(16), *prefill_parts(512)) for block in part.blocks]
    assert len(blocks) == len(set(blocks)) == max(blocks) + 1


def test_the_loss_is_that_of_the_transformer() -> None:
    transformer = random_transformer(SMALL)
    text = [17 * i % 300 for i in range(40)]
    logits = transformer(torch.tensor([text]))[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(text[1:]))
    assert text_loss(NativeExecutor(transformer, 3, weights="fp32"), text) == pytest.approx(
        float(expected), abs=1e-5
    )


def test_a_random_model_has_logits_of_a_real_size() -> None:
    logits = random_transformer(SMALL)(torch.arange(20)[None])
    assert 0.3 < float(logits.std()) < 3
