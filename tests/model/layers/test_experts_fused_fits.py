"""Where the compiled experts may be used, and that torch's own operations take over everywhere else."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from model import native
from model.layers.moe import experts, experts_fused, experts_reference
from model.layers.watched import torch_instead
from tests.needs_torch import needs_kernels

pytestmark = pytest.mark.slow


def arguments(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(12, 32, generator=rng).to(dtype)
    chosen = torch.rand(12, 4, generator=rng).topk(2).indices
    stacks = [torch.randn(4, 32, 32, generator=rng).to(dtype) * 0.2 for _ in range(3)]
    return [x, torch.rand(12, 2, generator=rng), chosen, *stacks]


@pytest.fixture
def both_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_fused, "_fast_formats", lambda: 3)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The directions in which the kernels ran."""
    seen: list[str] = []
    run = experts_fused._run

    def counted(direction: str, *rest: object, **arrays: object) -> None:
        seen.append(direction)
        run(direction, *rest, **arrays)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(experts_fused, "_run", counted)
    yield seen


@needs_kernels
@pytest.mark.usefixtures("both_formats")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_tensors_are_computed_by_the_kernels_in_both_directions(
    dtype: torch.dtype, calls: list[str]
) -> None:
    tensors = arguments(dtype)
    tensors[3].requires_grad_()
    experts.apply_experts(*tensors).float().sum().backward()
    with torch.inference_mode():
        experts.apply_experts(*tensors)
    assert calls == ["forward", "backward", "forward"]


class Marked(Tensor):
    """A tensor that is not only a tensor, as DTensor is."""


def double(tensors: list[Tensor]) -> None:
    tensors[:] = [t.double() if t.is_floating_point() else t for t in tensors]


def mixed(tensors: list[Tensor]) -> None:
    tensors[0] = tensors[0].bfloat16()


def subclass(tensors: list[Tensor]) -> None:
    tensors[4] = tensors[4].as_subclass(Marked)


def strided_stack(tensors: list[Tensor]) -> None:
    tensors[3] = tensors[3].mT


def no_tokens(tensors: list[Tensor]) -> None:
    tensors[:3] = [t[:0] for t in tensors[:3]]


def narrow_choice(tensors: list[Tensor]) -> None:
    tensors[2] = tensors[2].int()


def elsewhere(tensors: list[Tensor]) -> None:
    tensors[:] = [t.to("meta") for t in tensors]


@pytest.mark.usefixtures("both_formats")
@pytest.mark.parametrize(
    "change", [double, mixed, subclass, strided_stack, no_tokens, narrow_choice, elsewhere]
)
def test_other_tensors_do_not_fit(change: Callable[[list[Tensor]], None]) -> None:
    tensors = arguments()
    assert experts_fused.fits(*tensors)
    change(tensors)
    assert not experts_fused.fits(*tensors)


@pytest.mark.usefixtures("both_formats")
@pytest.mark.parametrize("change", [double, strided_stack, no_tokens, subclass])
def test_what_does_not_fit_is_computed_all_the_same(
    change: Callable[[list[Tensor]], None], calls: list[str]
) -> None:
    tensors = arguments()
    change(tensors)
    expected = experts_reference.apply_experts(*tensors)
    torch.testing.assert_close(experts.apply_experts(*tensors), expected, rtol=1e-4, atol=1e-5)
    assert calls == []


@pytest.mark.usefixtures("both_formats")
def test_parameters_fit() -> None:
    tensors = arguments()
    tensors[3:] = [nn.Parameter(stack) for stack in tensors[3:]]
    assert experts_fused.fits(*tensors)


@pytest.mark.usefixtures("both_formats")
def test_autocast_s_format_fits_and_another_does_not() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not experts_fused.fits(*arguments())
        assert experts_fused.fits(*arguments(torch.bfloat16))


@pytest.mark.usefixtures("both_formats")
def test_while_operations_are_counted_torch_s_are_used(calls: list[str]) -> None:
    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch(), torch.no_grad():
        experts.apply_experts(*arguments())
    assert calls == [] and any("mm" in name for name in seen)


