"""The Triton experts: the tiles they are computed in anywhere, the products on CUDA or in Triton's interpreter."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.layers.moe import experts_reference, experts_triton
from model.layers.moe.experts_triton import BLOCK_M, Groups
from tests.needs_torch import needs_cuda

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

COMPARE = """
import sys
import torch
from model.layers.moe import experts_reference, experts_triton

device = sys.argv[1]
# The interpreter multiplies the bit patterns of bf16 as whole numbers; fp16 takes the same way through the kernels.
narrow = (torch.bfloat16, 1e-2) if device == "cuda" else (torch.float16, 1e-3)
for dtype, tolerance in ((torch.float32, 2e-6), narrow):
    for t, d, f, e, k in ((1, 16, 16, 4, 2), (70, 40, 24, 3, 2), (9, 33, 65, 12, 1)):
        rng = torch.Generator().manual_seed(t)
        draw = lambda *size: torch.randn(*size, generator=rng) * size[-1] ** -0.5
        x, weights = torch.randn(t, d, generator=rng), torch.rand(t, k, generator=rng)
        chosen = torch.rand(t, e, generator=rng).topk(k).indices.to(device)
        stacks = [draw(e, f, d), draw(e, f, d), draw(e, d, f)]
        direction = torch.randn(t, d, generator=rng)
        answers = []
        for form, format in ((experts_triton, dtype), (experts_reference, torch.float32)):
            x_, *stacks_ = (s.to(dtype).to(format).to(device) for s in (x, *stacks))
            leaves = [s.requires_grad_() for s in (x_, weights.clone().to(device), *stacks_)]
            y = form.apply_experts(leaves[0], leaves[1], chosen, *leaves[2:])
            grads = torch.autograd.grad(y, leaves, direction.to(dtype).to(y.dtype).to(device))
            with torch.no_grad():
                answers.append([y, *grads, form.apply_experts(leaves[0], leaves[1], chosen, *leaves[2:])])
        for one, other in zip(*answers):
            assert one.isfinite().all()
            error = float((one.float() - other).norm() / other.norm().clamp_min(1e-12))
            assert error < tolerance, (dtype, (t, d, f, e, k), error)
print("equal")
"""


@settings(max_examples=60, deadline=None, derandomize=True)
@given(t=st.integers(1, 300), e=st.integers(1, 12), k=st.integers(1, 4), usable=st.integers(1, 12))
def test_tiles_cover_every_pair_once_and_never_two_experts(t: int, e: int, k: int, usable: int) -> None:
    usable, k = min(usable, e), min(k, usable, e)
    chosen_TK = torch.rand(t, usable, generator=torch.Generator().manual_seed(t)).topk(k).indices
    groups = Groups.of(chosen_TK, e)
    computed = []
    for expert, first, last in zip(*(column.tolist() for column in groups.tiles), strict=True):
        rows = range(first, min(last, first + BLOCK_M))
        computed.extend(rows)
        assert all(int(chosen_TK.flatten()[groups.order_N[row]]) == expert for row in rows)
    assert sorted(computed) == list(range(t * k))
    assert torch.equal(groups.token_N, groups.order_N // k)


def test_combining_sums_each_token_s_rows() -> None:
    chosen_TK = torch.tensor([[2, 0], [1, 2], [0, 1]])
    groups = Groups.of(chosen_TK, 3)
    rows_ND = torch.stack([groups.order_N.float(), torch.ones(6)], 1)
    assert groups.combined(rows_ND, chosen_TK.shape).tolist() == [[1, 2], [5, 2], [9, 2]]


def test_cpu_tensors_do_not_fit() -> None:
    x, stack = torch.ones(2, 4), torch.ones(3, 4, 4)
    assert not experts_triton.fits(x, torch.ones(2, 1), torch.zeros(2, 1).long(), stack, stack, stack)


def test_importing_the_stack_imports_no_triton() -> None:
    code = "import sys, model.layers.moe.experts, model.transformer; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_gradients_of_the_reference_come_only_for_what_needs_them() -> None:
    tensors = (
        torch.randn(3, 4, requires_grad=True),
        torch.rand(3, 1),
        torch.zeros(3, 1, dtype=torch.int64),
        *(torch.randn(2, 4, 4) for _ in range(3)),
    )
    found = experts_reference.gradients(tensors, torch.ones(3, 4), (True, *(False,) * 5))
    (expected,) = torch.autograd.grad(experts_reference.apply_experts(*tensors).sum(), tensors[0])
    torch.testing.assert_close(found[0], expected)
    assert found[1:] == (None,) * 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="expected: a CUDA device runs the kernels themselves")
@pytest.mark.skipif(
    find_spec("triton") is None,
    reason="no triton: pip install --editable '.[dev]'"
    if (sys.platform, platform.machine()) == ("linux", "x86_64")
    else "expected: NO TRITON HERE: the development tools have it on x86-64 Linux only",
)
def test_the_kernels_equal_the_reference_in_the_interpreter() -> None:
    assert compared("cpu", {"TRITON_INTERPRET": "1"}) == "equal\n"


@needs_cuda("Triton's kernels are not run on one")
def test_the_kernels_equal_the_reference_on_cuda() -> None:
    assert compared("cuda", {}) == "equal\n"


def compared(device: str, env: dict[str, str]) -> str:
    """What a process says that compares kernels and reference."""
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, device],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
