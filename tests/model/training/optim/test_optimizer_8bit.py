"""Eight-bit moments: their levels, their rounding, and AdamW's path with them against AdamW's in fp32."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.presets import PRESETS
from model.training.config.recipe import Recipe
from model.training.losses.cross_entropy import next_token_loss
from model.training.optim import adamw_8bit as optimizer_8bit
from model.training.optim import eight_bit_moments
from model.training.optim.adamw_8bit import AdamW8bit, adamw_8bit, state_bytes
from model.training.optim.choice import adamw, set_learning_rate
from model.training.optim.eight_bit_moments import BLOCK, decode, encode, levels
from model.training.run.trainer import Trainer
from model.transformer import Transformer

CPU = torch.device("cpu")
RECIPE = Recipe(learning_rate=1e-2, warmup_steps=0)


def numbers(n: int, seed: int = 0) -> Tensor:
    """Normal numbers whose size varies over six decades from block to block and within blocks."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=rng) * 10 ** (6 * torch.rand(n, generator=rng) - 3)


@pytest.mark.parametrize("signed", [True, False])
def test_levels_rise_from_minus_one_or_zero_to_one(signed: bool) -> None:
    codebook = levels(signed, CPU)
    assert codebook.shape == (256,) and codebook.dtype is torch.float32
    assert (codebook.diff() > 0).all()
    assert codebook[-1] == 1 and (codebook == 0).sum() == 1
    assert (codebook < 0).sum() == (127 if signed else 0)
    positive = codebook[codebook > 0]
    assert 3e-7 < positive[0] < 1e-6  # seven decades
    if signed:
        assert torch.equal(codebook[:127], -positive[:-1].flip(0))
    in_top_decade = (positive > 0.1).sum()
    assert in_top_decade == (65 if signed else 129)


@pytest.mark.parametrize("signed", [True, False])
def test_each_number_becomes_its_nearest_level(signed: bool) -> None:
    x = numbers(40 * BLOCK) if signed else numbers(40 * BLOCK).square()
    codes, scales = encode(x, signed=signed)
    ratios = x.view(-1, BLOCK) / scales[:, None]
    distance = (ratios.flatten()[:, None] - levels(signed, CPU)).abs()
    nearest = distance.amin(1)
    taken = distance.gather(1, codes.long()[:, None])[:, 0]
    if not signed:  # numbers above zero stay above zero
        assert (codes[x > 0] > 0).all()
        taken, nearest, ratios = (t.flatten()[codes > 1] for t in (taken, nearest, ratios))
    assert (taken <= nearest + ratios.flatten().abs() * 2**-11 + 1e-12).all()
    assert codes.unique().numel() > 200  # the numbers reach nearly all levels


@pytest.mark.parametrize("signed", [True, False])
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 3 * BLOCK + 1), seed=st.integers(0, 10_000))
def test_decoded_numbers_are_near_and_unsigned_ones_encode_to_themselves(
    signed: bool, n: int, seed: int
) -> None:
    x = numbers(n, seed) if signed else numbers(n, seed).abs()
    codes, scales = encode(x, signed=signed)
    assert codes.dtype is torch.uint8 and codes.shape == (n,) and scales.shape == (-(-n // BLOCK),)
    decoded = decode(codes, scales, signed=signed)
    assert decoded.shape == (n,) and (decoded * x >= 0).all()
    # half the widest gap, in the top decade of 64 or 128 levels, and what looking up by a prefix costs
    half_gap = 0.45 / (64 if signed else 128) + 2**-12
    assert ((decoded - x).abs() <= half_gap * scales.repeat_interleave(BLOCK)[:n]).all()
    if (
        not signed
    ):  # (a block whose largest number is negative has another scale the second time: -1 is no level)
        assert torch.equal(encode(decoded, signed=False)[0], codes)


def test_an_outlier_costs_its_own_block_only() -> None:
    x = torch.randn(4 * BLOCK, generator=torch.Generator().manual_seed(1))
    spoilt = x.clone()
    spoilt[BLOCK + 3] = 1e6
    plain, outlier = (decode(*encode(values, signed=True), signed=True) for values in (x, spoilt))
    same = torch.ones(4 * BLOCK, dtype=torch.bool)
    same[BLOCK : 2 * BLOCK] = False
    assert torch.equal(plain[same], outlier[same])
    assert (outlier[BLOCK : 2 * BLOCK] - spoilt[BLOCK : 2 * BLOCK]).abs().max() > 0.3


def test_zeros_stay_zeros_and_nan_spoils_its_block_visibly() -> None:
    x = torch.zeros(3 * BLOCK)
    for signed in (True, False):
        assert not decode(*encode(x, signed=signed), signed=signed).any()
    x[BLOCK] = torch.nan
    decoded = decode(*encode(x, signed=True), signed=True).view(3, BLOCK)
    assert decoded[1].isnan().all() and not decoded[0].any() and not decoded[2].any()


def test_tiny_second_moments_beside_large_ones_stay_above_zero() -> None:
    x = torch.full((BLOCK,), 1e-30)
    x[0] = 1.0
    decoded = decode(*encode(x, signed=False), signed=False)
    assert decoded[0] == 1 and (decoded > 0).all()


def parameters_of(*shapes: tuple[int, ...], seed: int = 2) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]


def set_gradients(parameters: list[nn.Parameter], step: int) -> None:
    rng = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=rng)
        parameter.grad = (0.3 * noise + parameter.detach().float()).to(parameter.dtype)


