"""AdamW with two bytes of moments a parameter instead of eight.

Dettmers et al. 2021, arXiv:2110.02861; the number format is model/training/optim/eight_bit_moments.py's subject. Each
step decodes a chunk of moments to fp32, updates them, moves the parameters by the *unrounded* moments and encodes
again. torchao's AdamW8bit 0.18 is not used, because it compiles its step for every shape at run time, needs learning
rates as tensors and stores a tensor subclass in checkpoints; nor is bitsandbytes, which is 60 MB of CUDA libraries.
This one has plain tensors and stock operations: its state is kept bit by bit in any checkpoint format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from model.training.config.recipe import Recipe
from model.training.optim.eight_bit_moments import BLOCK, decode, encode

#: Smaller tensors keep fp32 moments, as in the paper: they cost little and are often norms or biases.
SMALLEST = 4096
#: Elements updated at a time: bounds the temporaries to some MB and keeps them in a CPU's cache.
CHUNK = 1024 * BLOCK
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}  # name: whether it has a sign


def adamw_8bit(
    parameters: Iterable[nn.Parameter],
    recipe: Recipe,
    *,
    full_precision: Iterable[nn.Parameter] = (),
) -> AdamW8bit:
    """Build AdamW8bit with weight decay on matrices and their stacks, not on vectors.

    Parameters among `full_precision` keep fp32 moments; the paper advises it for embeddings, whose rows see
    gradients of very different size and frequency.
    """
    kept = {id(parameter) for parameter in full_precision}
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = []
    for is_full in (False, True):
        for decays in (True, False):
            chosen = [p for p in trained if (id(p) in kept) is is_full and (p.ndim > 1) is decays]
            decay = recipe.weight_decay if decays else 0.0
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "full_precision": is_full})
    return AdamW8bit(
        groups, learning_rate=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps
    )


class AdamW8bit(torch.optim.Optimizer):
    """Loshchilov & Hutter's AdamW (arXiv:1711.05101) with block-wise 8-bit moments.

    State per parameter: `step`; `exp_avg` and `exp_avg_sq`, uint8 [N] with `exp_avg_scale` and `exp_avg_sq_scale`,
    fp32 [P], or fp32 in the parameter's shape where it is small or its group says `full_precision`. bf16 parameters
    are updated in fp32 and rounded to nearest: keep fp32 masters where steps are small.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {
            "lr": learning_rate,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "full_precision": False,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if not parameter.is_contiguous():
                raise ValueError(
                    f"AdamW8bit walks through a parameter's memory: make the one of shape {tuple(parameter.shape)} "
                    "contiguous first"
                )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient. Raises RuntimeError for a sparse one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """A parameter's `step`, `exp_avg` and `exp_avg_sq`, decoded to fp32 in its shape; empty before its first step."""
        state = self.state.get(parameter, {})
        if not state:
            return {}
        everything = slice(0, parameter.numel())
        decoded = {name: _read(state, name, everything).view(parameter.shape) for name in MOMENTS}
        return {"step": state["step"].clone(), **decoded}

    def set_moments(self, parameter: Tensor, moments: dict[str, Tensor]) -> None:
        """The inverse of `moments`, also for those of another AdamW. Raises ValueError for another shape."""
        state: dict[str, Tensor] = {"step": moments["step"].clone().float().cpu()}
        for name, signed in MOMENTS.items():
            if moments[name].shape != parameter.shape:
                raise ValueError(
                    f"moments of shape {tuple(moments[name].shape)} do not belong to a parameter of shape "
                    f"{tuple(parameter.shape)}: load the optimiser's state into the model that it was saved with"
                )
            value = moments[name].detach().to(parameter.device, torch.float32)
            if self._is_quantised(parameter):
                state[name], state[f"{name}_scale"] = encode(value.flatten(), signed=signed)
            else:
                state[name] = value.clone()
        self.state[parameter] = state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Bit by bit: the base class would cast codes to the parameters' dtype.

        Takes the state of a `torch.optim.AdamW` over the same parameters too, and encodes it. Raises ValueError
        where the state belongs to other parameters.
        """
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        saved_ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(saved_ids, own, strict=True):
            saved = state_dict["state"].get(index)
            if saved and not {"step", *MOMENTS} <= set(saved):
                raise ValueError(f"an AdamW's state is needed, this one has {', '.join(sorted(saved))}")
            if saved and saved["exp_avg"].dtype is torch.uint8:
                self.state[parameter] = self._checked_copy(parameter, saved)
            elif saved:
                self.set_moments(parameter, saved)

    def _checked_copy(self, parameter: Tensor, saved: dict[str, Tensor]) -> dict[str, Tensor]:
        if saved["exp_avg"].numel() != parameter.numel() or not self._is_quantised(parameter):
            raise ValueError(
                f"8-bit moments of {saved['exp_avg'].numel()} elements do not belong to a parameter of shape "
                f"{tuple(parameter.shape)}: load the optimiser's state into the model that it was saved with, "
                "with the same choice of full precision"
            )
        device = {name: "cpu" if name == "step" else parameter.device for name in saved}
        return {name: value.to(device[name], copy=True) for name, value in saved.items()}

    def _is_quantised(self, parameter: Tensor) -> bool:
        in_full = any(
            group["full_precision"] and any(parameter is member for member in group["params"])
            for group in self.param_groups
        )
        return parameter.numel() >= SMALLEST and not in_full

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        if parameter.grad.is_sparse:
            raise RuntimeError("AdamW8bit takes dense gradients: use nn.Embedding(sparse=False)")
        if not self.state[parameter]:
            zeros = torch.zeros_like(parameter, dtype=torch.float32)
            self.set_moments(parameter, {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros})
        state = self.state[parameter]
        state["step"] += 1
        flat, gradient = parameter.view(-1), parameter.grad.reshape(-1)
        for start in range(0, parameter.numel(), CHUNK):
            chunk = slice(start, start + CHUNK)
            _update_chunk(flat[chunk], gradient[chunk].float(), state, chunk, group)


def _update_chunk(
    weight_N: Tensor, gradient_N: Tensor, state: dict[str, Tensor], chunk: slice, group: dict[str, Any]
) -> None:
    """AdamW on the elements `chunk` of a parameter, a view of which is `weight_N`; the chunk starts with a block."""
    step = float(state["step"])
    beta1, beta2 = group["betas"]
    first_N = _read(state, "exp_avg", chunk).lerp_(gradient_N, 1 - beta1)
    second_N = _read(state, "exp_avg_sq", chunk).mul_(beta2).addcmul_(gradient_N, gradient_N, value=1 - beta2)
    _write(state, "exp_avg", chunk, first_N)
    _write(state, "exp_avg_sq", chunk, second_N)
    deviation_N = second_N.sqrt_().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
    updated_N = weight_N.float()  # the weight itself where it is fp32
    updated_N.mul_(1 - group["lr"] * group["weight_decay"])
    updated_N.addcdiv_(first_N, deviation_N, value=-group["lr"] / (1 - beta1**step))
    weight_N.copy_(updated_N)


def _read(state: dict[str, Tensor], name: str, chunk: slice) -> Tensor:
    """Elements of a moment as fp32, never a view of the state."""
    flat = state[name].view(-1)[chunk]
    if flat.dtype is not torch.uint8:
        return flat.clone()
    return decode(flat, state[f"{name}_scale"][_blocks(chunk)], signed=MOMENTS[name])


def _write(state: dict[str, Tensor], name: str, chunk: slice, moment_N: Tensor) -> None:
    flat = state[name].view(-1)[chunk]
    if flat.dtype is not torch.uint8:
        flat.copy_(moment_N)
        return
    codes_N, scale_P = encode(moment_N, signed=MOMENTS[name])
    flat.copy_(codes_N)
    state[f"{name}_scale"][_blocks(chunk)].copy_(scale_P)


def _blocks(chunk: slice) -> slice:
    return slice(chunk.start // BLOCK, -(-chunk.stop // BLOCK))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all state tensors."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))
