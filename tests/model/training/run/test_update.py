"""`Trainer.update`: packed batches, micro-batches, number formats, and what it does when nothing is a number."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from model.config import ConfigError, RopeScaling
from model.data.batches.batch import IGNORED, PADDING, Batch
from model.layers.moe.layer import Experts, count_tokens_only, moe_layers
from model.training.config.recipe import Recipe
from model.training.losses import objective
from model.training.optim.adamw import AdamW
from model.training.optim.precision import autocast, check_precision, loss_scaler
from model.training.run.errors import NotFiniteError
from model.training.run.micro_batches import split
from model.training.run.trainer import Trainer
from tests.model.training.losses.reference_loss import target_loss
from tests.model.training.run.training_runs import DENSE, MOE, model_of, packed_batch, same_state

pytestmark = pytest.mark.slow

PLAIN = Recipe(warmup_steps=0, learning_rate=1e-2)
CPU = torch.device("cpu")
WITHOUT_LOSSES = replace(MOE, moe=replace(MOE.moe, bias_balancing=False))  # type: ignore[type-var]
WITH_LOSSES = replace(MOE, moe=replace(MOE.moe, switch_loss=0.1, z_loss=0.01))  # type: ignore[type-var]


def whole_rows(seed: int = 0) -> tuple[torch.Tensor, Batch]:
    """Token ids, and the batch that scores each but the first as `Trainer.step` does."""
    tokens = torch.randint(0, 32, (4, 12), generator=torch.Generator().manual_seed(seed))
    places = torch.arange(12).expand(4, 12).contiguous()
    targets = F.pad(tokens[:, 1:], (0, 1), value=IGNORED)
    return tokens, Batch(tokens, places, torch.zeros_like(tokens), targets)


def gradients(trainer: Trainer, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Those of one update, unclipped."""
    trainer.update(batches)
    assert isinstance(trainer.optimizer, AdamW)
    found = {name: trainer.optimizer.gradient(p) for name, p in trainer.model.named_parameters()}
    return {name: gradient.float().clone() for name, gradient in found.items() if gradient is not None}


def test_on_whole_rows_it_is_the_judged_step() -> None:
    recipe = replace(PLAIN, eps=1e-5)  # else a gradient that is rounding alone is divided by its own size
    one, other = Trainer(model_of(), recipe), Trainer(model_of(), recipe)
    for seed in range(3):
        tokens, batch = whole_rows(seed)
        loss = one.step(tokens)
        assert other.update([batch]).loss == pytest.approx(float(loss), rel=1e-6)
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-5)
    assert one.steps == other.steps == 3


def padded_rows() -> Batch:
    """Rows of one piece each, of different lengths."""
    tokens, batch = whole_rows()
    documents = batch.documents_BS.clone()
    documents[1, 7:], documents[2, 3:] = PADDING, PADDING
    targets = batch.targets_BS.masked_fill(documents == PADDING, IGNORED)
    return Batch(tokens, batch.positions_BS.masked_fill(documents == PADDING, 0), documents, targets)


def test_padding_is_no_part_of_a_rows_length() -> None:
    """Rotations that depend on it turn a piece as if no longer one lay beside it."""
    config = replace(DENSE, rope_scaling=RopeScaling("dynamic", 4.0, original_context=2))
    model, padded = model_of(config), padded_rows()

    def loss_on(batch: Batch) -> float:
        return float(objective.losses_on(model, batch, n_targets=1).next_token)

    lengths = (padded.documents_BS != PADDING).sum(1).tolist()
    pieces = [
        Batch(*(part[row : row + 1, :n] for part in vars(padded).values())) for row, n in enumerate(lengths)
    ]
    with torch.no_grad():
        assert loss_on(padded) == pytest.approx(sum(map(loss_on, pieces)), rel=1e-6)