def test_small_tensors_take_adamws_path_exactly() -> None:
    mine, theirs = parameters_of((63, 65), (300,)), parameters_of((63, 65), (300,))
    optimizers = adamw_8bit(mine, RECIPE), adamw(theirs, RECIPE)
    for step in range(5):
        for parameters, optimizer in zip((mine, theirs), optimizers, strict=True):
            set_gradients(parameters, step)
            optimizer.step()
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def test_large_tensors_take_adamws_first_step_exactly_and_follow_it_closely() -> None:
    shape = (67, 123)
    mine, theirs = parameters_of(shape), parameters_of(shape)
    start = mine[0].detach().clone()
    optimizers = adamw_8bit(mine, RECIPE), adamw(theirs, RECIPE)
    for step in range(30):
        for parameters, optimizer in zip((mine, theirs), optimizers, strict=True):
            set_gradients(parameters, step)
            optimizer.step()
        if step == 0:  # moments were zero, and the step uses them before they are rounded
            torch.testing.assert_close(mine[0], theirs[0], rtol=1e-6, atol=1e-6)
    way, gap = (theirs[0] - start).norm(), (mine[0] - theirs[0]).norm()
    assert 0 < gap < 0.02 * way


def test_full_precision_is_kept_for_chosen_parameters() -> None:
    (chosen, other), (q, _) = parameters_of((80, 80), (80, 80)), parameters_of((80, 80), (80, 80))
    eight, plain = adamw_8bit([chosen, other], RECIPE, full_precision=[chosen]), adamw([q], RECIPE)
    for step in range(3):
        set_gradients([chosen, other], step)
        q.grad = chosen.grad.clone() if chosen.grad is not None else None
        eight.step()
        plain.step()
    torch.testing.assert_close(chosen, q, rtol=1e-6, atol=1e-6)
    assert eight.state[chosen]["exp_avg"].dtype is torch.float32
    assert eight.state[other]["exp_avg"].dtype is torch.uint8


def test_matrices_decay_and_vectors_do_not() -> None:
    matrix, vector = parameters_of((100, 100), (5000,))
    before = matrix.detach().clone(), vector.detach().clone()
    optimizer = adamw_8bit([matrix, vector], replace(RECIPE, weight_decay=0.5))
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(matrix, before[0] * (1 - 0.5 * 1e-2))
    assert torch.equal(vector, before[1])


