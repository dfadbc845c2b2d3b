"""The compiled experts equal the readable reference, forward and backward, at any size; and a token is on its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.layers.moe import experts_fused, experts_reference
from tests.needs_torch import needs_kernels

pytestmark = needs_kernels

# Root mean square of the difference to the reference in fp32, relative. fp32 sums in another order; bf16 rounds the
# hidden numbers and the answer to 8 bits, and its gradients come of two more roundings.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3}
# Read weights where they lie, or from packed panels, whatever the size would have it.
WAYS = {"where they lie": 1 << 40, "packed": 0}
FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True)
def both_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels compute both formats on every processor, if slowly."""
    monkeypatch.setattr(experts_fused, "_fast_formats", lambda: 3)


class Problem:
    """Seeded arguments; only experts in `usable` are chosen."""

    def __init__(
        self, t: int, d: int, f: int, e: int, k: int, dtype: torch.dtype = torch.float32, usable: int = 0
    ) -> None:
        rng = torch.Generator().manual_seed(t + 7 * d + 11 * f + 13 * e + 17 * k)

        def normal(*size: int) -> Tensor:
            return (torch.randn(*size, generator=rng) * size[-1] ** -0.5).to(dtype)

        self.x = (torch.randn(t, d, generator=rng)).to(dtype)
        self.weights = torch.rand(t, k, generator=rng) + 0.1
        self.chosen = torch.rand(t, usable or e, generator=rng).topk(k).indices
        self.stacks = (normal(e, f, d), normal(e, f, d), normal(e, d, f))
        self.direction = torch.randn(t, d, generator=rng).to(dtype)

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return (self.x, self.weights, self.chosen, *self.stacks)

    def answers(self, apply: Callable[..., Tensor], *, wide: bool = False) -> list[Tensor]:
        """y and the gradients of x, the weights and the three stacks."""
        x, weights, chosen, *stacks = (
            t.float() if wide and t.is_floating_point() else t for t in self.arguments
        )
        leaves = [t.detach().clone().requires_grad_() for t in (x, weights, *stacks)]
        y = apply(leaves[0], leaves[1], chosen, *leaves[2:])
        y.backward(self.direction.to(y.dtype))
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        assert len(gradients) == len(leaves)
        return [y.detach(), *gradients]


def error(found: Tensor, expected: Tensor) -> float:
    difference = (found.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-12)
    return float(difference)