def test_rows_of_one_piece_need_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """With padding behind a piece the loss and its gradients are those of the mask that is left out."""
    padded = padded_rows()
    assert not padded.is_packed
    plain = Trainer(model_of(WITHOUT_LOSSES), PLAIN)
    masked = Trainer(model_of(WITHOUT_LOSSES), PLAIN)
    found = gradients(plain, [padded])
    monkeypatch.setattr(Batch, "is_packed", True)
    expected = gradients(masked, [padded])
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_mean_over_scored_positions() -> None:
    model, batch = model_of(DENSE), packed_batch()
    logits = model(batch.tokens_BS, positions_BS=batch.positions_BS, documents_BS=batch.documents_BS)
    log_p = logits.detach().double().log_softmax(-1)
    scored = [(r, c) for r in range(4) for c in range(16) if batch.targets_BS[r, c] != IGNORED]
    expected = -sum(float(log_p[r, c, batch.targets_BS[r, c]]) for r, c in scored) / len(scored)
    update = Trainer(model, PLAIN).update([batch])
    assert update.loss == pytest.approx(expected, rel=1e-5)
    assert (update.n_targets, update.n_tokens) == (len(scored), 4 * 12)


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("config", [DENSE, WITHOUT_LOSSES], ids=["dense", "moe"])
def test_micro_batches_make_the_big_batch_s_step(config: object, parts: int) -> None:
    """Although their numbers of targets differ: a mean of means would be another loss."""
    huge = replace(PLAIN, clip_norm=1e9)
    batch = packed_batch(scored=0.3)
    counts = [part.n_targets for part in split(batch, parts)]
    assert len(set(counts)) > 1
    one, other = Trainer(model_of(config), huge), Trainer(model_of(config), huge)
    whole, cut = gradients(one, [batch]), gradients(other, split(batch, parts))
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    first, second = one.update([batch]), other.update(split(batch, parts))
    assert second.loss == pytest.approx(first.loss, rel=1e-5)
    assert second.gradient_norm == pytest.approx(first.gradient_norm, rel=1e-4)


def test_all_micro_batches_of_an_update_are_balanced_together() -> None:
    batch = packed_batch()
    one, other = Trainer(model_of(), PLAIN), Trainer(model_of(), PLAIN)
    one.update([batch])
    other.update(split(batch, 4))
    for first, second in zip(moe_layers(one.model).values(), moe_layers(other.model).values(), strict=True):
        assert first.router.bias is not None and first.router.bias.any()
        assert second.router.bias is not None and torch.equal(first.router.bias, second.router.bias)


def test_auxiliary_losses_weigh_as_much_as_their_micro_batch_s_targets() -> None:
    batch = packed_batch()
    parts = split(batch, 2)
    huge = replace(PLAIN, clip_norm=1e9)
    found = gradients(Trainer(model_of(WITH_LOSSES), huge), parts)
    reference = model_of(WITH_LOSSES).train()
    for part in parts:
        share = part.n_targets / batch.n_targets
        for layer in moe_layers(reference).values():
            layer.loss_scale = share
        with count_tokens_only(reference, part.documents_BS != PADDING):
            logits = reference(part.tokens_BS, positions_BS=part.positions_BS, documents_BS=part.documents_BS)
            loss = F.cross_entropy(logits.flatten(0, 1), part.targets_BS.flatten(), ignore_index=IGNORED)
            (loss * share).backward()
    name = "layers.0.ffn.router.weight"
    torch.testing.assert_close(
        found[name], dict(reference.named_parameters())[name].grad, rtol=1e-4, atol=1e-6
    )
    without = gradients(Trainer(model_of(MOE), huge), parts)
    assert not torch.allclose(found[name], without[name], rtol=1e-2)  # else this would not see them


def test_multi_token_prediction_is_learnt_beside_the_next_token() -> None:
    model = model_of(replace(DENSE, n_ahead=2))
    before = copy.deepcopy(model)
    update = Trainer(model, PLAIN).update([packed_batch(scored=1.0)])
    assert update.ahead_loss is not None and 2 < update.ahead_loss < 8
    moved = {
        name.split(".")[0]
        for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(p, q)
    }
    assert "ahead" in moved and "layers" in moved
    assert Trainer(model_of(DENSE), PLAIN).update([packed_batch()]).ahead_loss is None


