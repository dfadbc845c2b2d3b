"""Distillation as a whole: compatible tokens, hidden states, the objective, and students that gain from a teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import ConfigError, LatentConfig
from model.data.batches.batch import IGNORED, Batch
from model.distill import (
    CachedTeacher,
    Distillation,
    HiddenStateLoss,
    IncompatibleError,
    LiveTeacher,
    even_layer_map,
    kl_divergence,
    model_sha256,
    precompute,
    tokenizer_sha256,
)
from model.distill.hidden import hidden_states
from model.distill.teacher import scored
from model.presets import PRESETS
from model.training.config.recipe import Recipe
from model.training.losses.objective import losses_on
from model.training.optim.precision import Precision
from model.training.run.trainer import Trainer
from model.transformer import Transformer

pytestmark = pytest.mark.slow

VOCABULARY = 24
TOKENIZER = "a" * 64
TEACHER = replace(PRESETS["tiny"], name="teacher", vocab_size=VOCABULARY, n_layers=4)
STUDENT = replace(
    PRESETS["tiny"],
    name="student",
    vocab_size=VOCABULARY,
    n_layers=2,
    d_model=32,
    n_heads=2,
    n_kv_heads=1,
    d_ff=64,
    moe=None,
    tie_embeddings=True,
)


def model_of(config: object, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(config)  # type: ignore[arg-type]


def teacher_of() -> LiveTeacher:
    return LiveTeacher(model_of(TEACHER), tokenizer=TOKENIZER)


def batch_of(tokens_BS: Tensor, *, ignore_first: int = 0) -> Batch:
    targets_BS = F.pad(tokens_BS[:, 1:], (0, 1), value=IGNORED)
    targets_BS[:, :ignore_first] = IGNORED
    positions_BS = torch.arange(tokens_BS.shape[1]).expand_as(tokens_BS).contiguous()
    return Batch(tokens_BS, positions_BS, torch.zeros_like(tokens_BS), targets_BS)


def random_batch(seed: int = 0, *, ignore_first: int = 3) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return batch_of(torch.randint(VOCABULARY, (4, 12), generator=rng), ignore_first=ignore_first)


def test_the_objective_is_the_weighted_sum_of_its_parts() -> None:
    teacher, student, batch = teacher_of(), model_of(STUDENT, 1), random_batch()
    distillation = Distillation(
        teacher,
        STUDENT,
        tokenizer=TOKENIZER,
        temperature=3.0,
        weight=0.3,
        layer_map={0: 1, 1: 3},
        hidden_weight=0.7,
    )
    losses = distillation(student, batch, n_targets=2 * batch.n_targets)  # half of an accumulated batch
    mask = scored(batch)
    assert mask.sum() == batch.n_targets == 4 * 8
    logits, expected = student(batch.tokens_BS)[mask], teacher.model(batch.tokens_BS)[mask]
    target = F.cross_entropy(logits, batch.targets_BS[mask]) / 2
    divergence = kl_divergence(logits, expected, 3.0).mean() / 2
    assert distillation.hidden is not None and distillation.last is not None
    with hidden_states(student, [0, 1]) as ours, hidden_states(teacher.model, [1, 3]) as theirs:
        student.hidden(batch.tokens_BS), teacher.model.hidden(batch.tokens_BS)
    hidden = distillation.hidden(ours, theirs, mask) / 2
    for found, wanted in zip(distillation.last, (target, divergence, hidden), strict=True):
        torch.testing.assert_close(found, wanted.detach())
    torch.testing.assert_close(losses.next_token, 0.7 * target + 0.3 * divergence + 0.7 * hidden)
    assert losses.mtp is None


def test_without_weight_it_is_the_plain_objective_with_and_without_prediction_further_ahead() -> None:
    config = replace(STUDENT, n_ahead=1)
    student, batch = model_of(config, 1), random_batch()
    distillation = Distillation(teacher_of(), config, tokenizer=TOKENIZER, weight=0.0)
    for mode in (True, False):
        student.train(mode)
        found = distillation(student, batch, n_targets=batch.n_targets)
        plain = losses_on(student, batch, n_targets=batch.n_targets)
        torch.testing.assert_close(found.next_token, plain.next_token)
        assert (found.mtp is None) is (plain.mtp is None) is (not mode)
        if mode:
            torch.testing.assert_close(found.mtp, plain.mtp)


def test_gradients_reach_student_and_projections_but_not_the_teacher() -> None:
    teacher, student, batch = teacher_of(), model_of(STUDENT, 1), random_batch()
    distillation = Distillation(
        teacher, STUDENT, tokenizer=TOKENIZER, weight=1.0, layer_map=even_layer_map(2, 4)
    )
    distillation(student, batch, n_targets=batch.n_targets).next_token.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    projections = list(distillation.parameters())
    assert [tuple(p.shape) for p in projections] == [(64, 32), (64, 32)]
    assert all(p.grad is not None and p.grad.any() for p in projections)
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    assert not teacher.model.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trainer_takes_it_as_its_objective_whole_or_in_micro_batches(precision: Precision) -> None:
    whole = random_batch(ignore_first=2)
    parts = [whole.rows(0, 1), whole.rows(1, 4)]
    updated = []
    for micro_batches in ([whole], parts):
        trainer = Trainer(
            model_of(STUDENT, 1), Recipe(warmup_steps=0, learning_rate=1e-3), precision=precision
        )
        distillation = Distillation(teacher_of(), STUDENT, tokenizer=TOKENIZER, weight=0.8)
        trainer.objective = distillation
        update = trainer.update(micro_batches)
        expected = distillation(model_of(STUDENT, 1), whole, n_targets=whole.n_targets).next_token
        assert update.loss == pytest.approx(expected.item(), rel=1e-5 if precision == "fp32" else 2e-2)
        updated.append(update)
    assert updated[0].loss == pytest.approx(updated[1].loss, rel=1e-5 if precision == "fp32" else 1e-2)
    assert updated[0].gradient_norm == pytest.approx(
        updated[1].gradient_norm, rel=1e-4 if precision == "fp32" else 2e-2
    )


def test_recomputed_blocks_give_the_same_gradients_with_hidden_states() -> None:
    gradients = []
    for mode in ("none", "full"):
        student, batch = model_of(STUDENT, 1), random_batch()
        student.checkpointing = mode
        torch.manual_seed(3)
        distillation = Distillation(teacher_of(), STUDENT, tokenizer=TOKENIZER, layer_map={0: 1, 1: 3})
        distillation(student, batch, n_targets=batch.n_targets).next_token.backward()
        gradients.append([p.grad for p in (*student.parameters(), *distillation.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_a_cached_teacher_teaches_as_the_live_one(tmp_path: Path) -> None:
    student, batch = model_of(STUDENT, 1), random_batch()
    precompute(tmp_path, teacher_of(), [batch], k=VOCABULARY - 1, temperature=2.0)
    losses = []
    for teacher in (teacher_of(), CachedTeacher.open(tmp_path)):
        distillation = Distillation(teacher, STUDENT, tokenizer=TOKENIZER, weight=1.0)  # type: ignore[arg-type]
        losses.append(distillation(student, batch, n_targets=batch.n_targets).next_token)
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-3, atol=2e-3)
    with pytest.raises(IncompatibleError, match="not cached: use a LiveTeacher"):
        Distillation(CachedTeacher.open(tmp_path), STUDENT, tokenizer=TOKENIZER, layer_map={0: 0})
    with pytest.raises(IncompatibleError, match=r"temperature 2\.0, not 1\.0"):
        Distillation(CachedTeacher.open(tmp_path), STUDENT, tokenizer=TOKENIZER, temperature=1.0)


def test_models_with_other_tokens_are_refused_with_the_way_out() -> None:
    teacher = teacher_of()
    with pytest.raises(IncompatibleError, match="vocabulary of 25 tokens and the teacher one of 24"):
        Distillation(teacher, replace(STUDENT, vocab_size=25), tokenizer=TOKENIZER)
    with pytest.raises(IncompatibleError, match="with the teacher's tokenizer"):
        Distillation(teacher, STUDENT, tokenizer="b" * 64)


def test_weights_that_make_no_sense_are_refused() -> None:
    for weights in ({"weight": 1.5}, {"weight": -0.1}, {"hidden_weight": -1.0}):
        with pytest.raises(ConfigError, match="weight"):
            Distillation(teacher_of(), STUDENT, tokenizer=TOKENIZER, **weights)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="layer 0 to 4"):
        HiddenStateLoss(STUDENT, TEACHER, {0: 4})
    with pytest.raises(ConfigError, match="at least one"):
        HiddenStateLoss(STUDENT, TEACHER, {})


def bpe(text: str, size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.train_from_iterator(
        [text], tokenizers.trainers.BpeTrainer(vocab_size=size, show_progress=False)
    )
    return tokenizer


def test_a_tokenizers_identity_is_its_ids() -> None:
    text = "the cat sat on the mat and the rat sat on the cat"
    tokenizer = bpe(text, 40)
    identity = tokenizer_sha256(tokenizer.to_str())
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(5)
    assert tokenizer_sha256(tokenizer.to_str(pretty=True)) == identity
    older = json.loads(tokenizer.to_str())
    del older["model"]["ignore_merges"]  # false where it is not said, as before there was the field
    assert tokenizer_sha256(json.dumps(older)) == identity
    assert tokenizer_sha256(bpe(text, 30).to_str()) != identity
    tokenizer.add_special_tokens(["<|end|>"])
    assert tokenizer_sha256(tokenizer.to_str()) != identity
    for broken in ("not json", json.dumps({"model": {}})):
        with pytest.raises(IncompatibleError, match=r"not a tokenizer\.json"):
            tokenizer_sha256(broken)


def test_a_models_identity_is_its_weights_and_shape() -> None:
    model = model_of(TEACHER)
    identity = model_sha256(model, TEACHER)
    assert model_sha256(model_of(TEACHER), TEACHER) == identity
    assert model_sha256(model_of(TEACHER, 1), TEACHER) != identity
    assert model_sha256(model, replace(TEACHER, rope_theta=5e5)) != identity
    with torch.no_grad():
        model.layers[3].attention.w_o[0, 0] += 1e-6
    assert model_sha256(model, TEACHER) != identity
    assert model_sha256(model.cast_blocks(torch.bfloat16), TEACHER) != identity


def test_layers_map_evenly_and_the_last_to_the_last() -> None:
    assert even_layer_map(2, 4) == {0: 1, 1: 3}
    assert even_layer_map(4, 4) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert even_layer_map(3, 30) == {0: 9, 1: 19, 2: 29}
    for n_student in range(1, 9):
        for n_teacher in range(n_student, 20):
            targets = list(even_layer_map(n_student, n_teacher).values())
            assert targets == sorted(set(targets)) and targets[-1] == n_teacher - 1 and targets[0] >= 0


def test_a_student_with_more_layers_than_its_teacher_begins_with_the_teachers_first() -> None:
    assert even_layer_map(4, 2) == {0: 0, 1: 0, 2: 1, 3: 1}
    assert even_layer_map(8, 1) == dict.fromkeys(range(8), 0)
    for n_student in range(1, 20):
        for n_teacher in range(1, n_student):
            targets = list(even_layer_map(n_student, n_teacher).values())
            assert targets == sorted(targets) and (targets[0], targets[-1]) == (0, n_teacher - 1)


def test_hidden_states_are_the_layers_outputs_and_hooks_do_not_stay() -> None:
    model, tokens = model_of(replace(TEACHER, latent=LatentConfig(16, 8, 8, 8))), torch.arange(12).view(1, 12)
    with hidden_states(model, [1, 3]) as states:
        x = model.hidden(tokens)
    assert set(states) == {1, 3} and torch.equal(states[3], x) and not torch.equal(states[1], x)
    model.hidden(tokens + 1)
    assert torch.equal(states[3], x)
    assert not any(block._forward_hooks for block in model.layers)


def test_the_hidden_loss_is_relative_and_a_right_projection_ends_it() -> None:
    torch.manual_seed(2)
    loss = HiddenStateLoss(STUDENT, TEACHER, {0: 1})
    h, mask = torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool)
    target = 1000 * F.linear(h, torch.randn(64, 32))
    with torch.no_grad():
        loss.projections["0"].zero_()
        assert float(loss({0: h}, {1: target}, mask)) == pytest.approx(1.0)
        solution = torch.linalg.lstsq(h.flatten(0, 1), target.flatten(0, 1)).solution
        loss.projections["0"].copy_(solution.T)
        assert float(loss({0: h}, {1: target}, mask)) < 1e-6
        changed = target.clone()
        changed[:, 0] += 1e4
        assert float(loss({0: h}, {1: changed}, mask)) > 0.1
        mask[:, 0] = False
        assert float(loss({0: h}, {1: changed}, mask)) < 1e-6


def test_equal_widths_start_with_the_identity() -> None:
    loss = HiddenStateLoss(TEACHER, TEACHER, {0: 0})
    h = torch.randn(2, 5, 64)
    assert loss({0: h}, {0: h}, torch.ones(2, 5, dtype=torch.bool)).item() == 0.0


class Chain:
    """A Markov chain over the vocabulary: what there is to know about a token is the row of its predecessor."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(11)
        self.p = (2.0 * torch.randn(VOCABULARY, VOCABULARY, generator=rng)).softmax(-1)

    def batch(self, seed: int, rows: int = 8, length: int = 12) -> Batch:
        rng = torch.Generator().manual_seed(seed)
        tokens = torch.randint(VOCABULARY, (rows, 1), generator=rng)
        for _ in range(length - 1):
            tokens = torch.cat((tokens, torch.multinomial(self.p[tokens[:, -1]], 1, generator=rng)), dim=1)
        return batch_of(tokens)


