"""Decode steps as CUDA graphs: a step of few rows is bound by launching kernels, a captured one launches once.

A graph has fixed shapes, so a step is padded to the next size of a ladder: rows, and blocks of the longest sequence.
Padded rows write to a block that belongs to nobody, and nothing of them reaches other rows. Steps that are no plain
decoding (prompts, drafts, more rows or longer sequences than the ladder) go the plain way of `TorchExecutor`.
Capturing needs a CUDA device; the computation that is captured, and everything around it, runs anywhere.

No CUDA device has run it yet. Knows nothing of requests or sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from model.layers.attention import Attention
from model.layers.block import Block
from model.layers.moe import Experts, moe_layers
from model.layers.rotary import Rotation
from model.serving.executor import Part
from model.serving.torch_executor import BLOCK_TOKENS, TorchExecutor
from model.transformer import Transformer

Compute = Callable[[], Tensor]
Capture = Callable[
    [Compute], Compute
]  # a function that repeats the same work on what lies in the same tensors

WARM_UPS = 3  # lazy initialisations (cuBLAS workspaces, autotuning) must not happen while capturing


def next_size(n: int, ladder: Sequence[int]) -> int | None:
    """The smallest of the ascending sizes that holds `n`; None where none does."""
    return next((size for size in ladder if n <= size), None)


@dataclass(frozen=True)
class Ladder:
    """Sizes that graphs are made for: rows of a step, and tokens of its longest sequence."""

    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    tokens: tuple[int, ...] = (256, 1024, 4096, 16_384)

    def __post_init__(self) -> None:
        for sizes in (self.rows, self.tokens):
            if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
                raise ValueError(f"a ladder needs ascending sizes above 0, not {sizes}")

    def size(self, parts: Sequence[Part]) -> tuple[int, int] | None:
        """Rows and tokens that hold these parts; None where they are no plain decode step, or too many or too long."""
        if not parts or any(len(part.tokens) != 1 or part.n_logits != 1 for part in parts):
            return None
        rows = next_size(len(parts), self.rows)
        tokens = next_size(max(part.past for part in parts) + 1, self.tokens)
        return None if rows is None or tokens is None else (rows, tokens)


def refusal(model: Transformer) -> str | None:
    """Why this model's decode steps cannot be captured; None where they can."""
    if model.config.latent is not None:
        return "latent attention has no captured form yet"
    if not moe_layers(model):
        return None
    if any(type(layer.experts) is not Experts for layer in moe_layers(model).values()):
        return "experts that lie on several devices or ranks wait for the host within a step"
    if model.device.type == "cuda" and model.dtype is not torch.bfloat16:
        return f"torch's grouped product, the one for experts that can be captured, takes bf16, not {model.dtype}"
    return None


