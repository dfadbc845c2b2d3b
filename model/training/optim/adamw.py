"""AdamW with fused clipping and bf16 working copies; torch's own where there is no kernel for it.

torch's clipping is a pass over all gradients before the optimiser's. Here the norm is one read, and the clipping
factor is applied when the update reads each gradient. The state is that of `torch.optim.AdamW`, key by key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from torch import Tensor, nn

from model.training.optim import adamw_fused
from model.training.optim.working_copies import WorkingCopies

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW(torch.optim.AdamW):
    """AdamW that also updates `copies` with their masters, and uses the copies' gradients as the masters'."""

    copies: WorkingCopies

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        super().__init__(params, **options)
        self._begin()

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore: Callable[[dict[str, Any]], None] = super().__setstate__
        restore(state)
        if "copies" not in self.__dict__:  # a copied or unpickled optimiser has none
            self._begin()

    def _begin(self) -> None:
        self.copies = WorkingCopies()
        self._factor = 1.0  # of gradients, in the next step

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.copies.clear_gradients()
        self._factor = 1.0

    def gradient(self, parameter: nn.Parameter) -> Tensor | None:
        """The gradient that the next step reads, before clipping: fp32, or bf16 where a working copy has it."""
        return self.copies.gradient(parameter)

    @torch.no_grad()
    def clip_grad_norm_(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Return the norm of all gradients, an fp32 scalar; the next step clips them to `max_norm`.

        Gradients themselves stay as they are where the kernel reads them.
        """
        chosen = list(parameters)
        found = [gradient for each in chosen if (gradient := self.gradient(each)) is not None]
        self._factor = 1.0
        if not adamw_fused.is_usable() or not all(map(adamw_fused.reads, found)):
            self.copies.add_gradients()
            return nn.utils.clip_grad_norm_(chosen, max_norm)
        norm = math.sqrt(sum(map(adamw_fused.squares, found)))
        factor = max_norm / (norm + 1e-6)
        self._factor = 1.0 if factor > 1 else factor  # not finite if the norm is not
        return torch.tensor(norm)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        factor, self._factor = self._factor, 1.0
        if closure is None and self._fits():
            self._step_by_kernel(factor)
            return None
        self.copies.add_gradients()
        gradients = [parameter.grad for _, parameter in self._parameters() if parameter.grad is not None]
        if factor != 1 and gradients:
            torch._foreach_mul_(gradients, factor)
        loss: float | None = super().step(closure)
        self.copies.note_masters_moved()
        return loss

    def _parameters(self) -> Iterator[tuple[dict[str, Any], nn.Parameter]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                yield group, parameter

    def _fits(self) -> bool:
        # A GradScaler leaves what to divide by, and whether to move at all, on the optimiser.
        if not adamw_fused.is_usable() or hasattr(self, "grad_scale") or hasattr(self, "found_inf"):
            return False
        if any(group["amsgrad"] or group["maximize"] for group in self.param_groups):
            return False
        return all(
            gradient is None or (adamw_fused.reads(gradient) and adamw_fused.moves(parameter))
            for _, parameter in self._parameters()
            for gradient in (self.gradient(parameter),)
        )

    @torch.no_grad()
    def _step_by_kernel(self, factor: float) -> None:
        for group, parameter in self._parameters():
            gradient = self.gradient(parameter)
            if gradient is None:
                continue
            state = self._state_of(parameter)
            state["step"] += 1
            beta1, beta2 = group["betas"]
            rates = adamw_fused.Rates(
                learning_rate=float(group["lr"]),
                beta1=beta1,
                beta2=beta2,
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                step=int(state["step"]),
                factor=factor,
            )
            copy = self.copies.weights(parameter)
            adamw_fused.step_(parameter, gradient, state["exp_avg"], state["exp_avg_sq"], copy, rates)
            if copy is not None:
                self.copies.note_moved(parameter)

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state.update({name: torch.zeros_like(parameter) for name in MOMENTS})
        for name in MOMENTS:
            if not adamw_fused.moves(state[name]):  # loaded state may have another memory layout
                state[name] = state[name].to(parameter, copy=True).contiguous()
        return state
