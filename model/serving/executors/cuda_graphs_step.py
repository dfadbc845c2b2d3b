"""The decode step that a CUDA graph captures: fixed shapes, always the same tensors, no wait for the host.

Runs on any device, also uncaptured. `cuda_graphs.py` has the sizes and the capture.

Shape suffixes in addition to those of model/layers: B rows of the graph, J blocks of each, S slots of each (J *
block_tokens).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.attention.gqa import Attention
from model.layers.attention.rotary import Rotation
from model.layers.block import Block
from model.layers.moe.layer import MoELayer, count_tokens_only, moe_layers
from model.layers.moe.router import Routing
from model.serving.engine.cache import widest_window
from model.serving.executors.base import Part
from model.transformer import Transformer


class DecodeInputs:
    """The fixed tensors that a graph reads; each step's inputs are copied into them.

    Rows without a part are padding: a first token in `spare_block`.
    """

    def __init__(self, n_rows: int, n_blocks: int, spare_block: int, device: torch.device) -> None:
        self.spare_block = spare_block
        self._host = torch.empty(n_rows, 2 + n_blocks, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._device = torch.empty(n_rows, 2 + n_blocks, dtype=torch.int64, device=device)
        self.tokens_B, self.past_B, self.blocks_BJ = (
            self._device[:, 0],
            self._device[:, 1],
            self._device[:, 2:],
        )
        self.fill([])

    def fill(self, parts: Sequence[Part]) -> None:
        """One part per row, one copy to the device."""
        self._host[:, :2] = 0
        self._host[:, 2:] = self.spare_block
        for row, part in zip(self._host, parts, strict=False):
            n_blocks = min(len(part.blocks), len(row) - 2)
            row[: 2 + n_blocks] = torch.tensor([part.tokens[0], part.past, *part.blocks[:n_blocks]])
        self._device.copy_(self._host, non_blocking=True)


class DecodeStep:
    """The computation that a graph captures: one token per row, fixed shapes, no wait for the host; fp32 logits [B, V]."""

    def __init__(
        self, model: Transformer, keys: Tensor, values: Tensor, block_tokens: int, inputs: DecodeInputs
    ) -> None:
        self._model, self._inputs, self._block_tokens = model, inputs, block_tokens
        self._keys, self._values = keys, values  # [layers, G, slots, C]
        self._window = widest_window(model.config)

    def __call__(self) -> Tensor:
        is_token_B = self._inputs.blocks_BJ[:, 0] != self._inputs.spare_block
        with torch.inference_mode(), _capturable(self._model), count_tokens_only(self._model, is_token_B):
            return self._logits()

    def _logits(self) -> Tensor:
        model, inputs = self._model, self._inputs
        past_B = inputs.past_B
        slots_BS = self._slots()
        own_B = slots_BS.gather(1, past_B[:, None]).squeeze(1)
        positions_S = torch.arange(slots_BS.shape[1], device=past_B.device)
        # slots after a sequence's end or before all windows are unwritten, another sequence's, or invalid: they must
        # not enter even times zero
        slots_BS = slots_BS.where(_visible(positions_S, past_B, self._window)[:, 0, 0], own_B[:, None])
        masks = {window: _visible(positions_S, past_B, window) for window in model.windows}
        rotation = model.rotary.at(past_B, model.dtype, past_B + 1 if model.rotary.is_dynamic else None)
        x_BD = model.embed(inputs.tokens_B)
        for block in cast("list[Block]", list(model.layers)):
            normed_BD = block.attention_norm(x_BD)
            x_BD = x_BD + self._attend(block, normed_BD, rotation, own_B, slots_BS, masks[block.window])
            x_BD = x_BD + block.ffn(block.ffn_norm(x_BD))
        return model.logits(x_BD)

    def _slots(self) -> Tensor:
        """Slots of the positions of each row's sequence, [B, J * block_tokens]."""
        offsets = torch.arange(self._block_tokens, device=self._keys.device)
        return (self._inputs.blocks_BJ[..., None] * self._block_tokens + offsets).flatten(1)

    def _attend(
        self,
        block: Block,
        normed_BD: Tensor,
        rotation: Rotation,
        own_B: Tensor,
        slots_BS: Tensor,
        mask_B11S: Tensor,
    ) -> Tensor:
        attention = cast("Attention", block.attention)
        q_BHC, k_BGC, v_BGC = attention._project(normed_BD, rotation)
        k_BGSC = self._written(self._keys[block.layer], k_BGC, own_B, slots_BS)
        v_BGSC = self._written(self._values[block.layer], v_BGC, own_B, slots_BS)
        y_BH1C = F.scaled_dot_product_attention(
            q_BHC[:, :, None], k_BGSC, v_BGSC, attn_mask=mask_B11S, enable_gqa=True
        )
        return F.linear(y_BH1C.flatten(1), attention.w_o, attention.b_o)

    @staticmethod
    def _written(memory_GSC: Tensor, new_BGC: Tensor, own_B: Tensor, slots_BS: Tensor) -> Tensor:
        """Write each row's new heads into its slot; returns all that the rows see, [B, G, S, C]."""
        memory_GSC.index_copy_(1, own_B, new_BGC.transpose(0, 1))
        return memory_GSC[:, slots_BS].transpose(0, 1)


