"""SmolLM2 as a real teacher: its answers through checkpoint and cache, and a small student that follows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model.checkpoint import load_transformer, models_home
from model.config import ModelConfig
from model.data.batches.batch import IGNORED, Batch
from model.distill import CachedTeacher, Distillation, LiveTeacher, precompute, tokenizer_sha256
from model.serving.node.served import load_served
from model.transformer import Transformer

pytestmark = [pytest.mark.slow, pytest.mark.long]

TEXT = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid."


def test_smollm2_teaches_a_small_student_from_a_cache(smollm2_home: Path, tmp_path: Path) -> None:
    folder = models_home(smollm2_home) / "smollm2-moe"
    identity = tokenizer_sha256((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = load_served("smollm2-moe", smollm2_home).tokenizer.encode(TEXT)
    tokens = torch.tensor([ids])
    batch = Batch(
        tokens,
        torch.arange(len(ids))[None],
        torch.zeros_like(tokens),
        F.pad(tokens[:, 1:], (0, 1), value=IGNORED),
    )
    teacher = LiveTeacher(load_transformer(folder), tokenizer=identity)
    done = precompute(tmp_path, teacher, [batch], k=32, temperature=1.0)
    assert done.n_computed == len(ids)
    cached = CachedTeacher.open(tmp_path)
    top = cached.distributions(batch)
    is_right = (top.ids_NK[:, 0] == batch.targets_BS[0, :-1]).float().mean()
    assert is_right > 0.5  # it knows these facts, and says so through the cache

    config = ModelConfig("student", 49_152, 32, 1, 2, 1, 16, 64, 512)
    torch.manual_seed(0)
    student = Transformer(config)
    distillation = Distillation(cached, config, tokenizer=identity, temperature=1.0, weight=1.0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-2)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = distillation(student, batch, n_targets=batch.n_targets).next_token
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 5 and losses[-1] < 0.7 * losses[0]