class ChainTeacher:
    """Knows the chain exactly: a perfect teacher, so that what its student gains is distillation's merit."""

    vocab_size, tokenizer, temperature = VOCABULARY, TOKENIZER, None

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def distributions(self, batch: Batch) -> Tensor:
        return self.chain.p.log()[batch.tokens_BS[scored(batch)]]


def test_students_of_a_teacher_are_better_on_unseen_text_at_equal_steps() -> None:
    """And seed by seed, from the same start on the same batches."""
    chain = Chain()
    held_out = chain.batch(999, rows=64)
    for seed in range(2):
        loss = {}
        for weight in (0.0, 0.9):
            student = model_of(STUDENT, seed)
            objective = Distillation(
                ChainTeacher(chain), STUDENT, tokenizer=TOKENIZER, temperature=1.0, weight=weight
            )
            optimizer = torch.optim.AdamW(student.parameters(), lr=6e-3)
            for step in range(40):
                batch = chain.batch(1000 * seed + step)
                optimizer.zero_grad()
                objective(student, batch, n_targets=batch.n_targets).next_token.backward()
                optimizer.step()
            with torch.no_grad():
                loss[weight] = float(
                    losses_on(student.eval(), held_out, n_targets=held_out.n_targets).next_token
                )
        assert loss[0.9] < loss[0.0] - 0.02, loss
