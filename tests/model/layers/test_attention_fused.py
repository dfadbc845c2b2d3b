"""The compiled attention equals attention written out in fp64, forward and backward, at any shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad

from model.config import LatentConfig, ModelConfig
from model.layers.attention import gqa_fused
from model.layers.attention.gqa import Attention
from model.layers.attention.masks import first_seen
from model.layers.attention.mla import MLA
from model.layers.attention.rotary import Rotary
from model.layers.watched import torch_instead
from tests.model.random_models import SMALL
from tests.needs_torch import needs_kernels

pytestmark = [
    needs_kernels,
    pytest.mark.slow,
]

# Root mean square of the difference to fp64, over the root mean square of what is expected; bf16 rounds shares and
# gradients of scores to 8 bits before they are multiplied.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
# Of the largest terms of a sum; scores of C products are off by C roundings of fp32.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 2.0**-6}
LATENT = LatentConfig(kv_rank=12, d_nope=6, d_rope=4, d_value=6)
FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True)
def both_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels compute both formats on every processor, if slowly."""
    monkeypatch.setattr(gqa_fused, "_fast_formats", lambda: 3)


class Problem:
    """Seeded heads, and the direction that the answer is differentiated in."""

    def __init__(
        self, batch: int, length: int, groups: int, shared: int, d_key: int, d_value: int, dtype: torch.dtype
    ) -> None:
        rng = torch.Generator().manual_seed(
            batch + 7 * length + 11 * groups + 13 * shared + 17 * d_key + 19 * d_value
        )

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=rng).to(dtype)

        self.heads = (
            normal(batch, length, groups * shared, d_key),
            normal(batch, length, groups, d_key),
            normal(batch, length, groups, d_value),
        )
        self.direction = normal(batch, length, groups * shared, d_value)

    def answers(self, attend: Callable[..., Tensor], *, exact: bool = False) -> list[Tensor]:
        """y and the gradients of queries, keys and values."""
        leaves = [t.double() if exact else t.clone() for t in self.heads]
        for leaf in leaves:
            leaf.requires_grad_()
        y = attend(*leaves)
        y.backward(self.direction.to(y.dtype))
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        assert len(gradients) == len(leaves)
        return [y.detach(), *gradients]


