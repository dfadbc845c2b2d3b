"""Convert GGUF to our weights and tokenizer.

llama.cpp stores the rows of q and k so that rotary turns neighbours (2i, 2i + 1); ours turns (i, i + C/2), so the
rows of each head are put back in that order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from model.config import ModelConfig
from model.presets import PRESETS
from model.smollm2.errors import ConversionError

CONTROL_TOKEN = 3  # gguf.TokenType.CONTROL
_TENSORS = {
    "attn_norm.weight": "attention_norm.weight",
    "attn_q.weight": "attention.w_q",
    "attn_k.weight": "attention.w_k",
    "attn_v.weight": "attention.w_v",
    "attn_output.weight": "attention.w_o",
    "ffn_norm.weight": "ffn_norm.weight",
    "ffn_gate.weight": "ffn.w_gate",
    "ffn_up.weight": "ffn.w_up",
    "ffn_down.weight": "ffn.w_down",
    "token_embd.weight": "embedding",
    "output_norm.weight": "norm.weight",
}


class GGUFModel:
    """One opened GGUF file of SmolLM2."""

    def __init__(self, path: Path) -> None:
        try:
            self._reader = gguf.GGUFReader(path)
        except (OSError, ValueError, IndexError) as error:
            raise ConversionError(f"{path} is no GGUF file: {error}. Remove it and fetch again") from error
        self.config: ModelConfig = PRESETS["smollm2"]
        self._check_shape()

    def field(self, name: str) -> Any:
        found = self._reader.fields.get(name)
        if found is None:
            raise ConversionError(f"the GGUF file lacks {name}")
        return found.contents()

    def _check_shape(self) -> None:
        config = self.config
        expected = {
            "general.architecture": "llama",
            "tokenizer.ggml.pre": "smollm",
            "llama.block_count": config.n_layers,
            "llama.embedding_length": config.d_model,
            "llama.feed_forward_length": config.d_ff,
            "llama.attention.head_count": config.n_heads,
            "llama.attention.head_count_kv": config.n_kv_heads,
            "llama.context_length": config.max_context,
            "llama.rope.freq_base": config.rope_theta,
            "llama.vocab_size": config.vocab_size,
        }
        for name, value in expected.items():
            if self.field(name) != value:
                raise ConversionError(f"the GGUF file has {name} = {self.field(name)!r} instead of {value!r}")

    def dense_state(self) -> dict[str, Tensor]:
        """The dense model's state dict, dequantised to fp32."""
        state: dict[str, Tensor] = {}
        for tensor in self._reader.tensors:
            name = tensor.name
            stem = ""
            if name.startswith("blk."):
                _, layer, name = name.split(".", 2)
                stem = f"layers.{layer}."
            if name not in _TENSORS:
                raise ConversionError(f"the GGUF file has an unknown tensor {tensor.name}")
            weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
            if name == "attn_q.weight":
                weight = unpermute(weight, self.config.n_heads)
            elif name == "attn_k.weight":
                weight = unpermute(weight, self.config.n_kv_heads)
            state[stem + _TENSORS[name]] = weight
        return state

    def tokenizer(self) -> Tokenizer:
        """Byte-level BPE from the file's vocabulary and merges."""
        tokens, kinds = self.field("tokenizer.ggml.tokens"), self.field("tokenizer.ggml.token_type")
        merges = [tuple(merge.split(" ", 1)) for merge in self.field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        # SmolLM's own splitting: single digits first, then GPT-2's pattern
        digits = pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
        tokenizer.add_special_tokens(control)
        return tokenizer

    def stop_tokens(self) -> list[int]:
        """Ids that end an answer: the turn's end and the document's end."""
        tokens: list[str] = self.field("tokenizer.ggml.tokens")
        return sorted({int(self.field("tokenizer.ggml.eos_token_id")), tokens.index("<|endoftext|>")})


def unpermute(weight: Tensor, n_heads: int) -> Tensor:
    """Rows [H * C, D] of interleaved rotary pairs to rows of split halves, per head."""
    rows, columns = weight.shape
    pairs = weight.view(n_heads, rows // n_heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)