def test_state_takes_a_quarter_of_fp32s() -> None:
    shape = (512, 256)
    sizes = []
    for make in (adamw_8bit, adamw):
        parameters = parameters_of(shape)
        optimizer = make(parameters, RECIPE)
        set_gradients(parameters, 0)
        optimizer.step()
        sizes.append(state_bytes(optimizer))
    n = 512 * 256
    assert sizes == [2 * n + 2 * 4 * n // BLOCK + 4, 8 * n + 4]  # codes, scales and the step count


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (optimizer_8bit.CHUNK, BLOCK):
        monkeypatch.setattr(optimizer_8bit, "CHUNK", chunk)
        parameters = parameters_of((41, 101))  # 4141 elements: the last block is short
        optimizer = adamw_8bit(parameters, RECIPE)
        for step in range(3):
            set_gradients(parameters, step)
            optimizer.step()
        results.append((parameters[0].detach(), optimizer.state[parameters[0]]["exp_avg"]))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resuming_from_a_file_is_exact(dtype: torch.dtype) -> None:
    shapes = ((70, 70), (31,))

    def run(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            set_gradients(parameters, step)
            optimizer.step()

    straight = [nn.Parameter(p.detach().to(dtype)) for p in parameters_of(*shapes)]
    run(straight, adamw_8bit(straight, RECIPE), range(6))
    first = [nn.Parameter(p.detach().to(dtype)) for p in parameters_of(*shapes)]
    optimizer = adamw_8bit(first, RECIPE)
    run(first, optimizer, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = adamw_8bit(second, RECIPE)
    resumed.load_state_dict(saved)
    untouched = copy.deepcopy(saved)
    run(second, resumed, range(3, 6))
    for p, q in zip(straight, second, strict=True):
        assert torch.equal(p, q)
    for index, state in saved["state"].items():  # a loaded state is copied: training does not write into it
        assert all(torch.equal(value, untouched["state"][index][name]) for name, value in state.items())


def test_the_state_of_a_plain_adamw_is_taken_over() -> None:
    mine, theirs = parameters_of((70, 70)), parameters_of((70, 70))
    plain = adamw(theirs, RECIPE)
    for step in range(10):
        set_gradients(theirs, step)
        plain.step()
    mine[0].data.copy_(theirs[0].data)
    eight = adamw_8bit(mine, RECIPE)
    eight.load_state_dict({**plain.state_dict(), "param_groups": plain.state_dict()["param_groups"][:1]})
    moments, exact = eight.moments(mine[0]), plain.state[theirs[0]]
    assert eight.state[mine[0]]["exp_avg"].dtype is torch.uint8
    assert moments["step"] == 10
    for name in ("exp_avg", "exp_avg_sq"):
        assert (moments[name] - exact[name]).norm() < 0.02 * exact[name].norm()
    for parameters, optimizer in ((mine, eight), (theirs, plain)):
        set_gradients(parameters, 11)
        optimizer.step()
    torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=0.1 * RECIPE.learning_rate)


def test_moments_can_be_read_and_set() -> None:
    source, target = parameters_of((70, 70), (9,)), parameters_of((70, 70), (9,))
    optimizer = adamw_8bit(source, RECIPE)
    assert optimizer.moments(source[0]) == {}
    set_gradients(source, 0)
    optimizer.step()
    other = adamw_8bit(target, RECIPE)
    for p, q in zip(source, target, strict=True):
        other.set_moments(q, optimizer.moments(p))
        again = other.moments(q)
        for name, value in optimizer.moments(p).items():
            torch.testing.assert_close(again[name], value, rtol=0, atol=float(value.abs().max()) * 0.01)


def test_states_of_another_model_are_refused() -> None:
    parameters, others = parameters_of((70, 70)), parameters_of((70, 71))
    optimizer = adamw_8bit(parameters, RECIPE)
    set_gradients(parameters, 0)
    optimizer.step()
    with pytest.raises(ValueError, match="saved with"):
        adamw_8bit(others, RECIPE).load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="saved with"):
        adamw_8bit(others, RECIPE).set_moments(others[0], optimizer.moments(parameters[0]))
    sgd = torch.optim.SGD(parameters, momentum=0.9)
    sgd.step()
    with pytest.raises(ValueError, match="AdamW's state"):
        adamw_8bit(parameters, RECIPE).load_state_dict(sgd.state_dict())


def test_parameters_and_gradients_that_it_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        AdamW8bit([nn.Parameter(torch.randn(8, 9).T)])
    (parameter,) = parameters_of((8, 9))
    parameter.grad = torch.randn(8, 9).to_sparse()
    with pytest.raises(RuntimeError, match="dense"):
        AdamW8bit([parameter]).step()


def test_elements_without_a_gradient_for_a_while_move_by_no_more_than_their_moments_say() -> None:
    """A second moment rounded to zero under a first moment that is not would move a weight by thousands."""
    (parameter,) = parameters_of((16, 256))
    optimizer = AdamW8bit([parameter], learning_rate=1e-2, weight_decay=0.0)
    before = parameter.detach().clone()
    for step in range(4):
        gradient = torch.zeros(16, 256)
        gradient[:, 0] = 1e4
        if step == 0:
            gradient[:, 1] = 1.0  # a second moment 10^-8 of its block's largest
        parameter.grad = gradient
        optimizer.step()
    moved = (parameter.detach() - before).abs()
    assert moved[:, 1].max() < 4 * 1e-2 * 1.01 and moved[:, 0].min() > 3e-2


def test_the_learning_rate_can_be_set() -> None:
    (parameter,) = parameters_of((80, 80))
    optimizer = adamw_8bit([parameter], replace(RECIPE, weight_decay=0.0))
    set_learning_rate(optimizer, 0.0)
    before = parameter.detach().clone()
    set_gradients([parameter], 0)
    optimizer.step()
    assert torch.equal(parameter, before)


def test_a_model_learns_a_rule_with_it_as_well_as_without() -> None:
    """Each token is the one before it plus three, on sequences that training did not see."""

    def sequences(seed: int) -> Tensor:
        start = torch.randint(0, 32, (16, 1), generator=torch.Generator().manual_seed(seed))
        return (start + 3 * torch.arange(10)) % 32

    torch.manual_seed(0)
    config = replace(PRESETS["tiny"], vocab_size=32, n_layers=1, tie_embeddings=True)
    trainer = Trainer(Transformer(config), Recipe(warmup_steps=5))
    trainer.optimizer = adamw_8bit(trainer.model.parameters(), trainer.recipe)  # type: ignore[assignment]
    for seed in range(80):
        trainer.step(sequences(seed))
    quantised = [s for s in trainer.optimizer.state.values() if s["exp_avg"].dtype is torch.uint8]
    assert len(quantised) == 5  # w_q, w_o and the experts' three stacks
    assert next_token_loss(trainer.logits(sequences(99)), sequences(99)) < 0.2


def test_tables_are_made_once_per_device() -> None:
    assert levels(True, CPU) is levels(True, CPU)
    assert eight_bit_moments._codes_by_prefix(True, CPU) is eight_bit_moments._codes_by_prefix(True, CPU)
