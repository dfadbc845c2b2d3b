"""The compiled linear map equals its definition in fp64, forward and backward, at any shape, and is used where it fits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from model.data.batches.batch import IGNORED
from model.layers import linear_fused, recompute
from model.layers.attention.gqa import Attention
from model.layers.attention.rotary import Rotary
from model.layers.linear import linear
from model.layers.watched import torch_instead
from model.training.losses.chunked import chunked_target_loss
from tests.model.random_models import SMALL
from tests.model.training.losses.reference_loss import target_loss
from tests.needs_torch import needs_kernels

pytestmark = [
    needs_kernels,
    pytest.mark.slow,
]

FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
UNIT = {torch.float32: 2**-24, torch.bfloat16: 2**-8}
NAMES = ("y", "grad_x", "grad_weight")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Used for any number of rows, in both formats."""
    monkeypatch.setattr(linear_fused, "least_rows", lambda dtype: 1)
    monkeypatch.setattr(linear_fused, "_fast_formats", lambda: 3)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that ran."""
    seen: list[str] = []
    run = linear_fused._run

    def counted(name: str, *rest: Any, **arrays: Any) -> None:
        seen.append(name)
        run(name, *rest, **arrays)

    monkeypatch.setattr(linear_fused, "_run", counted)
    return seen


class Problem:
    """Seeded rows, a weight, and the direction that answers are differentiated in."""

    def __init__(self, rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        rng = torch.Generator().manual_seed(rows + 7 * inputs + 11 * outputs)
        self.x, self.weight, self.direction = (
            torch.randn(size, generator=rng).to(dtype)
            for size in ((rows, inputs), (outputs, inputs), (rows, outputs))
        )

    def answers(self, apply: Callable[[Tensor, Tensor], Tensor], *, exact: bool = False) -> list[Tensor]:
        """y, and the gradients of x and of the weight."""
        leaves = [t.double() if exact else t.clone() for t in (self.x, self.weight)]
        x, weight = (leaf.requires_grad_() for leaf in leaves)
        y = apply(x, weight)
        gradients = torch.autograd.grad(y, (x, weight), self.direction.to(y.dtype))
        return [y.detach(), *gradients]

    def bounds(self) -> list[Tensor]:
        """For each answer the sums of its terms' absolute values."""
        x, weight, direction = (t.double().abs() for t in (self.x, self.weight, self.direction))
        return [x @ weight.mT, direction @ weight, direction.mT @ x]


def assert_right(problem: Problem) -> None:
    dtype = problem.x.dtype
    n_terms = (problem.x.shape[1], problem.weight.shape[0], problem.x.shape[0])
    exact, found = problem.answers(F.linear, exact=True), problem.answers(linear_fused.linear)
    for name, wanted, answer, bound, n in zip(NAMES, exact, found, problem.bounds(), n_terms, strict=True):
        assert answer.dtype is dtype, name
        allowed = n * UNIT[torch.float32] * bound + UNIT[dtype] * wanted.abs()  # of sums, and of the answer
        assert ((answer.double() - wanted).abs() <= allowed + 1e-12).all(), name


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 80),
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 200),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    threads=st.sampled_from([1, 2, 5]),
)
def test_answers_and_gradients_are_the_definitions(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_right(Problem(rows, inputs, outputs, dtype))
    finally:
        torch.set_num_threads(before)


@FORMATS
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(7, 4501, 70), (70, 33, 8300), (4501, 70, 97), (1100, 130, 67)],
    ids=["many inputs", "many outputs", "many rows", "parts of rows"],
)
def test_sums_longer_than_a_panel_are_the_definitions(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype
) -> None:
    assert_right(Problem(rows, inputs, outputs, dtype))


@FORMATS
def test_numbers_do_not_depend_on_the_threads(dtype: torch.dtype) -> None:
    problem, before = Problem(1300, 2100, 150, dtype), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = problem.answers(linear_fused.linear)
        torch.set_num_threads(7)
        together = problem.answers(linear_fused.linear)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@FORMATS
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    problem = Problem(1100, 90, 130, dtype)
    whole = linear_fused.project(problem.x, problem.weight)
    part = linear_fused.project(problem.x[1030:1051].contiguous(), problem.weight)
    assert torch.equal(part, whole[1030:1051])


@FORMATS
def test_a_wide_gradient_is_unrounded_and_added_in_place(dtype: torch.dtype) -> None:
    problem = Problem(90, 100, 70, dtype)
    first = linear_fused.add_grad_weight(problem.direction, problem.x, None)
    assert first.dtype is torch.float32
    torch.testing.assert_close(
        first.double(), problem.direction.double().mT @ problem.x.double(), rtol=1e-5, atol=1e-4
    )
    begun = torch.ones_like(first)
    added = linear_fused.add_grad_weight(problem.direction, problem.x, begun)
    assert added.data_ptr() == begun.data_ptr()
    assert torch.equal(added, first + 1)


@pytest.mark.usefixtures("everywhere")
def test_leading_dimensions_stay_and_views_are_read_in_their_order(calls: list[str]) -> None:
    problem = Problem(24, 10, 9, torch.float32)
    x = problem.x.view(4, 6, 10).transpose(0, 1)
    torch.testing.assert_close(linear(x, problem.weight), x @ problem.weight.mT)
    assert calls == ["forward"]


