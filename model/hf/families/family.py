"""Description of a family, one of Hugging Face's model types: rules for its configuration and names of its weights.

Families are data; they are in `llama.py`, `mixtral.py`, `qwen.py`, `olmoe.py` and `deepseek.py`. Does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.config import MOST_LAYERS, ConfigError, ModelConfig
from model.hf.config.fields import MOST_VOCABULARY, Field, Fixed, Ours, Rule, Theirs, TrainingOnly
from model.hf.config.meaning import differences
from model.hf.config.token_ids import TokenIds
from model.hf.errors import UnsupportedByFamily, UnsupportedModel

EXPERT = "{expert}"
_LAYER = re.compile(r"layers\.(\d+)\.(.+)")

_OUTSIDE = {
    "embedding": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head": "lm_head.weight",
}


@dataclass(frozen=True)
class Family:
    """A family, with `model_type` and `architecture` as in `config.json`.

    `names`: our names within a layer and theirs; a name of theirs with `{expert}` is one tensor per expert,
    of which ours is the stack. `has_mtp_modules`: files may have MTP modules as further
    layers.
    """

    model_type: str
    architecture: str
    rules: tuple[Rule, ...]
    names: Mapping[str, str]
    has_mtp_modules: bool = False

    def read_config(self, theirs: Theirs, name: str) -> ModelConfig:
        """Translate `config.json`. Raises UnsupportedModel, which names the field, for a model that we cannot represent."""
        ours: dict[str, Any] = {"name": name}
        for rule in self.rules:
            rule.read(theirs, ours)
        try:
            return ModelConfig.from_dict(ours)
        except ConfigError as error:
            raise UnsupportedModel(f"config.json describes an invalid {self.model_type}: {error}") from error

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """The fields of `config.json`. Raises UnsupportedByFamily where they would not mean the same model.

        They are read back, so that a field which this family does not have is never lost without an error.
        """
        theirs: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.model_type}
        refusals: list[str] = []
        for rule in self.rules:
            try:
                rule.write(config, theirs)
            except UnsupportedModel as error:
                refusals.append(str(error))
        if refusals:
            message = f"{self.model_type}: {', '.join(dict.fromkeys(refusals))}"
            raise UnsupportedByFamily(message, len(refusals), is_complete=False)
        try:
            lost = differences(config, self.read_config(theirs, config.name))
        except UnsupportedModel as error:
            raise UnsupportedByFamily(f"{self.model_type}: {error}", 1, is_complete=False) from error
        if lost:
            message = f"{self.model_type} cannot represent {', '.join(lost)}"
            raise UnsupportedByFamily(message, len(lost), is_complete=True)
        return theirs

    def their_name(self, ours: str) -> str:
        """Their name of one of our tensors, with `{expert}` where it is one of many. Raises UnsupportedModel."""
        if ours in _OUTSIDE:
            return _OUTSIDE[ours]
        found = _LAYER.fullmatch(ours)
        if found is None or found[2] not in self.names:
            raise UnsupportedModel(f"{self.model_type} has no name for the tensor {ours}")
        return f"model.layers.{found[1]}.{self.names[found[2]]}"


# What all families have in common.

_VOCABULARY = Field("vocab_size", "vocab_size", most=MOST_VOCABULARY)
SIZES: tuple[Rule, ...] = (
    Fixed("quantization_config", (None,), "save the model dequantised first", is_written=False),
    _VOCABULARY,
    TokenIds(),
    Field("hidden_size", "d_model"),
    Field("num_hidden_layers", "n_layers", most=MOST_LAYERS),
    Field("num_attention_heads", "n_heads"),
    Field("num_key_value_heads", "n_kv_heads", same_as="n_heads"),
    Field("rms_norm_eps", "norm_eps", float),
    Field("tie_word_embeddings", "tie_embeddings", bool, default=False),
    Fixed("hidden_act", ("silu", "swish"), "feed-forwards are SwiGLU here, so only 'silu'"),
    TrainingOnly("attention_dropout"),
)


def vocab_size(theirs: Theirs) -> int:
    """Vocabulary size of a parsed `config.json`, before anything else is read. Raises UnsupportedModel."""
    ours: Ours = {}
    _VOCABULARY.read(theirs, ours)
    return int(ours["vocab_size"])


NORMS = {
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}

ATTENTION = {
    "attention.w_q": "self_attn.q_proj.weight",
    "attention.w_k": "self_attn.k_proj.weight",
    "attention.w_v": "self_attn.v_proj.weight",
    "attention.w_o": "self_attn.o_proj.weight",
}
QKV_BIASES = {
    "attention.b_q": "self_attn.q_proj.bias",
    "attention.b_k": "self_attn.k_proj.bias",
    "attention.b_v": "self_attn.v_proj.bias",
}
OUTPUT_BIAS = {"attention.b_o": "self_attn.o_proj.bias"}
QK_NORMS = {
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
}

DENSE = {
    "ffn.w_gate": "mlp.gate_proj.weight",
    "ffn.w_up": "mlp.up_proj.weight",
    "ffn.w_down": "mlp.down_proj.weight",
}
EXPERTS = {
    "ffn.router.weight": "mlp.gate.weight",
    "ffn.experts.w_gate": f"mlp.experts.{EXPERT}.gate_proj.weight",
    "ffn.experts.w_up": f"mlp.experts.{EXPERT}.up_proj.weight",
    "ffn.experts.w_down": f"mlp.experts.{EXPERT}.down_proj.weight",
}