def test_the_weight_of_multi_token_prediction_is_the_recipe_s() -> None:
    config = replace(DENSE, n_ahead=1)
    huge = replace(PLAIN, clip_norm=1e9)
    name = "ahead.0.w_join"
    batches = [packed_batch(scored=1.0)]
    once = gradients(Trainer(model_of(config), replace(huge, ahead_weight=0.1)), batches)[name]
    thrice = gradients(Trainer(model_of(config), replace(huge, ahead_weight=0.3)), batches)[name]
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_scored_in_chunks_with_the_step_of_the_textbook(
    monkeypatch: pytest.MonkeyPatch, tied: bool, precision: str
) -> None:
    config, huge = replace(DENSE, tie_embeddings=tied), replace(PLAIN, clip_norm=1e9)
    whole, chunked = (Trainer(model_of(config), huge, precision=precision) for _ in range(2))  # type: ignore[arg-type]
    found = gradients(chunked, [packed_batch()])
    used = []

    def textbook(
        x: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, n_targets: int
    ) -> torch.Tensor:
        used.append(1)
        return target_loss(F.linear(x, head), targets, n_targets=n_targets)

    monkeypatch.setattr(objective, "chunked_target_loss", textbook)
    expected = gradients(whole, [packed_batch()])
    assert used == [1]
    assert found.keys() == expected.keys() == {name for name, _ in whole.model.named_parameters()}
    tolerance = 1e-4 if precision == "fp32" else 3e-2
    for name, gradient in expected.items():
        difference = (found[name] - gradient).abs().max()
        assert difference <= tolerance * gradient.abs().max() + 1e-6, name


def test_schedule_and_curriculum_decide_the_rate() -> None:
    trainer = Trainer(model_of(DENSE), Recipe(learning_rate=0.1, warmup_steps=0, schedule="cosine"))
    update = trainer.update([packed_batch()], progress=0.5, learning_rate_scale=0.2)
    assert update.learning_rate == pytest.approx(0.1 * 0.5 * 0.2)
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {update.learning_rate}


def test_the_average_follows_every_update() -> None:
    trainer = Trainer(model_of(DENSE), replace(PLAIN, ema_decay=0.5))
    start = trainer.model.embedding.detach().clone()
    trainer.update([packed_batch()])
    assert trainer.average is not None
    expected = 0.5 * start + 0.5 * trainer.model.embedding.detach()
    torch.testing.assert_close(trainer.average.weights["embedding"], expected)


@pytest.mark.parametrize("where", ["loss", "gradients"])
def test_what_is_no_number_updates_nothing(where: str) -> None:
    trainer = Trainer(model_of(), PLAIN)
    trainer.update([packed_batch()])
    if where == "loss":
        with torch.no_grad():
            trainer.model.norm.weight[0] = float("nan")
    else:
        trainer.model.embedding.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    moments = copy.deepcopy(trainer.optimizer.state_dict()["state"])
    with pytest.raises(NotFiniteError, match=r"step 2 ") as raised:
        trainer.update([packed_batch(1)])
    assert trainer.steps == 1
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())
    after = trainer.optimizer.state_dict()["state"]
    assert all(same_state(after[key], moments[key]) for key in moments)
    assert str(raised.value).startswith(f"the {where} of")


def test_a_batch_without_a_target_is_refused() -> None:
    batch = packed_batch()
    silent = Batch(
        batch.tokens_BS,
        batch.positions_BS,
        batch.documents_BS,
        torch.full_like(batch.targets_BS, IGNORED),
    )
    with pytest.raises(ValueError, match="no position"):
        Trainer(model_of(), PLAIN).update([silent])


@pytest.mark.parametrize("config", [DENSE, WITH_LOSSES], ids=["dense", "moe"])
def test_bf16_keeps_fp32_masters_and_learns_almost_the_same(config: object) -> None:
    exact, rounded = Trainer(model_of(config), PLAIN), Trainer(model_of(config), PLAIN, precision="bf16")
    losses = [
        (exact.update([batch]).loss, rounded.update([batch]).loss)
        for batch in (packed_batch(seed) for seed in range(4))
    ]
    assert any(one != other for one, other in losses)  # else nothing was rounded
    for one, other in losses:
        assert other == pytest.approx(one, rel=0.03)
    kinds = {p.dtype for p in rounded.model.parameters()}
    kinds |= {value.dtype for state in rounded.optimizer.state.values() for value in state.values()}
    assert kinds == {torch.float32}


