"""Training jobs on a small folder of text, and what the other jobs count. In this process, on tiny models."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.claims import corpus, padding, recompute, training
from benchmarks.claims.bench import Bench, Job
from benchmarks.claims.decoders import decoder
from benchmarks.claims.job import KINDS as KINDS_OF_JOBS
from benchmarks.claims.training import TrainingRun, accuracy_of, loss_of
from model.config import MoEConfig
from model.data.build import Settings, build
from model.transformer import Transformer
from tests.benchmarks.claims.claim_text import KINDS, text_corpus, text_documents

pytestmark = pytest.mark.slow

VOCABULARY = 300


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of jobs' folders, with text in `data`."""
    folder = tmp_path_factory.mktemp("made")
    build(
        folder / "data",
        [text_corpus(kind) for kind in KINDS],
        settings=Settings(vocab_size=VOCABULARY, held_out_share=0.2),
    )
    return folder


DENSE = decoder("dense", VOCABULARY, d_model=16, n_layers=2, d_ff=32, n_heads=2)
SPARSE = dataclasses.replace(
    DENSE, name="sparse", moe=MoEConfig(16, d_expert=16, n_experts=4, top_k=2, n_shared=1, switch_loss=0.01)
)
SHORT = TrainingRun(
    DENSE.to_dict(),
    "data",
    n_tokens=2_000,
    learning_rate=1e-2,
    seed=1,
    sequence_length=32,
    batch_tokens=128,
    scored_tokens=256,
    scores_start=True,
)


def done(run: TrainingRun, made: Path, name: str = "any") -> dict[str, Any]:
    settings = json.loads(json.dumps(run.job().settings))  # as it reaches the process
    return training.work(settings, made / name)


def test_training_lowers_the_held_out_loss(made: Path) -> None:
    found = done(SHORT, made)
    assert loss_of(found, at=0) == pytest.approx(math.log(VOCABULARY), rel=0.2)
    assert loss_of(found) < 0.9 * loss_of(found, at=0)
    assert accuracy_of(found) > 0.05
    assert 2_000 <= found["tokens"] < 2_000 + 128
    assert found["parameters"] == DENSE.total_parameters
    assert found["stored_bytes"] == 4 * DENSE.total_parameters
    assert not found["has_diverged"]


def test_equal_settings_give_equal_results(made: Path) -> None:
    first, second = done(SHORT, made), done(SHORT, made)
    assert first == second
    assert first != done(dataclasses.replace(SHORT, seed=2), made)


def test_scores_are_spread_over_the_run(made: Path) -> None:
    found = done(dataclasses.replace(SHORT, n_scores=4), made)
    tokens = [point["tokens"] for point in found["points"]]
    assert len(tokens) == 5
    assert [round(count / 500) for count in tokens] == [0, 1, 2, 3, 4]


def test_a_diverged_run_says_so_and_scores_infinity(made: Path) -> None:
    wild = dataclasses.replace(SHORT, learning_rate=1e30, recipe={"warmup_steps": 0})
    found = json.loads(json.dumps(done(wild, made)))  # as it is kept
    assert found["has_diverged"]
    assert loss_of(found) == math.inf


def test_shared_layers_are_stored_once(made: Path) -> None:
    shared = dataclasses.replace(DENSE, attention_owners=(0, 0), ffn_owners=(0, 0))
    found = done(dataclasses.replace(SHORT, model=shared.to_dict()), made)
    assert found["stored_bytes"] == 4 * shared.total_parameters < 4 * DENSE.total_parameters


def test_a_grown_child_starts_at_its_parents_loss(made: Path) -> None:
    parent = done(dataclasses.replace(SHORT, keeps_weights=True), made, "parent")
    child = done(dataclasses.replace(SHORT, start="parent", grow={"n_experts": 3, "top_k": 2}, seed=9), made)
    assert loss_of(child, at=0) == pytest.approx(loss_of(parent), rel=1e-5)
    assert child["parameters"] > parent["parameters"]
    assert loss_of(child) < loss_of(parent)


def test_growing_nothing_is_refused(made: Path) -> None:
    with pytest.raises(ValueError, match="give start"):
        done(dataclasses.replace(SHORT, grow={"n_experts": 3, "top_k": 2}), made)