def written_out(
    q_BSHC: Tensor,
    k_BSGC: Tensor,
    v_BSGU: Tensor,
    scale: float | None = None,
    first_BS: Tensor | None = None,
) -> Tensor:
    shared, length = q_BSHC.shape[2] // k_BSGC.shape[2], q_BSHC.shape[1]
    k_BSHC, v_BSHU = (t.repeat_interleave(shared, dim=2) for t in (k_BSGC, v_BSGU))
    scores_BHSS = torch.einsum("bqhc,bkhc->bhqk", q_BSHC, k_BSHC) * (scale or q_BSHC.shape[-1] ** -0.5)
    places_S = torch.arange(length)
    is_hidden_BSS = (places_S > places_S[:, None])[None]
    if first_BS is not None:
        is_hidden_BSS = is_hidden_BSS | (places_S < first_BS[..., None])
    shares_BHSS = scores_BHSS.masked_fill(is_hidden_BSS[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bkhu->bqhu", shares_BHSS, v_BSHU)


NAMES = ("y", "q", "k", "v")


def assert_close(problem: Problem, dtype: torch.dtype, **options: Tensor) -> None:
    """The root mean square of the difference, in proportion."""
    found = problem.answers(lambda *heads: gqa_fused.attend(*heads, **options))
    expected = problem.answers(lambda *heads: written_out(*heads, **options), exact=True)
    for name, one, other in zip(NAMES, found, expected, strict=True):
        assert one.dtype is dtype, name
        assert float((one.double() - other).norm()) <= TOLERANCE[dtype] * float(other.norm()), name


def assert_within_rounding(problem: Problem, dtype: torch.dtype, **options: Tensor) -> None:
    """No number is off by more than the terms of its sum can have been rounded by, also where they cancel out."""
    found = problem.answers(lambda *heads: gqa_fused.attend(*heads, **options))
    expected = problem.answers(lambda *heads: written_out(*heads, **options), exact=True)
    q, k, v, direction = (float(t.float().norm(dim=-1).max()) for t in (*problem.heads, problem.direction))
    n_queries = problem.heads[0].shape[1] * problem.heads[0].shape[2] // problem.heads[1].shape[2]
    slope = direction * v * problem.heads[0].shape[-1] ** -0.5
    terms = (v, slope * k, slope * q * n_queries, direction * n_queries)
    for name, one, other, size in zip(NAMES, found, expected, terms, strict=True):
        assert float((one.double() - other).abs().max()) <= ROUNDING[dtype] * size, name


@FORMATS
@given(
    shape=st.tuples(
        st.integers(1, 2),
        st.integers(1, 150),
        st.integers(1, 2),
        st.integers(1, 3),
        st.integers(1, 70),
        st.integers(1, 70),
    )
)
@settings(max_examples=40, deadline=None)
def test_values_and_gradients_are_those_of_attention_written_out(
    dtype: torch.dtype, shape: tuple[int, int, int, int, int, int]
) -> None:
    assert_within_rounding(Problem(*shape, dtype), dtype)


@FORMATS
@pytest.mark.parametrize(
    "shape",
    [
        (1, 97, 1, 1, 64, 64),  # a block of queries and one more
        (1, 192, 1, 2, 128, 128),
        (2, 129, 2, 1, 8, 130),
        (2, 300, 2, 3, 40, 24),
        (1, 700, 2, 2, 32, 32),
    ],
)
def test_together_they_are_as_exact_as_their_format(
    dtype: torch.dtype, shape: tuple[int, int, int, int, int, int]
) -> None:
    assert_close(Problem(*shape, dtype), dtype)


def test_without_gradients_the_answer_is_the_same() -> None:
    problem = Problem(1, 50, 2, 2, 16, 16, torch.float32)
    with torch.no_grad():
        alone = gqa_fused.attend(*problem.heads)
    assert torch.equal(alone, problem.answers(gqa_fused.attend)[0])


def test_scores_are_scaled_as_asked() -> None:
    problem = Problem(1, 20, 1, 2, 8, 8, torch.float32)
    found = problem.answers(lambda *heads: gqa_fused.attend(*heads, 0.7))
    expected = problem.answers(lambda *heads: written_out(*heads, 0.7), exact=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@FORMATS
@given(starts=st.lists(st.integers(1, 260), max_size=5), window=st.integers(1, 300))
@settings(max_examples=25, deadline=None)
def test_documents_and_windows_hide_what_came_before(
    dtype: torch.dtype, starts: list[int], window: int
) -> None:
    length = 270
    places = torch.arange(length)
    first = (places - window + 1).clamp_min(0)
    for start in starts:
        first = torch.where(places >= start, first.clamp_min(start), first)
    first_BS = torch.stack((first, torch.zeros_like(first))).int()
    assert_within_rounding(Problem(2, length, 1, 2, 16, 24, dtype), dtype, first_BS=first_BS)


@FORMATS
def test_packed_documents(dtype: torch.dtype) -> None:
    first_BS = torch.tensor([0] * 70 + [70] * 100 + [170] * 130, dtype=torch.int32).expand(2, -1)
    assert_close(Problem(2, 300, 2, 2, 32, 32, dtype), dtype, first_BS=first_BS)


@pytest.mark.parametrize("first", [[0, 1, 0], [0, -1, 0], [0, 2, 2]])
def test_impossible_first_positions_are_refused(first: list[int]) -> None:
    heads = Problem(1, 3, 1, 1, 8, 8, torch.float32).heads
    first_BS = torch.tensor([first], dtype=torch.int32)
    with pytest.raises(ValueError, match="must not decrease, be negative or be after it"):
        gqa_fused.attend(*heads, first_BS=first_BS)


def test_first_positions_of_another_shape_or_type_are_refused() -> None:
    heads = Problem(1, 3, 1, 1, 8, 8, torch.float32).heads
    with pytest.raises(ValueError, match=r"must be int32 \(1, 3\)"):
        gqa_fused.attend(*heads, first_BS=torch.zeros(1, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"must be int32 \(1, 3\)"):
        gqa_fused.attend(*heads, first_BS=torch.zeros(1, 3, dtype=torch.int64))


def test_large_scores_do_not_overflow() -> None:
    problem = Problem(1, 40, 1, 1, 16, 16, torch.float32)
    q, k, v = problem.heads
    found, expected = (
        gqa_fused.attend(300 * q, k, v),
        written_out(300 * q.double(), k.double(), v.double()),
    )
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@FORMATS
def test_no_number_depends_on_threads(dtype: torch.dtype) -> None:
    problem, before = Problem(2, 130, 2, 2, 24, 24, dtype), torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            answers.append(problem.answers(gqa_fused.attend))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))


def test_what_comes_later_is_not_seen() -> None:
    """Where it is not finite, only queries that are multiplied with it, up to five before it, notice."""
    q, k, v = Problem(1, 30, 1, 1, 16, 16, torch.float32).heads
    before = gqa_fused.attend(q, k, v)
    k[:, 20:], v[:, 20:] = torch.nan, torch.nan
    after = gqa_fused.attend(q, k, v)
    assert torch.equal(after[:, :18], before[:, :18])
    assert after[:, 20:].isnan().all()


def test_under_autocast_heads_take_its_format() -> None:
    q, k, v = Problem(1, 30, 1, 2, 16, 16, torch.float32).heads
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gqa_fused.fits(q, k.bfloat16(), v)
        found = gqa_fused.attend(q, k.bfloat16(), v)
    assert torch.equal(found, gqa_fused.attend(q.bfloat16(), k.bfloat16(), v.bfloat16()))


def test_shapes_that_do_not_go_together_are_refused() -> None:
    q, k, v = Problem(1, 30, 2, 2, 16, 16, torch.float32).heads
    with pytest.raises(ValueError, match="do not match"):
        gqa_fused.attend(q, k[:, :20], v)
    with pytest.raises(ValueError, match="do not match"):
        gqa_fused.attend(q, k[..., :8], v)
    with pytest.raises(ValueError, match="2 heads of keys cannot be shared evenly by 3 heads of queries"):
        gqa_fused.attend(q[:, :, :3], k, v)


def test_what_it_is_used_for(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = Problem(1, 30, 1, 2, 16, 16, torch.float32).heads
    assert gqa_fused.fits(*heads)
    assert not gqa_fused.fits(*(t.double() for t in heads))
    assert not gqa_fused.fits(heads[0].bfloat16(), *heads[1:])
    assert not gqa_fused.fits(*(t.to("meta") for t in heads))
    with torch_instead():
        assert not gqa_fused.fits(*heads)
    with forward_ad.dual_level():
        assert not gqa_fused.fits(*heads)
    monkeypatch.setattr(gqa_fused, "_fast_formats", lambda: 1)
    assert gqa_fused.fits(*heads)
    assert not gqa_fused.fits(*(t.bfloat16() for t in heads))


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, latent=LATENT)], ids=["grouped-query", "latent"])
@pytest.mark.parametrize("window", [None, 5])
def test_attention_over_packed_rows_and_windows_uses_it(
    config: ModelConfig, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    attention = Attention(config) if config.latent is None else MLA(config)
    x_BSD = torch.randn(2, 11, config.d_model, requires_grad=True)
    rotation = Rotary.of(config).at(torch.arange(11), torch.float32)
    documents_BS = torch.tensor([[0] * 4 + [1] * 7, [3] * 10 + [-1]])
    first_BS = first_seen(11, documents_BS=documents_BS, window=window, device=x_BSD.device)

    def answers() -> list[Tensor]:
        y_BSD = attention(x_BSD, rotation, first_BS)
        return [y_BSD, *torch.autograd.grad(y_BSD.square().sum(), (x_BSD, *attention.parameters()))]

    found = answers()
    with torch_instead():
        expected = answers()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(gqa_fused, "attend", lambda *_, **__: pytest.fail("the kernel, as it should"))
    with pytest.raises(pytest.fail.Exception, match="as it should"):
        answers()
