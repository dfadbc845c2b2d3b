"""The divergence of softened distributions, full and by top tokens, against fp64 and its own theory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import ConfigError
from model.distill import TopK, kl_divergence, top_k_of
from model.training.config.temperature import HIGHEST, LOWEST


def logits(n: int, vocabulary: int, seed: int, scale: float = 2.0) -> Tensor:
    return torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def exact(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = (student.double() / temperature).log_softmax(-1)
    p = (teacher.double() / temperature).softmax(-1)
    return temperature**2 * F.kl_div(log_q, p, reduction="none").sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_the_textbooks_divergence_times_the_temperature_squared(temperature: float) -> None:
    student, teacher = logits(20, 30, 0), logits(20, 30, 1)
    found = kl_divergence(student, teacher, temperature)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), exact(student, teacher, temperature), rtol=1e-5, atol=1e-6)


def test_its_gradient_is_the_temperature_times_the_difference_of_probabilities() -> None:
    student, teacher = logits(20, 30, 0).requires_grad_(), logits(20, 30, 1).requires_grad_()
    kl_divergence(student, teacher, 3.0).sum().backward()
    expected = 3.0 * ((student / 3).softmax(-1) - (teacher / 3).softmax(-1))
    assert teacher.grad is None and student.grad is not None
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-4, atol=1e-6)


def test_equal_distributions_differ_by_nothing_and_others_by_something() -> None:
    teacher = logits(20, 30, 1)
    for known in (teacher, top_k_of(teacher, 5, 2.0), top_k_of(teacher, 30, 2.0)):
        assert kl_divergence(teacher + 7.0, known, 2.0).abs().max() < 1e-5
        assert kl_divergence(logits(20, 30, 2), known, 2.0).min() > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_top_tokens_are_the_likeliest_and_the_rest_has_what_is_left(temperature: float) -> None:
    teacher = logits(20, 30, 1)
    top, p = top_k_of(teacher, 4, temperature), (teacher / temperature).softmax(-1)
    torch.testing.assert_close(top.log_p_NK.exp(), p.topk(4, dim=-1).values)
    torch.testing.assert_close(p.gather(-1, top.ids_NK), top.log_p_NK.exp())
    torch.testing.assert_close(top.log_p_NK.exp().sum(-1) + top.log_rest_N.exp(), torch.ones(20))


@settings(max_examples=60, deadline=None)
@given(
    vocabulary=st.integers(2, 40),
    k=st.integers(1, 40),
    temperature=st.floats(0.3, 8),
    scale=st.floats(0.1, 20),
    seed=st.integers(0, 1000),
)
def test_top_tokens_bound_the_full_divergence_from_below_and_reach_it(
    vocabulary: int, k: int, temperature: float, scale: float, seed: int
) -> None:
    k = min(k, vocabulary)
    student, teacher = logits(6, vocabulary, seed, scale), logits(6, vocabulary, seed + 1, scale)
    full = exact(student, teacher, temperature)
    found = kl_divergence(student, top_k_of(teacher, k, temperature), temperature).double()
    slack = 1e-5 * (1 + full.abs()) * (1 + temperature**2)
    assert (found <= full + slack).all() and (found >= -slack).all()
    if k >= vocabulary - 1:  # one other token is no merger
        assert ((found - full).abs() <= slack + 1e-4 * full).all()


def test_the_gradient_by_top_tokens_moves_the_rest_as_a_whole() -> None:
    student, teacher = logits(8, 30, 0).requires_grad_(), logits(8, 30, 1)
    top = top_k_of(teacher, 5, 1.0)
    kl_divergence(student, top, 1.0).sum().backward()
    assert student.grad is not None
    q, gradient = student.detach().softmax(-1), student.grad
    chosen = torch.zeros(8, 30, dtype=torch.bool).scatter_(1, top.ids_NK, True)
    # at a top token: q - p; elsewhere: a token's share of the rest times (q_rest - p_rest)
    p = torch.zeros(8, 30).scatter_(1, top.ids_NK, top.log_p_NK.exp())
    rest = q.masked_fill(chosen, 0.0)
    q_rest = rest.sum(-1, keepdim=True)
    expected = torch.where(chosen, q - p, rest / q_rest * (q_rest - top.log_rest_N.exp()[:, None]))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_certain_teachers_and_students_give_finite_losses_and_gradients(k: int) -> None:
    teacher = torch.tensor([[200.0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0]])
    student = torch.tensor([[0.0, 200, 0, 0, -400], [300.0, -300, 0, 0, 0]], requires_grad=True)
    for known in (teacher, top_k_of(teacher, k, 1.0)):
        loss = kl_divergence(student, known, 1.0)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert loss.isfinite().all() and gradient.isfinite().all()
        assert loss[0] > 150  # the student is certain of what the teacher excludes


def test_bf16_logits_are_compared_in_fp32() -> None:
    student, teacher = logits(20, 30, 0).bfloat16(), logits(20, 30, 1).bfloat16()
    found = kl_divergence(student, teacher, 2.0)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), exact(student, teacher, 2.0), rtol=1e-5, atol=1e-6)


def test_what_does_not_belong_together_is_refused() -> None:
    teacher = logits(4, 10, 0)
    with pytest.raises(ValueError, match="do not fit"):
        kl_divergence(logits(4, 11, 0), teacher, 1.0)
    with pytest.raises(ValueError, match="4 positions, the student 5"):
        kl_divergence(logits(5, 10, 0), top_k_of(teacher, 3, 1.0), 1.0)
    with pytest.raises(ValueError, match=r"temperature of 1\.0, not 2\.0"):
        kl_divergence(logits(4, 10, 0), top_k_of(teacher, 3, 1.0), 2.0)
    for k in (0, 11):
        with pytest.raises(ValueError, match="from 1 to the vocabulary's 10"):
            top_k_of(teacher, k, 1.0)
    for temperature in (0.0, -1.0, 0.009, 101.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"from 0\.01 to 100, not"):
            kl_divergence(teacher, teacher, temperature)


@pytest.mark.parametrize("temperature", [LOWEST, HIGHEST])
def test_at_the_ends_of_what_is_allowed_enough_digits_are_left(temperature: float) -> None:
    student, teacher = 3 * logits(200, 1000, 0), 3 * logits(200, 1000, 1)
    student.requires_grad_()
    found = kl_divergence(student, teacher, temperature)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    wide = student.detach().double().requires_grad_()
    expected = exact(wide, teacher, temperature)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), wide)
    assert (found.double() - expected).norm() <= 1e-3 * expected.norm()
    assert (gradient.double() - expected_gradient).norm() <= 1e-4 * expected_gradient.norm()


def test_no_positions_give_no_losses() -> None:
    top = TopK(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2), torch.zeros(0), 1.0)
    assert kl_divergence(torch.zeros(0, 5), top, 1.0).shape == (0,)
