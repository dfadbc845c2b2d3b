"""The trainer: its loss, its recipe, that a step is AdamW's step, and that training learns something."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from model.config import ConfigError
from model.layers.moe.layer import MoELayer
from model.presets import PRESETS
from model.training.config.recipe import Recipe
from model.training.losses.cross_entropy import next_token_loss
from model.training.run.trainer import Trainer
from model.transformer import Transformer
from tests.needs_torch import needs_cuda

pytestmark = pytest.mark.slow

CONFIG = replace(PRESETS["tiny"], vocab_size=32, d_model=32, moe=None, d_ff=48, tie_embeddings=True)
MOE = replace(PRESETS["tiny"], vocab_size=32, n_layers=1, tie_embeddings=True)
PLAIN = Recipe(warmup_steps=0, learning_rate=1e-2)


def model(config: object = MOE, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(config)  # type: ignore[arg-type]


def batch(seed: int = 0, sequences: int = 4, length: int = 12) -> torch.Tensor:
    return torch.randint(0, 32, (sequences, length), generator=torch.Generator().manual_seed(seed))


def test_loss_is_each_next_token_s_cross_entropy() -> None:
    logits, tokens = torch.randn(2, 5, 7, dtype=torch.bfloat16), torch.randint(0, 7, (2, 5))
    log_p = logits.double().log_softmax(-1)
    expected = -sum(log_p[b, s, tokens[b, s + 1]] for b in range(2) for s in range(4)) / 8
    loss = next_token_loss(logits, tokens)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


def test_logits_behind_the_last_token_do_not_count() -> None:
    logits, tokens = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    changed = logits.clone()
    changed[:, -1] += torch.randn(2, 7)
    assert torch.equal(next_token_loss(logits, tokens), next_token_loss(changed, tokens))


def test_a_step_is_a_clipped_adamw_step_on_every_parameter() -> None:
    trainer = Trainer(model(), PLAIN)
    mine = copy.deepcopy(trainer.model)
    parameters = dict(mine.named_parameters())
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}
    for step in range(3):
        tokens = batch(step)
        loss = F.cross_entropy(mine(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        assert norm > PLAIN.clip_norm  # else this would not see clipping
        with torch.no_grad():
            for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
                g = gradient * PLAIN.clip_norm / (norm + 1e-6)
                first, second = moments[name]
                first += (1 - PLAIN.beta1) * (g - first)
                second += (1 - PLAIN.beta2) * (g * g - second)
                if p.ndim > 1:
                    p *= 1 - PLAIN.learning_rate * PLAIN.weight_decay
                mean = first / (1 - PLAIN.beta1 ** (step + 1))
                deviation = (second / (1 - PLAIN.beta2 ** (step + 1))).sqrt()
                p -= PLAIN.learning_rate * mean / (deviation + PLAIN.eps)
        torch.testing.assert_close(trainer.step(tokens), loss.detach(), rtol=1e-5, atol=1e-6)
    assert trainer.steps == 3
    for name, p in trainer.model.named_parameters():
        torch.testing.assert_close(p, parameters[name], rtol=0, atol=5e-5)


def test_norms_do_not_decay() -> None:
    groups = Trainer(model()).optimizer.param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, p in model().named_parameters():
        assert name.endswith("norm.weight") == (p.ndim == 1)
    assert sorted({group["weight_decay"] for group in groups}) == [0.0, Recipe().weight_decay]
    assert len(decays) == len(list(model().parameters()))


@pytest.mark.parametrize("config", [CONFIG, MOE], ids=["dense", "moe"])
def test_training_learns_a_rule_that_it_did_not_know(config: object) -> None:
    """Each token is the one before it plus three: after some steps held-out sequences hold no surprise."""

    def sequences(seed: int) -> torch.Tensor:
        start = torch.randint(0, 32, (16, 1), generator=torch.Generator().manual_seed(seed))
        return (start + 3 * torch.arange(10)) % 32

    trainer = Trainer(model(config), Recipe(warmup_steps=5))
    before = next_token_loss(trainer.logits(sequences(99)), sequences(99))
    losses = [trainer.step(sequences(seed)) for seed in range(80)]
    after = next_token_loss(trainer.logits(sequences(99)), sequences(99))
    assert before > 3.0 and losses[0] > 3.0
    assert after < 0.2 and all(torch.isfinite(loss) for loss in losses)


def test_evaluation_counts_no_load_and_leaves_no_trace() -> None:
    moe = replace(MOE.moe, bias_balancing=True)  # type: ignore[type-var]
    trainer = Trainer(model(replace(MOE, moe=moe)), PLAIN)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    first, second = trainer.logits(batch()), trainer.logits(batch())
    assert torch.equal(first, second) and not first.requires_grad and trainer.model.training
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name])
    layer = trainer.model.layers[0].ffn
    assert isinstance(layer, MoELayer) and layer.load_E is not None and not layer.load_E.any()


def test_each_step_balances_routers_once() -> None:
    moe = replace(MOE.moe, bias_balancing=True)  # type: ignore[type-var]
    trainer = Trainer(model(replace(MOE, moe=moe)), replace(PLAIN, balance_rate=0.25))
    layer = trainer.model.layers[0].ffn
    assert isinstance(layer, MoELayer) and layer.router.bias is not None and layer.load_E is not None
    trainer.step(batch())
    assert set(layer.router.bias.abs().tolist()) <= {0.0, 0.25}
    assert layer.router.bias.any() and not layer.load_E.any()


def test_learning_rate_rises_over_the_warm_up_and_stays() -> None:
    recipe = Recipe(learning_rate=0.4, warmup_steps=4)
    assert [recipe.learning_rate_at(step) for step in range(6)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    )
    assert Recipe(learning_rate=0.4, warmup_steps=0).learning_rate_at(0) == 0.4


def test_the_rate_of_a_step_reaches_the_optimiser() -> None:
    trainer = Trainer(model(), Recipe(learning_rate=0.4, warmup_steps=4))
    for expected in (0.1, 0.2):
        trainer.step(batch())
        assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([expected] * 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("eps", 0.0),
        ("clip_norm", -1.0),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("weight_decay", -1.0),
        ("warmup_steps", -1),
    ],
)
def test_a_recipe_that_cannot_train_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        Recipe(**{field: value})  # type: ignore[arg-type]


def test_frozen_parameters_stay() -> None:
    frozen = model()
    frozen.embedding.requires_grad_(False)
    before = frozen.embedding.clone()
    Trainer(frozen, PLAIN).step(batch())
    assert torch.equal(frozen.embedding, before)


@needs_cuda("training on CUDA was not tested")
def test_a_step_on_cuda_equals_the_step_on_cpu() -> None:
    here, there = Trainer(model(), PLAIN), Trainer(model().cuda(), PLAIN)
    for step in range(3):
        loss = here.step(batch(step))
        torch.testing.assert_close(there.step(batch(step).cuda()).cpu(), loss, rtol=1e-4, atol=1e-4)
