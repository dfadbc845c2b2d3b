"""Writes models as GGUF files for llama.cpp, in f16, bf16 or q8_0, with the tokenizer of another GGUF file.

Vectors and routers stay fp32, as llama.cpp's own converters have it. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig

Float = NDArray[np.float32]

FORMATS = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
QWEN3_MOE = "qwen3moe"
ROUTER = "ffn_gate_inp.weight"
_OUTSIDE = {"embedding": "token_embd.weight", "norm.weight": "output_norm.weight", "head": "output.weight"}
_OF_LAYER = {
    "attention_norm.weight": "attn_norm.weight",
    "attention.w_q": "attn_q.weight",
    "attention.w_k": "attn_k.weight",
    "attention.w_v": "attn_v.weight",
    "attention.w_o": "attn_output.weight",
    "attention.q_norm.weight": "attn_q_norm.weight",
    "attention.k_norm.weight": "attn_k_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "ffn.router.weight": ROUTER,
    "ffn.experts.w_gate": "ffn_gate_exps.weight",
    "ffn.experts.w_up": "ffn_up_exps.weight",
    "ffn.experts.w_down": "ffn_down_exps.weight",
}


def qwen3_moe_name(name: str) -> str:
    """GGUF's name of a tensor of ours. Raises KeyError for one that Qwen3-MoE does not have."""
    if not name.startswith("layers."):
        return _OUTSIDE[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{_OF_LAYER[rest]}"


def qwen3_moe_fields(config: ModelConfig) -> dict[str, tuple[Any, gguf.GGUFValueType]]:
    """The shape, as llama.cpp reads it. Raises ValueError for a model without experts."""
    if config.moe is None:
        raise ValueError("Qwen3-MoE has experts")
    numbers = {
        "context_length": config.max_context,
        "embedding_length": config.d_model,
        "block_count": config.n_layers,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.d_head,
        "attention.value_length": config.d_head,
        "expert_count": config.moe.n_experts,
        "expert_used_count": config.moe.top_k,
        "expert_feed_forward_length": config.moe.d_expert,
    }
    floats = {
        "rope.freq_base": config.rope_theta,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
    }
    fields: dict[str, tuple[Any, gguf.GGUFValueType]] = {
        f"{QWEN3_MOE}.{name}": (value, gguf.GGUFValueType.UINT32) for name, value in numbers.items()
    }
    for name, value in floats.items():
        fields[f"{QWEN3_MOE}.{name}"] = (value, gguf.GGUFValueType.FLOAT32)
    return fields


def write(
    target: Path,
    *,
    architecture: str,
    fields: Mapping[str, tuple[Any, gguf.GGUFValueType]],
    tensors: Mapping[str, Float],
    weights: str,
    copied_from: gguf.GGUFReader,
    copied: str,
) -> None:
    """A GGUF file with the fields of `copied_from` whose names start with `copied` in addition to its own; whole or not at all.

    Raises KeyError for an unknown format of `weights`, OSError where the disk refuses.
    """
    kind, file_type = FORMATS[weights]
    partial = target.with_name(target.name + ".part")
    writer = gguf.GGUFWriter(partial, architecture)
    writer.add_file_type(file_type)
    for name, field in copied_from.fields.items():
        if name.startswith(copied) and name not in fields:
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for name, (value, value_type) in fields.items():
        writer.add_key_value(name, value, value_type)
    for name, tensor in tensors.items():
        is_small = tensor.ndim == 1 or name.endswith(ROUTER)
        stored = gguf.GGMLQuantizationType.F32 if is_small else kind
        writer.add_tensor(name, gguf.quants.quantize(tensor, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(target)