def assert_equals_reference(problem: Problem, dtype: torch.dtype) -> None:
    found = problem.answers(experts_fused.apply_experts)
    expected = problem.answers(experts_reference.apply_experts, wide=True)
    with torch.no_grad():
        found.append(experts_fused.apply_experts(*problem.arguments))
    expected.append(expected[0])
    names = ("y", "x", "weights", "gate", "up", "down", "y without gradients")
    for name, one, other in zip(names, found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == (torch.float32 if name == "weights" else dtype)
        assert error(one, other) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("way", WAYS)
@FORMATS
@pytest.mark.parametrize(
    ("t", "d", "f", "e", "k"),
    [
        (1, 64, 96, 8, 2),
        (5, 33, 17, 4, 4),  # all experts
        (40, 130, 67, 6, 2),  # a whole tile and rests, odd widths
        (65, 32, 48, 64, 1),  # more experts than rows: many are empty
        (600, 48, 32, 8, 3),
        (90, 7, 3, 3, 2),
        (200, 64, 64, 1, 1),
    ],
)
def test_compiled_experts_equal_the_reference(
    t: int, d: int, f: int, e: int, k: int, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(way, monkeypatch)
    assert_equals_reference(Problem(t, d, f, e, k, dtype), dtype)


def choose(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_fused, "FEW_TOKENS", WAYS[way])
    monkeypatch.setattr(experts_fused, "FEW_ROWS", WAYS[way])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    t=st.integers(1, 150),
    d=st.integers(1, 150),
    f=st.integers(1, 90),
    e=st.integers(1, 9),
    k=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    threads=st.sampled_from([1, 3]),
    way=st.sampled_from(sorted(WAYS)),
)
def test_any_size_equals_the_reference(
    t: int, d: int, f: int, e: int, k: int, dtype: torch.dtype, threads: int, way: str
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        problem = Problem(t, d, f, e, min(k, e), dtype)
        with pytest.MonkeyPatch.context() as monkeypatch:
            choose(way, monkeypatch)
            found = problem.answers(experts_fused.apply_experts)
        expected = problem.answers(experts_reference.apply_experts, wide=True)
        tolerance = TOLERANCE[dtype] * 4  # sums of a handful of products do not average their errors out
        assert all(error(one, other) <= tolerance for one, other in zip(found, expected, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("way", WAYS)
@FORMATS
def test_threads_change_no_bit(dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(way, monkeypatch)
    problem = Problem(97, 200, 72, 5, 2, dtype)
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            answers.append(problem.answers(experts_fused.apply_experts))
    finally:
        torch.set_num_threads(before)
    for other in answers[1:]:
        assert all(torch.equal(one, two) for one, two in zip(answers[0], other, strict=True))


@FORMATS
def test_a_token_of_few_is_alone_whatever_comes_with_it(dtype: torch.dtype) -> None:
    problem = Problem(experts_fused.FEW_TOKENS, 72, 45, 8, 2, dtype)
    x, weights, chosen, *stacks = problem.arguments
    together = problem.answers(experts_fused.apply_experts)[0]
    with torch.no_grad():
        for part in (slice(0, 1), slice(3, 20), slice(20, 64)):
            alone = experts_fused.apply_experts(x[part], weights[part], chosen[part], *stacks)
            assert torch.equal(alone, together[part])


@FORMATS
def test_experts_that_nobody_chose_get_zero_gradients_and_all_others_some(dtype: torch.dtype) -> None:
    problem = Problem(50, 40, 24, 12, 2, dtype, usable=5)
    # torch.empty's memory is full of what a wrong kernel would leave in it
    torch.full((12, 24, 40), math.nan)
    for gradient in problem.answers(experts_fused.apply_experts)[3:]:
        assert torch.equal(gradient[5:], torch.zeros_like(gradient[5:]))
        assert bool((gradient[:5].flatten(1).abs().amax(1) > 0).all())


def test_only_wanted_gradients_are_made() -> None:
    problem = Problem(30, 40, 24, 6, 2)
    everything = problem.answers(experts_fused.apply_experts)[1:]
    for wanted in range(5):
        x, weights, chosen, *stacks = (t.clone() for t in problem.arguments)
        leaves = [x, weights, *stacks]
        leaves[wanted].requires_grad_()
        experts_fused.apply_experts(x, weights, chosen, *stacks).backward(problem.direction)
        gradients = [leaf.grad for leaf in leaves]
        assert [gradient is not None for gradient in gradients] == [i == wanted for i in range(5)]
        assert torch.equal(gradients[wanted], everything[wanted])  # type: ignore[arg-type]  # it is not None


@FORMATS
def test_strided_arguments_are_computed_as_whole_ones(dtype: torch.dtype) -> None:
    problem = Problem(20, 24, 16, 4, 2, dtype)
    expected = problem.answers(experts_fused.apply_experts)
    problem.x = problem.x.t().contiguous().t()
    problem.weights = problem.weights.repeat_interleave(2, dim=1)[:, ::2]
    problem.chosen = problem.chosen.t().contiguous().t()
    problem.direction = problem.direction.t().contiguous().t()
    assert not any(t.is_contiguous() for t in (problem.x, problem.weights, problem.chosen))
    found = problem.answers(experts_fused.apply_experts)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_gradient_that_is_one_number_everywhere_is_read_right() -> None:
    """`y.sum().backward()` hands back a tensor whose strides are all zero."""
    problem = Problem(20, 24, 16, 4, 2)
    found, expected = ([], [])
    for form, gradients in ((experts_fused, found), (experts_reference, expected)):
        leaves = [t.clone().requires_grad_() for t in (problem.x, *problem.stacks)]
        form.apply_experts(leaves[0], problem.weights, problem.chosen, *leaves[1:]).sum().backward()
        gradients.extend(leaf.grad for leaf in leaves)
    assert all(error(one, other) <= 1e-6 for one, other in zip(found, expected, strict=True))


def test_one_stack_used_twice_gets_the_sum_of_both_gradients() -> None:
    gradients = []
    for form in (experts_fused, experts_reference):
        problem = Problem(20, 24, 24, 4, 2)
        x, stack = problem.x.clone().requires_grad_(), problem.stacks[0].clone().requires_grad_()
        once = form.apply_experts(x, problem.weights, problem.chosen, stack, stack, stack.mT.contiguous())
        twice = form.apply_experts(once, problem.weights, problem.chosen, stack, stack, problem.stacks[2])
        gradients.append(torch.autograd.grad(twice, (x, stack), problem.direction, retain_graph=True))
        again = torch.autograd.grad(twice, (x, stack), problem.direction)
        assert all(torch.equal(one, other) for one, other in zip(again, gradients[-1], strict=True))
    assert all(error(one, other) <= 1e-6 for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_gradients_are_the_same(reentrant: bool) -> None:
    problem = Problem(33, 24, 16, 4, 2)
    plain = problem.answers(experts_fused.apply_experts)
    recomputed = problem.answers(
        lambda *arguments: checkpoint(experts_fused.apply_experts, *arguments, use_reentrant=reentrant)
    )
    assert all(torch.equal(one, other) for one, other in zip(plain, recomputed, strict=True))


def test_gradients_have_gradients() -> None:
    norms = []
    for form in (experts_fused, experts_reference):
        problem = Problem(6, 8, 5, 3, 2)
        x, stack = problem.x.clone().requires_grad_(), problem.stacks[0].clone().requires_grad_()
        y = form.apply_experts(x, problem.weights, problem.chosen, stack, *problem.stacks[1:])
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        norms.append(torch.autograd.grad(first.square().sum(), (x, stack)))
    assert all(error(one, other) <= 1e-5 for one, other in zip(*norms, strict=True))


def test_less_is_kept_for_the_backward_pass_than_torch_s_own_operations_keep() -> None:
    def kept_bytes(apply: Callable[..., Tensor]) -> int:
        sizes: dict[int, int] = {}

        def keep(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        leaves = [t.clone().requires_grad_() for t in (problem.x, *problem.stacks)]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = apply(leaves[0], problem.weights, problem.chosen, *leaves[1:])
        assert y.requires_grad
        own = {t.untyped_storage().data_ptr() for t in leaves}
        return sum(size for pointer, size in sizes.items() if pointer not in own)

    problem = Problem(200, 32, 32, 4, 2)
    hidden = 200 * 2 * 2 * 32 * 4  # what the activation gets
    assert hidden <= kept_bytes(experts_fused.apply_experts) <= hidden + 200 * 2 * (8 + 4)


@pytest.mark.parametrize("wrong", [-1, 6, 1 << 40])
@pytest.mark.parametrize("needs_grad", [True, False])
def test_an_expert_that_does_not_exist_is_refused(wrong: int, needs_grad: bool) -> None:
    problem = Problem(10, 8, 8, 6, 2)
    problem.chosen[3, 1] = wrong
    problem.x.requires_grad_(needs_grad)
    with pytest.raises(IndexError, match=r"0 \.\. 5"):
        experts_fused.apply_experts(*problem.arguments)


@FORMATS
def test_numbers_that_are_none_or_endless_stay_visible(dtype: torch.dtype) -> None:
    problem = Problem(9, 40, 24, 3, 1, dtype)
    problem.x[4, 7] = math.nan
    y = experts_fused.apply_experts(*problem.arguments)
    assert y[4].isnan().all() and not y[[0, 1, 2, 3, 5, 6, 7, 8]].isnan().any()
    problem.x[4, 7] = math.inf
    assert not experts_fused.apply_experts(*problem.arguments)[4].isfinite().all()


@FORMATS
def test_large_numbers_saturate_the_activation_as_the_reference_does(dtype: torch.dtype) -> None:
    problem = Problem(12, 40, 24, 3, 2, dtype)
    problem.x *= 300
    found, expected = (
        problem.answers(experts_fused.apply_experts),
        problem.answers(experts_reference.apply_experts, wide=True),
    )
    assert all(error(one, other) <= 4 * TOLERANCE[dtype] for one, other in zip(found, expected, strict=True))


def test_a_swapped_expert_and_a_changed_weight_are_noticed() -> None:
    """The comparisons above can fail."""
    problem = Problem(16, 32, 48, 8, 2)
    expected = experts_reference.apply_experts(*problem.arguments)
    problem.weights[5, 0] *= 1.01
    assert error(experts_fused.apply_experts(*problem.arguments), expected) > 100 * 1e-6
    problem.weights[5, 0] /= 1.01
    problem.chosen[5, 0] = next(e for e in range(8) if e not in problem.chosen[5].tolist())
    assert error(experts_fused.apply_experts(*problem.arguments), expected) > 1e-2