def _visible(positions_S: Tensor, past_B: Tensor, window: int | None) -> Tensor:
    """Mask of the keys that a row's token sees, [B, 1, 1, S]: up to its own, within the window."""
    is_seen_BS = positions_S <= past_B[:, None]
    if window is not None:
        is_seen_BS &= positions_S > past_B[:, None] - window
    return is_seen_BS[:, None, None]


def capturable_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
) -> Tensor:
    """As `layers.experts.apply_experts`, but the numbers of rows per expert stay on the device."""
    n_choices, n_experts = experts_TK.shape[1], w_gate_EFD.shape[0]
    expert_N, order_N = experts_TK.flatten().sort(stable=True)
    ids_E = torch.arange(n_experts, device=x_TD.device)
    ends_E = torch.searchsorted(expert_N, ids_E, right=True).to(torch.int32)
    x_ND = x_TD[order_N // n_choices]
    gate_NF = F.grouped_mm(x_ND, w_gate_EFD.mT, offs=ends_E)
    up_NF = F.grouped_mm(x_ND, w_up_EFD.mT, offs=ends_E)
    y_ND = F.grouped_mm(F.silu(gate_NF) * up_NF, w_down_EDF.mT, offs=ends_E)
    y_TKD = torch.empty_like(y_ND).index_copy_(0, order_N, y_ND).view(*experts_TK.shape, x_TD.shape[1])
    return (y_TKD * weights_TK[..., None]).sum(1).to(x_TD.dtype)


def count_experts(model: Transformer) -> list[Tensor]:
    """Count (token, choice) pairs per expert in every later step: int64 [E] of each MoE layer.

    The host never waits for them, so captured steps add to them too; rows that are padding do not count.
    """
    counters: list[Tensor] = []
    for layer in moe_layers(model).values():
        counters.append(torch.zeros(layer.config.n_experts, dtype=torch.int64, device=model.device))
        layer.router.register_forward_hook(_counting(layer, counters[-1]))
    return counters


def _counting(layer: MoELayer, load_E: Tensor) -> Callable[[nn.Module, object, Routing], None]:
    counted = weakref.ref(layer)  # the router has this hook: the two would be a reference cycle

    def count(_: nn.Module, __: object, routing: Routing) -> None:
        experts_TK, layer = routing.experts_TK, counted()
        ones_TK = torch.ones_like(experts_TK)
        if layer is not None and layer.is_token is not None:
            ones_TK = ones_TK * layer.is_token[:, None]
        load_E.index_add_(0, experts_TK.flatten(), ones_TK.flatten())

    return count


@contextmanager
def _capturable(model: Transformer) -> Iterator[None]:
    """Context in which the layers have capturable functions; prompts keep the others, which may be faster."""
    experts = [layer.experts for layer in moe_layers(model).values()]
    usual = [module.apply_experts for module in experts]
    try:
        for module in experts:
            module.apply_experts = capturable_experts
        yield
    finally:
        for module, function in zip(experts, usual, strict=True):
            module.apply_experts = function