def test_a_teacher_changes_what_a_student_learns(made: Path) -> None:
    teacher = decoder("teacher", VOCABULARY, d_model=32, n_layers=2, d_ff=64, n_heads=2)
    longer = dataclasses.replace(SHORT, model=teacher.to_dict(), n_tokens=4_000, keeps_weights=True)
    done(longer, made, "teacher")
    alone = done(SHORT, made)
    taught = done(dataclasses.replace(SHORT, teacher="teacher", teacher_model=teacher.to_dict()), made)
    weightless = dataclasses.replace(
        SHORT, teacher="teacher", teacher_model=teacher.to_dict(), distil_weight=0.0
    )
    assert taught["steps"] == alone["steps"]
    assert loss_of(taught) < loss_of(taught, at=0)
    assert abs(loss_of(taught) - loss_of(alone)) > 1e-4
    assert loss_of(done(weightless, made)) == pytest.approx(loss_of(alone), rel=1e-4)


def test_eight_bits_learn_too_but_not_the_same(made: Path) -> None:
    plain = dataclasses.replace(SHORT, model=SPARSE.to_dict())
    full, eight = done(plain, made), done(dataclasses.replace(plain, eight_bit="int8"), made)
    assert loss_of(eight) == pytest.approx(loss_of(full), rel=0.05)
    assert loss_of(eight) != loss_of(full)


def test_a_curriculum_is_cut_to_the_runs_tokens(made: Path) -> None:
    from model.data.batches.curriculum import three_stages

    staged = dataclasses.replace(
        SHORT,
        sequence_length=128,
        curriculum=three_stages(50_000, 128, shares={"general": 2, "domain": 1, "instruction": 1}).to_dict(),
        recipe={},
        scored_kinds=("general", "domain", "instruction"),
    )
    found = done(staged, made)
    assert found["tokens"] < 2_000 + 4 * 128
    assert set(found["points"][-1]["scores"]) == {"general", "domain", "instruction"}


# The other jobs.


def test_a_corpus_is_cut_at_the_document_that_fills_it() -> None:
    cut = corpus.limited(text_corpus("general"), 500)
    documents = list(cut.read())
    assert 500 <= sum(document.n_bytes for document in documents) < 500 + documents[-1].n_bytes
    assert documents == list(text_documents("general"))[: len(documents)]
    assert len(list(corpus.limited(text_corpus("general"), None).read())) == 60


def test_corpora_that_claims_train_on_exist() -> None:
    from model.data.corpora.registry import built_in_corpora, select

    assert {found.kind for found in select(corpus.CORPORA, built_in_corpora())} == {
        "general",
        "domain",
        "instruction",
    }


def test_padding_is_counted_by_kind_and_way(made: Path) -> None:
    found = padding.work({"data": "data", "seeds": [0, 1], "batches": 2}, made / "any")
    assert set(found["shares"]) == {"general", "domain", "instruction", "all kinds"}
    for shares in found["shares"].values():
        assert len(shares) == 2
        assert all(0 <= share["packed"] < 1 and 0 < share["padded"] < 1 for share in shares)
    for by_layout in found["streamed"].values():
        assert all(0 <= share < 1 for share in by_layout.values())
    assert found["documents"]["all kinds"] == sum(
        found["documents"][kind] for kind in ("general", "domain", "instruction")
    )


@pytest.fixture
def deep() -> Transformer:
    torch.manual_seed(0)
    return Transformer(decoder("deep", 64, d_model=32, n_layers=8, d_ff=96, n_heads=2)).train()


def test_checkpointing_saves_fewer_tensors(deep: Transformer) -> None:
    ids_BS = torch.randint(0, 64, (4, 64))
    found = {}
    for mode in recompute.MODES:
        deep.checkpointing = mode
        found[mode] = recompute.saved_bytes(deep, ids_BS)
    assert found["full"] < found["selective"] < found["none"]
    inputs = 8 * 4 * 64 * 32 * 4  # what full checkpointing must keep: each layer's input
    assert inputs <= found["full"] < 2 * inputs


def test_saved_bytes_leave_parameters_out(deep: Transformer) -> None:
    own = sum(parameter.numel() * parameter.element_size() for parameter in deep.parameters())
    ids_BS = torch.randint(0, 64, (1, 2))
    assert recompute.saved_bytes(deep, ids_BS) < own


def test_every_kind_of_job_has_its_work() -> None:
    import importlib

    for kind in KINDS_OF_JOBS:
        assert callable(importlib.import_module(f"benchmarks.claims.{kind}").work)


@pytest.mark.long
def test_a_job_in_a_process_of_its_own_measures_memory(tmp_path: Path) -> None:
    bench = Bench(tmp_path, n_at_once=1, say=lambda text: None)
    model = decoder("deep", recompute.VOCABULARY, d_model=64, n_layers=8, d_ff=192).to_dict()
    settings = {"model": model, "seed": 0, "rows": 4, "length": 128}
    found = {
        mode: bench.one(Job("recompute", {**settings, "mode": mode}, is_weighed=True), mode)
        for mode in ("none", "full")
    }
    assert 0 < found["full"]["process_bytes"] < found["none"]["process_bytes"]