class GraphedExecutor(TorchExecutor):
    """As `TorchExecutor`, with captured decode steps. `capture` is CUDA's unless another is given.

    Raises ValueError for a model that cannot be captured, and RuntimeError where there is no CUDA device.
    """

    def __init__(
        self,
        transformer: Transformer,
        n_blocks: int,
        *,
        block_tokens: int = BLOCK_TOKENS,
        ladder: Ladder | None = None,
        capture: Capture | None = None,
    ) -> None:
        if reason := refusal(transformer):
            raise ValueError(f"{transformer.config.name} cannot be served by CUDA graphs: {reason}")
        if capture is None and transformer.device.type != "cuda":
            raise RuntimeError(
                "CUDA graphs need the model on a CUDA device: move it there, or use TorchExecutor"
            )
        super().__init__(transformer, n_blocks + 1, block_tokens=block_tokens)
        self.n_blocks = n_blocks  # the last one, which the engine does not know of, is the padded rows'
        self._ladder = ladder or Ladder()
        self._capture = capture or cuda_capture(transformer.device)
        self._graphs: dict[tuple[int, int], _Graph] = {}

    @property
    def n_graphs(self) -> int:
        return len(self._graphs)

    def step(self, parts: Sequence[Part]) -> Tensor:
        """As `TorchExecutor.step`. The first step of each size captures its graph."""
        size = self._ladder.size(parts)
        if size is None:
            return super().step(parts)
        for part in parts:
            self._check(part)
        return self._graph(size).step(parts)

    def prepare(self, sizes: Iterable[tuple[int, int]] | None = None) -> None:
        """Captures these sizes (rows, tokens), all of the ladder by default, so that no step has to wait for it."""
        every = [(rows, tokens) for tokens in self._ladder.tokens for rows in self._ladder.rows]
        for size in every if sizes is None else sizes:
            self._graph(size)

    def _graph(self, size: tuple[int, int]) -> _Graph:
        if size not in self._graphs:
            rows, tokens = size
            inputs = DecodeInputs(rows, -(-tokens // self.block_tokens), self.n_blocks, self._keys.device)
            step = DecodeStep(self._transformer, self._keys, self._values, self.block_tokens, inputs)
            self._graphs[size] = _Graph(inputs, self._capture(step))
        return self._graphs[size]


class DecodeInputs:
    """The tensors that a graph reads, always the same ones: what differs from step to step is copied into them.

    Shape suffixes: B rows of the graph, J blocks of each. Rows that no part fills are padding: a first token in
    `spare_block`.
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
    """What a graph captures: one token per row, fixed shapes, no wait for the host. fp32 logits [B, V]."""

    def __init__(
        self, model: Transformer, keys: Tensor, values: Tensor, block_tokens: int, inputs: DecodeInputs
    ) -> None:
        self._model, self._inputs, self._block_tokens = model, inputs, block_tokens
        self._keys, self._values = keys, values  # [layers, G, slots, C]

    def __call__(self) -> Tensor:
        with torch.inference_mode(), _capturable(self._model):
            return self._logits()

    def _logits(self) -> Tensor:
        model, inputs = self._model, self._inputs
        past_B = inputs.past_B
        slots_BS = self._slots()
        own_B = slots_BS.gather(1, past_B[:, None]).squeeze(1)
        positions_S = torch.arange(slots_BS.shape[1], device=past_B.device)
        # what lies behind a sequence's end is unwritten or another's: not even times zero may it come in
        slots_BS = slots_BS.where(positions_S <= past_B[:, None], own_B[:, None])
        masks = {window: _visible(positions_S, past_B, window) for window in model.windows}
        rotation = model.rotary.at(past_B, model.dtype, past_B + 1 if model.rotary.is_dynamic else None)
        x_BD = model.embed(inputs.tokens_B)
        for block in cast("list[Block]", list(model.layers)):
            normed_BD = block.attention_norm(x_BD)
            x_BD = x_BD + self._attend(block, normed_BD, rotation, own_B, slots_BS, masks[block.window])
            x_BD = x_BD + block.ffn(block.ffn_norm(x_BD))
        return model.logits(x_BD)

    def _slots(self) -> Tensor:
        """Where the positions of each row's sequence lie, [B, J * block_tokens]."""
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
        kept = []
        for memory, new_BGC in ((self._keys, k_BGC), (self._values, v_BGC)):
            of_layer = memory[block.layer]
            of_layer.index_copy_(1, own_B, new_BGC.transpose(0, 1))
            kept.append(of_layer[:, slots_BS].transpose(0, 1))  # [B, G, S, C]
        y_BH1C = F.scaled_dot_product_attention(
            q_BHC[:, :, None], *kept, attn_mask=mask_B11S, enable_gqa=True
        )
        return F.linear(y_BH1C.flatten(1), attention.w_o, attention.b_o)


class _Graph:
    """One captured size."""

    def __init__(self, inputs: DecodeInputs, replay: Compute) -> None:
        self._inputs, self._replay = inputs, replay

    def step(self, parts: Sequence[Part]) -> Tensor:
        self._inputs.fill(parts)
        return self._replay()[: len(parts)].cpu()  # a copy: the next replay overwrites it


def _visible(positions_S: Tensor, past_B: Tensor, window: int | None) -> Tensor:
    """Which keys a row's token sees, [B, 1, 1, S]: those up to its own, within the window."""
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
    """As `layers.experts.apply_experts`, without its counts on the host: rows per expert stay on the device."""
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


@contextmanager
def _capturable(model: Transformer) -> Iterator[None]:
    """Prompts keep the functions that the layers have: those may be faster where the host may be asked."""
    experts = [layer.experts for layer in moe_layers(model).values()]
    usual = [module.apply_experts for module in experts]
    try:
        for module in experts:
            module.apply_experts = capturable_experts
        yield
    finally:
        for module, function in zip(experts, usual, strict=True):
            module.apply_experts = function


def cuda_capture(device: torch.device) -> Capture:
    """Captures on a CUDA device; all graphs share one memory pool, since one runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Compute) -> Compute:
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.current_stream(device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits_BV = compute()

        def replay() -> Tensor:
            graph.replay()
            return logits_BV

        return replay

    return capture