def test_under_autocast_experts_multiply_in_bf16_and_routers_do_not() -> None:
    trainer = Trainer(model_of(), PLAIN, precision="bf16")
    layer = next(iter(moe_layers(trainer.model).values()))
    seen: dict[str, torch.dtype] = {}

    def note(x_TD: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen["x"], seen["routing"], seen["weight"] = x_TD.dtype, rest[0].dtype, rest[2].dtype
        return x_TD

    assert isinstance(layer.experts, Experts)
    layer.experts.apply_experts.apply = note  # type: ignore[attr-defined]  # inside of the cast
    layer.router.register_forward_hook(
        lambda _module, _inputs, routing: seen.update(router=_first(routing).dtype)
    )
    with autocast("bf16", CPU):
        layer(torch.randn(5, 64))
    assert seen == {
        "x": torch.bfloat16,
        "routing": torch.float32,
        "weight": torch.bfloat16,
        "router": torch.float32,
    }
    layer(torch.randn(5, 64))
    assert seen["x"] is seen["weight"] is torch.float32  # outside, nothing is cast


def test_choices_of_experts_are_fp32_s_under_bf16() -> None:
    """A router in bf16 would choose other experts for close scores."""
    trainer = Trainer(model_of(), PLAIN, precision="bf16")
    layer = next(iter(moe_layers(trainer.model).values()))
    x_TD = torch.randn(400, 64)
    with torch.no_grad():
        exact = layer.router(x_TD).experts_TK
        with autocast("bf16", CPU):
            assert torch.equal(layer.router(x_TD).experts_TK, exact)
        rounded = (x_TD.bfloat16() @ layer.router.weight.bfloat16().T).topk(2).indices
    assert not torch.equal(rounded, exact)  # else this would not see a bf16 router


def test_fp16_is_for_cuda_and_unknown_formats_for_nobody() -> None:
    with pytest.raises(ConfigError, match="'fp16' is for CUDA"):
        check_precision("fp16", CPU)
    with pytest.raises(ConfigError, match="must be one of auto, fp32, bf16, fp16, not 'fp8'"):
        check_precision("fp8", CPU)
    check_precision("bf16", CPU)
    check_precision("auto", CPU)


def overflowing(trainer: Trainer) -> Trainer:
    """As in fp16 on CUDA: a scaler, and gradients that are too large for it."""
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    trainer.model.embedding.register_hook(lambda gradient: gradient * float("inf"))
    return trainer


def test_an_overflow_of_scaled_gradients_is_left_out_and_lowers_the_scale() -> None:
    trainer = overflowing(Trainer(model_of(DENSE), replace(PLAIN, ema_decay=0.5)))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    update = trainer.update([packed_batch()])
    assert update.is_skipped and trainer.steps == 1
    assert same_state(trainer.model.state_dict(), before)
    assert trainer.scaler.get_scale() == 2.0**9


def test_overflows_that_no_scale_cures_end_the_run() -> None:
    trainer = overflowing(Trainer(model_of(DENSE), PLAIN))
    with pytest.raises(NotFiniteError, match="gradients of step"):
        for seed in range(40):
            trainer.update([packed_batch(seed)])
    assert 10 < trainer.steps < 20


def test_a_scale_changes_no_gradient_that_fits() -> None:
    plain, scaled = Trainer(model_of(WITH_LOSSES), PLAIN), Trainer(model_of(WITH_LOSSES), PLAIN)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert not loss_scaler("bf16", CPU).is_enabled()
    for seed in range(2):
        one, other = plain.update([packed_batch(seed)]), scaled.update([packed_batch(seed)])
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)


def test_rows_are_dealt_out_evenly_and_each_once() -> None:
    batch = packed_batch(rows=7)
    parts = split(batch, 3)
    assert [len(part.tokens_BS) for part in parts] == [2, 2, 3]
    assert torch.equal(torch.cat([part.targets_BS for part in parts]), batch.targets_BS)
    assert len(split(batch, 20)) == 7
    with pytest.raises(ValueError, match="at least one part"):
        split(batch, 0)


def _first(routing: object) -> torch.Tensor:
    while isinstance(routing, tuple):
        routing = routing[0]
    assert isinstance(routing, torch.Tensor)
    return routing