def test_gradients_have_gradients_of_their_own() -> None:
    problem = Problem(6, 5, 4, torch.float32)

    def second(apply: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        x, weight = problem.x.clone().requires_grad_(), problem.weight.clone().requires_grad_()
        first = torch.autograd.grad(apply(x, weight).square().sum(), (x, weight), create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight)))

    for found, wanted in zip(second(linear_fused.linear), second(F.linear), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


class Passing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    "within",
    [torch_instead, Passing, Watching, lambda: torch.autocast("cpu", dtype=torch.float16)],
    ids=["torch instead", "replaced functions", "watched operations", "autocast to another format"],
)
def test_torch_multiplies_while_something_looks_on(
    within: Callable[[], AbstractContextManager[Any]], calls: list[str]
) -> None:
    problem = Problem(30, 20, 10, torch.float32)
    with within():
        answers = problem.answers(linear)
        wanted = problem.answers(F.linear)
    assert not calls and all(torch.equal(a, b) for a, b in zip(answers, wanted, strict=True))


@pytest.mark.usefixtures("everywhere")
def test_autocast_s_format_is_multiplied_whatever_the_tensors_are(calls: list[str]) -> None:
    problem = Problem(30, 20, 10, torch.float32)
    wide = problem.x.requires_grad_(), problem.weight.requires_grad_()
    narrow = tuple(t.detach().bfloat16().requires_grad_() for t in wide)
    expected = linear(*narrow)
    gradients = torch.autograd.grad(expected.float().sum(), narrow)
    for x, weight in ((wide[0], wide[1]), (wide[0], narrow[1]), (narrow[0], wide[1])):
        calls.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = linear(x, weight)
        found = torch.autograd.grad(y.float().sum(), (x, weight))
        assert calls == ["forward", "grad_input", "grad_weight"]
        assert torch.equal(y, expected)
        for gradient, wanted, of in zip(found, gradients, (x, weight), strict=True):
            assert gradient.dtype is of.dtype and torch.equal(gradient, wanted.to(of.dtype))


@pytest.mark.usefixtures("everywhere")
def test_torch_multiplies_what_does_not_fit(calls: list[str]) -> None:
    problem = Problem(30, 20, 10, torch.float32)
    x, weight = problem.x, problem.weight
    for other_x, other_weight, bias in (
        (x, weight, torch.ones(10)),
        (x.double(), weight.double(), None),
        (x, weight.mT.contiguous().mT, None),
        (x.to("meta"), weight.to("meta"), None),
        (x[:0], weight, None),
    ):
        assert linear(other_x, other_weight, bias).shape == (len(other_x), 10)
    assert not calls
    linear(x, nn.Parameter(weight))
    assert calls == ["forward"]


def test_few_rows_are_torchs(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    monkeypatch.setattr(linear_fused, "_fast_formats", lambda: 1)
    for rows in (511, 512):
        linear(torch.ones(rows, 3), torch.ones(2, 3))
    linear(torch.ones(4, 512, 3).bfloat16(), torch.ones(2, 3).bfloat16())
    assert calls == ["forward"]


@pytest.mark.parametrize("least", [8, 512])
def test_fewer_rows_are_ours_where_torch_has_no_fast_bf16(
    monkeypatch: pytest.MonkeyPatch, calls: list[str], least: int
) -> None:
    monkeypatch.setattr(linear_fused, "_fast_formats", lambda: 3)
    monkeypatch.setattr(linear_fused, "least_rows", lambda dtype: least)
    for rows in (7, 8, 511, 512):
        linear(torch.ones(rows, 3).bfloat16(), torch.ones(2, 3).bfloat16())
    assert len(calls) == (3 if least == 8 else 1)


@pytest.mark.usefixtures("everywhere")
def test_selective_checkpoints_keep_what_projections_return(calls: list[str]) -> None:
    torch.manual_seed(5)
    attention = Attention(SMALL)
    rotation = Rotary.of(SMALL).at(torch.arange(6), torch.float32)
    x = torch.randn(2, 6, SMALL.d_model, requires_grad=True)
    wanted = torch.autograd.grad(attention(x, rotation).square().sum(), x)[0]
    calls.clear()
    y = recompute.recomputed_but_products(lambda x: attention(x, rotation), x)
    assert calls == 4 * ["forward"]
    found = torch.autograd.grad(y.square().sum(), x)[0]
    assert torch.equal(found, wanted)
    assert calls.count("forward") == 5, "the projections before attention are kept, the one behind it is not"


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_the_chunked_loss_multiplies_by_them(autocast: bool, calls: list[str]) -> None:
    rng = torch.Generator().manual_seed(2)
    x, head = torch.randn(40, 24, generator=rng), torch.randn(70, 24, generator=rng)
    targets = torch.randint(70, (40,), generator=rng)
    targets[::7] = IGNORED
    within = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext()

    def answers(loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        leaves = x.clone().requires_grad_(), head.clone().requires_grad_()
        with within:
            value = loss(*leaves)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    found = answers(lambda x, head: chunked_target_loss(x, head, targets, chunk=16))
    assert calls == 3 * ["forward", "grad_input", "grad_weight"]
    wanted = answers(lambda x, head: target_loss(F.linear(x, head)[None], targets[None]))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            one, other, rtol=0.05 if autocast else 1e-5, atol=3e-3 if autocast else 1e-6
        )
