"""Loss on hidden states against a teacher's (FitNets, arXiv:1412.6550; TinyBERT, arXiv:1909.10351).

A trained projection maps each student layer's residual stream to the width of its teacher's layer. The loss is relative
to the teacher's mean square, so that layers of different magnitude weigh the same and a projection to zero costs one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ConfigError, ModelConfig
from model.transformer import Transformer

States = dict[int, Tensor]  # by layer: its output, the residual stream [B, S, D]


def even_layer_map(n_student: int, n_teacher: int) -> dict[int, int]:
    """Map each student layer to the teacher's layer at the same relative depth, at least its first; the last to the last."""
    return {layer: max(round((layer + 1) * n_teacher / n_student), 1) - 1 for layer in range(n_student)}


@contextmanager
def hidden_states(model: Transformer, layers: Iterable[int]) -> Iterator[States]:
    """Context that collects the outputs of the given layers while the model runs, with gradients if it has them."""
    found: States = {}
    is_open = True  # recomputation in the backward pass runs layers again

    def keep(layer: int) -> Callable[[Tensor], None]:
        def put(output: Tensor) -> None:
            if is_open:
                found[layer] = output

        return put

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_watched(model.layers[layer], keep(layer)))
        try:
            yield found
        finally:
            is_open = False


@contextmanager
def _watched(block: nn.Module, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Pass the block's output to `keep`. A compiled block's call is wrapped: a new hook would compile it again."""
    compiled = block._compiled_call_impl
    if compiled is None:
        handle = block.register_forward_hook(lambda _module, _inputs, output: keep(output))
        try:
            yield
        finally:
            handle.remove()
        return

    def watched(*arguments: Any, **options: Any) -> Tensor:
        output: Tensor = compiled(*arguments, **options)
        keep(output)
        return output

    block._compiled_call_impl = watched
    try:
        yield
    finally:
        block._compiled_call_impl = compiled


class HiddenStateLoss(nn.Module):
    """The mean over mapped layers of |W h_student - h_teacher|^2 / |h_teacher|^2, over positions.

    Parameters: `projections.L` [D_teacher, D_student] for each student layer L; the identity where widths are equal.
    Train them with the student. Raises ConfigError for a layer that one of the two does not have.
    """

    def __init__(self, student: ModelConfig, teacher: ModelConfig, layer_map: Mapping[int, int]) -> None:
        super().__init__()
        for layer, target in layer_map.items():
            if not (0 <= layer < student.n_layers and 0 <= target < teacher.n_layers):
                raise ConfigError(
                    f"the layer map maps layer {layer} to {target}: the student has {student.n_layers} layers, the teacher "
                    f"{teacher.n_layers}"
                )
        if not layer_map:
            raise ConfigError(
                "the layer map is empty: map at least one student layer, as even_layer_map does"
            )
        self.layer_map = dict(layer_map)
        self.projections = nn.ParameterDict(
            {str(layer): _projection(student.d_model, teacher.d_model) for layer in layer_map}
        )

    def forward(self, student: States, teacher: States, is_scored_BS: Tensor) -> Tensor:
        """fp32 scalar; zero where no position of bool [B, S] is scored. No gradient reaches the teacher."""
        losses = []
        for layer, target in self.layer_map.items():
            h_ND = student[layer][is_scored_BS].float()
            target_NX = teacher[target][is_scored_BS].detach().float()
            error = (F.linear(h_ND, self.projections[str(layer)].float()) - target_NX).square().sum()
            losses.append(error / target_NX.square().sum().clamp_min(torch.finfo(torch.float32).tiny))
        return torch.stack(losses).mean()


def _projection(d_student: int, d_teacher: int) -> nn.Parameter:
    if d_student == d_teacher:
        return nn.Parameter(torch.eye(d_teacher))
    return nn.Parameter(torch.randn(d_teacher, d_student) * d_student**-0.5)
