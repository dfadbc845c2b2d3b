"""A transformer's weights as the C structs of the compiled engine, packed for its kernels.

Weights that layers share are packed once. With int4 the head and its rows have 8 bits: 4 bits there cost most of the
accuracy that int4 costs (docs/lab/performance.md). Norms are kept in fp32, and so is an embedding that is not the packed
head's. Everything is a copy, so the transformer's own weights may be freed.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import c_void_p
from typing import cast

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.attention.gqa import Attention
from model.layers.attention.mla import MLA
from model.layers.block import Block
from model.layers.ffn import SwiGLU
from model.layers.moe.layer import MoELayer
from model.layers.moe.router import Router
from model.layers.norm import RMSNorm
from model.serving.executors import native_tables as tables
from model.serving.executors.packed import GROUP, GROUP_BYTES, PackedStack, Weights, matrix, pack, pointer
from model.serving.executors.packed_memory import Memory, OwnMemory
from model.serving.executors.stored import StoredWeights
from model.transformer import Transformer

HEAD_NORMS = {"none": 0, "head": 1, "all": 2}


class NativeWeights:
    """Packed `layers`, `head`, `norm` and `embedding` for a `tables.Model`, with all memory that they point to.

    `expert_load_LE`: of each MoE layer, from the first on, how many (token, choice) pairs each expert has got, int64;
    the kernels count.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        transformer: Transformer,
        weights: Weights,
        *,
        consume: bool = False,
        stored: StoredWeights | None = None,
        memory: Memory | None = None,
    ) -> None:
        """With `consume` each layer's weights are freed once they are packed; see `give_up`.

        With `stored` the transformer has no weights: each layer is loaded until it is packed. All is written into
        `memory`, in the same order and sizes for the same model, or read from filled memory. Raises what that raises.
        """
        self._library = library
        self.weights = weights
        self.config: ModelConfig = transformer.config
        self._consume, self._stored = consume, stored
        self._memory = memory or OwnMemory()
        self._kept: list[Tensor | PackedStack] = []
        self._attentions: dict[int, tables.AttentionWeights] = {}
        self._ffns: dict[int, tables.Layer] = {}
        self.expert_load_LE: list[Tensor] = []
        blocks = list(cast("Iterable[Block]", transformer.layers))
        self.layers = (tables.Layer * len(blocks))()
        for i, block in enumerate(
            blocks
        ):  # layers that share weights with an earlier one use its packed ones
            with self._filled(block, f"layers.{i}.") as stacks:
                self.layers[i] = self._layer(block, stacks)
        with self._filled(transformer):
            head = transformer.head_weight
            self.head = matrix(self._pack(head, head_form(weights)))
            self.norm = self._vector(transformer.norm.weight)
            self.embedding, self.embedding_kind = self._embedding(transformer)

    @contextmanager
    def _filled(self, module: nn.Module, prefix: str = "") -> Iterator[Mapping[str, Sequence[Tensor]]]:
        """Context in which `module` has its weights, except the stacks that it yields; they may be freed afterwards."""
        if self._stored is not None:
            with self._stored.filled(module, prefix) as stacks:
                yield stacks
            return
        yield {}
        if self._consume:
            give_up(module)

    @property
    def n_bytes(self) -> int:
        """Bytes of packed matrices, without scales, norms, biases and the embedding."""
        return sum(each.data.nbytes for each in self._kept if isinstance(each, PackedStack))

    def _pack(
        self,
        weight: Tensor | Sequence[Tensor],
        weights: Weights | None = None,
        interleaved: Tensor | Sequence[Tensor] | None = None,
    ) -> PackedStack:
        packed = pack(self._library, weight, weights or self.weights, self._memory, interleaved)
        self._kept.append(packed)
        return packed

    def _vector(self, values: Tensor | None) -> c_void_p:
        """The address of the values in fp32."""
        return pointer(None) if values is None else self._keep(values, torch.float32)

    def _keep(self, values: Tensor, dtype: torch.dtype) -> c_void_p:
        """The address of a copy that stays."""
        kept = self._memory.take(values.numel() * dtype.itemsize).view(dtype).view(values.shape)
        if not self._memory.is_filled:
            kept.copy_(values.detach())
        self._kept.append(kept)
        return pointer(kept)

    def _embedding(self, transformer: Transformer) -> tuple[c_void_p, Weights]:
        """The address of the embedding's rows, and their form; null if the packed head has the same rows without loss."""
        embedding = transformer.embedding.detach()
        kind = embedding_kind(transformer)
        if reads_head(transformer, self.weights):
            return pointer(None), kind
        return self._keep(embedding, torch.bfloat16 if kind == "bf16" else torch.float32), kind

    def _norm(self, norm: RMSNorm | None) -> c_void_p:
        return self._vector(None if norm is None else norm.weight)

    def _layer(self, block: Block, stacks: Mapping[str, Sequence[Tensor]]) -> tables.Layer:
        attention, ffn = block.attention, block.ffn
        if id(attention) not in self._attentions:
            self._attentions[id(attention)] = (
                self._latent(attention) if isinstance(attention, MLA) else self._grouped(attention)
            )
        if id(ffn) not in self._ffns:
            self._ffns[id(ffn)] = (
                self._mixture(ffn, stacks) if isinstance(ffn, MoELayer) else self._dense(ffn)
            )
        layer = tables.Layer.from_buffer_copy(self._ffns[id(ffn)])
        layer.attention = self._attentions[id(attention)]
        layer.attention.norm = self._norm(block.attention_norm)
        # a window over the whole context has no effect; larger ones would not fit the table's 32 bits
        layer.attention.window = min(block.window or 0, self.config.max_context)
        layer.ffn_norm = self._norm(block.ffn_norm)
        return layer

    def _grouped(self, attention: Attention) -> tables.AttentionWeights:
        biases = [attention.b_q, attention.b_k, attention.b_v]
        return tables.AttentionWeights(
            down=matrix(self._pack(torch.cat([attention.w_q, attention.w_k, attention.w_v]))),
            out=matrix(self._pack(attention.w_o)),
            b_down=self._vector(_joined(biases)),
            q_norm=self._norm(attention.q_norm),
            k_norm=self._norm(attention.k_norm),
            b_out=self._vector(attention.b_o),
            head_norm=HEAD_NORMS[self.config.qk_norm],
            clip=math.inf if attention.clip is None else attention.clip,
            scale=attention.d_head**-0.5,
        )

    def _latent(self, attention: MLA) -> tables.AttentionWeights:
        """The maps from latents to keys and values, [H, N + U, R], move into queries and outputs (absorbed form)."""
        latent = attention.latent
        first = attention.w_q if attention.w_q_down is None else attention.w_q_down
        assert first is not None
        up_HXR = attention.w_kv_up.view(-1, latent.d_nope + latent.d_value, latent.kv_rank)
        to_keys_HNR, to_values_HUR = torch.split(up_HXR, [latent.d_nope, latent.d_value], dim=1)
        biases: list[Tensor | None] = [attention.b_q_down, attention.b_kv_down]
        if attention.b_kv_down is not None and attention.b_q_down is None:
            biases[0] = torch.zeros(first.shape[0])
        table = tables.AttentionWeights(
            down=matrix(self._pack(torch.cat([first, attention.w_kv_down]))),
            out=matrix(self._pack(attention.w_o)),
            absorb=tables.stack(self._pack(to_keys_HNR.mT)),
            restore=tables.stack(self._pack(to_values_HUR)),
            b_down=self._vector(_joined(biases)),
            q_norm=self._norm(attention.q_norm),
            k_norm=self._norm(attention.kv_norm),
            b_out=self._vector(attention.b_o),
            clip=math.inf,
            scale=attention.scale,
        )
        if attention.w_q_up is not None:
            table.q_up = matrix(self._pack(attention.w_q_up))
        return table

    def _dense(self, ffn: SwiGLU) -> tables.Layer:
        return tables.Layer(shared=self._feed_forward(ffn))

    def _feed_forward(self, ffn: SwiGLU) -> tables.FeedForward:
        return tables.FeedForward(
            gate_up=tables.stack(self._pack(ffn.w_gate, interleaved=ffn.w_up)),
            down=tables.stack(self._pack(ffn.w_down)),
            b_gate=self._vector(ffn.b_gate),
            b_up=self._vector(ffn.b_up),
            b_down=self._vector(ffn.b_down),
            width=ffn.w_gate.shape[0],
        )

    def _mixture(self, moe: MoELayer, stacks: Mapping[str, Sequence[Tensor]]) -> tables.Layer:
        """`stacks` are experts that are stored one by one, by their stack's name in the block."""
        experts = moe.experts
        w_gate, w_up, w_down = (
            stacks.get(f"ffn.experts.{name}", getattr(experts, name)) for name in ("w_gate", "w_up", "w_down")
        )
        routed = tables.FeedForward(
            gate_up=tables.stack(self._pack(w_gate, interleaved=w_up)),
            down=tables.stack(self._pack(w_down)),
            width=experts.w_gate.shape[1],
        )
        layer = tables.Layer(routed=routed, router=self._router(moe.router))
        if moe.shared is not None:
            layer.shared = self._feed_forward(moe.shared)
            layer.shared_gate = self._vector(moe.shared_gate)
        return layer

    def _router(self, router: Router) -> tables.Router:
        """The router's table, always in fp32, as it computes."""
        config = router.config
        load_E = torch.zeros(config.n_experts, dtype=torch.int64)
        self.expert_load_LE.append(load_E)
        return tables.Router(
            weight=matrix(self._pack(router.weight, "fp32")),
            bias=self._vector(router.bias),
            load=pointer(load_E),
            top_k=config.top_k,
            n_groups=config.n_groups,
            top_groups=config.top_groups,
            is_sigmoid=config.gate == "sigmoid",
            sums_two=config.group_score == "top2",
            normalises=config.normalise_top_k,
            scale=config.routed_scale,
        )