@pytest.mark.usefixtures("both_formats")
def test_under_transformations_torch_s_operations_are_used(calls: list[str]) -> None:
    x, *rest = arguments()

    def total(x: Tensor) -> Tensor:
        return experts.apply_experts(x, *rest).square().sum()

    gradient = torch.func.grad(total)(x)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(experts_reference.apply_experts(leaf, *rest).square().sum(), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    assert calls == []


@pytest.mark.usefixtures("both_formats")
def test_forward_mode_derivatives_are_not_lost() -> None:
    with forward_ad.dual_level():
        assert not experts_fused.fits(*arguments())
    assert experts_fused.fits(*arguments())


@pytest.mark.usefixtures("both_formats")
def test_kernels_can_be_left_out_for_a_while() -> None:
    with torch_instead():
        with torch_instead():
            assert not experts_fused.fits(*arguments())
        assert not experts_fused.fits(*arguments())
    assert experts_fused.fits(*arguments())


@pytest.mark.usefixtures("both_formats")
def test_kernels_that_two_threads_leave_out_come_back_after_the_later_one() -> None:
    earlier, later = torch_instead(), torch_instead()
    earlier.__enter__()
    later.__enter__()
    earlier.__exit__(None, None, None)
    assert not experts_fused.fits(*arguments())
    later.__exit__(None, None, None)
    assert experts_fused.fits(*arguments())


@pytest.mark.usefixtures("both_formats")
def test_while_compiling_torch_s_operations_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not experts_fused.fits(*arguments())


def test_a_processor_without_fast_products_of_a_format_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_fused, "_fast_formats", lambda: 1)
    assert experts_fused.fits(*arguments()) and not experts_fused.fits(*arguments(torch.bfloat16))


@pytest.mark.parametrize("library", [None, ctypes.CDLL(None)], ids=["none", "another one"])
def test_without_these_kernels_torch_is_used(
    monkeypatch: pytest.MonkeyPatch, library: ctypes.CDLL | None
) -> None:
    monkeypatch.setattr(native, "library", lambda: library)
    experts_fused._fast_formats.cache_clear()
    try:
        tensors = arguments()
        assert not experts_fused.fits(*tensors)
        expected = experts_reference.apply_experts(*tensors)
        torch.testing.assert_close(experts.apply_experts(*tensors), expected, rtol=1e-4, atol=1e-5)
    finally:
        experts_fused._fast_formats.cache_clear()


@pytest.mark.usefixtures("both_formats")
@pytest.mark.skipif(shutil.which("g++") is None, reason="NO COMPILER HERE: needs g++")
@pytest.mark.parametrize("processor", ["x86-64", pytest.param("x86-64-v3", marks=pytest.mark.long)])
def test_the_same_source_is_right_on_processors_without_its_instructions(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled without optimising, which is quick; vectors of 4 and 8 lanes."""
    if processor not in runs_here():
        pytest.skip(f"expected: NO {processor} HERE: this processor cannot run it")
    target = tmp_path / "portable.so"
    flags = [flag for flag in native.FLAGS if not flag.startswith(("-O", "-march"))]
    source = native.SOURCES / "experts/fused.cpp"
    command = [
        "g++",
        "-O1",
        f"-march={processor}",
        *flags,
        "-I",
        str(native.SOURCES),
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True, timeout=120)
    library = ctypes.CDLL(str(target))
    assert library.experts_fused_is_fast() == {"x86-64": 0, "x86-64-v3": 3}[processor]
    monkeypatch.setattr(native, "library", lambda: library)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        gradients = []
        for apply in (experts_fused.apply_experts, experts_reference.apply_experts):
            x, weights, chosen, *stacks = (t[..., :29].contiguous() for t in arguments(dtype))
            stacks[2] = stacks[2].mT.contiguous()
            leaves = [t.requires_grad_() for t in (x, weights, *stacks)]
            y = apply(x, weights, chosen, *stacks)
            gradients.append([y, *torch.autograd.grad(y.float().square().sum(), leaves)])
        for found, expected in zip(*gradients, strict=True):
            scale = expected.float().abs().max()
            assert (found.float() - expected.float()).abs().max() <= tolerance * scale


def runs_here() -> list[str]:
    """Names that a compiler has for processors whose code runs on this one."""
    if os.uname().machine != "x86_64":
        return []
    flags = Path("/proc/cpuinfo").read_text().split()
    return ["x86-64", *(["x86-64-v3"] if {"avx2", "fma", "bmi2"} <= set(flags) else [])]