def head_form(weights: Weights) -> Weights:
    """Form of the head's weights for layers in `weights`: int8 for int4, where 4 bits would cost too much accuracy."""
    return "int8-dynamic" if weights == "int4" else weights


def least_bytes(transformer: Transformer, weights: Weights) -> int:
    """A lower bound of the bytes of `NativeWeights`, from shapes and dtypes alone: without padding, norms and biases."""
    head, embedding = transformer.head_weight, transformer.embedding
    n_bytes = _packed_bytes(head, head_form(weights))
    if not reads_head(transformer, weights):
        n_bytes += embedding.numel() * (2 if embedding.dtype is torch.bfloat16 else 4)
    for name, weight in transformer.layers.named_parameters():
        if weight.dim() > 1:
            n_bytes += _packed_bytes(weight, "fp32" if name.endswith("router.weight") else weights)
    return n_bytes


def _packed_bytes(weight: Tensor, weights: Weights) -> int:
    return weight.numel() * GROUP_BYTES[weights] // GROUP[weights]


def reads_head(transformer: Transformer, weights: Weights) -> bool:
    """Whether rows of the embedding are read from the packed head: it has the same rows without loss."""
    kind = embedding_kind(transformer)
    return transformer.head is None and weights in ("fp32", kind)


def embedding_kind(transformer: Transformer) -> Weights:
    """Form of the embedding's rows."""
    return "bf16" if transformer.embedding.dtype is torch.bfloat16 else "fp32"


def give_up(module: nn.Module) -> None:
    """Free a module's weights; shapes and dtypes stay on the meta device, where computing raises."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            # not empty_like: for another device it imports torch's symbolic shapes, a quarter of a second and 30 MiB
            empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
            setattr(part, name, nn.Parameter(empty, requires_grad=False))


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None
