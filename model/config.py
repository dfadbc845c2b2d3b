"""Shapes of the stack's models, as frozen dataclasses.

Importing this module does not import torch, so that web processes, the judge's control side and tests can read shapes
quickly. Named models are in `model/presets.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

Gate = Literal["softmax", "sigmoid"]
GroupScore = Literal["max", "top2"]
QKNorm = Literal["none", "head", "all"]
RopeKind = Literal["linear", "dynamic", "llama3", "yarn"]

MOST_LAYERS = 10_000  # far beyond any model: a damaged file must not make a list of a billion


class ConfigError(ValueError):
    """An invalid shape or setting; the message names the field and the rule."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def require_types(part: object) -> None:
    """Raises ConfigError where a dataclass has a field of another type than declared: files may say anything.

    Whole numbers are accepted as fractions. Literals are not checked.
    """
    kind: Any = type(part)  # mypy takes type[object] for unhashable
    for field, hint in _hints(kind).items():
        value = getattr(part, field)
        if not _is_a(value, hint):
            raise ConfigError(f"{kind.__name__}.{field} must be {_in_words(hint)}, not {value!r}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_a(value: object, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_is_a(value, one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_a(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is Literal:
        return True
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _in_words(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(map(_in_words, get_args(hint)))
    return _WORDS.get(hint) or f"a {hint.__name__}"


_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "None",
    tuple[int, ...]: "a tuple of whole numbers (in files a list)",
}


def _require_choice(owner: str, field: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{owner}.{field} must be one of {', '.join(choices)}")


def _require_positive(part: object, *fields: str, or_none: bool = False) -> None:
    """Raises ConfigError for values that are not above 0 and finite."""
    for field in fields:
        value = getattr(part, field)
        holds = (or_none and value is None) or 0 < value < math.inf
        rule = f"must be above 0 and finite{', or None' if or_none else ''}"
        _require(holds, f"{type(part).__name__}.{field} {rule}, not {value!r}")


def _require_not_negative(part: object, *fields: str, or_none: bool = False) -> None:
    """Raises ConfigError for values below 0 and non-finite ones."""
    for field in fields:
        value = getattr(part, field)
        holds = (or_none and value is None) or 0 <= value < math.inf
        rule = f"must not be negative and must be finite{', or None' if or_none else ''}"
        _require(holds, f"{type(part).__name__}.{field} {rule}, not {value!r}")


@dataclass(frozen=True)
class RopeScaling:
    """Scaling of rotary angles beyond the context of pre-training; the formulas are in layers/attention/rotary.py.

    `linear` divides positions by `factor` (Chen et al. 2023, arXiv:2306.15595); `dynamic` raises theta with the
    sequence (NTK-aware); `llama3` stretches long wave lengths only; `yarn` blends by wave length and scales
    attention (Peng et al. 2023, arXiv:2309.00071). A kind uses only the fields that name it.
    """

    kind: RopeKind
    factor: float
    original_context: int  # tokens; all kinds but linear
    low_frequency_factor: float = 1.0  # llama3
    high_frequency_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = (
        None  # yarn: on cosines and sines; None: derived from factor and the mscales
    )
    mscale: float | None = None  # yarn, as DeepSeek uses it
    mscale_all_dims: float | None = None  # yarn, as DeepSeek uses it: also scales MLA's softmax
    truncate: bool = True  # yarn: round the blend's limits to whole dimensions

    def __post_init__(self) -> None:
        require_types(self)
        _require_choice("RopeScaling", "kind", self.kind, get_args(RopeKind))
        _require(1 <= self.factor < math.inf, "RopeScaling.factor must be at least 1 and finite")
        _require(self.original_context >= 1, "RopeScaling.original_context must be at least 1")
        _require(
            self.kind != "llama3" or self.high_frequency_factor > self.low_frequency_factor,
            "RopeScaling.high_frequency_factor must be above low_frequency_factor",
        )
        _require_positive(self, "low_frequency_factor", "high_frequency_factor", "beta_fast", "beta_slow")
        _require_positive(self, "attention_factor", or_none=True)
        _require_not_negative(self, "mscale", "mscale_all_dims", or_none=True)
        _require(self.beta_fast >= self.beta_slow, "RopeScaling.beta_fast must not be below beta_slow")


@dataclass(frozen=True)
class LatentConfig:
    """Multi-head latent attention (MLA; DeepSeek-V2, arXiv:2405.04434): keys and values come from one small latent vector.

    A head's queries and keys are `d_nope` dimensions without position and `d_rope` rotary ones; the rotary part of
    the keys is shared by all heads. `q_rank` None projects queries directly.
    """

    kv_rank: int
    d_nope: int
    d_rope: int
    d_value: int
    q_rank: int | None = None

    def __post_init__(self) -> None:
        require_types(self)
        for field in ("kv_rank", "d_nope", "d_rope", "d_value"):
            _require(getattr(self, field) >= 1, f"LatentConfig.{field} must be at least 1")
        _require(self.q_rank is None or self.q_rank >= 1, "LatentConfig.q_rank must be at least 1 or None")
        _require(self.d_rope % 2 == 0, "LatentConfig.d_rope must be even: rotary turns pairs")


@dataclass(frozen=True)
class MoEConfig:
    """One Mixture-of-Experts layer: `n_shared` experts see every token, `top_k` of `n_experts` are routed to.

    The shared experts are merged into one feed-forward of width `n_shared * d_expert`, or of `shared_width`.
    """

    d_model: int
    d_expert: int
    n_experts: int
    top_k: int
    n_shared: int = 0
    gate: Gate = "softmax"
    normalise_top_k: bool = True  # the chosen weights of a token sum to one
    bias_balancing: bool = False  # adds the buffer `router.bias`, see model/layers/moe/router.py
    routed_scale: float = 1.0  # factor on the routed experts' sum
    shared_width: int | None = None  # where the shared experts' width is no multiple of d_expert
    gate_shared: bool = False  # a sigmoid gate of each token on the shared experts' output (Qwen2-MoE)
    n_groups: int = 1  # experts are in equal groups, neighbours together (DeepSeek-V2)
    top_groups: int = 1  # a token's experts come from this many groups
    group_score: GroupScore = "max"  # a group's score: of its best expert, or the sum of its two best
    capacity_factor: float | None = None  # None: dropless; else an expert takes factor * T * K / E pairs
    switch_loss: float = 0.0  # weight of the load-balance loss over a batch (arXiv:2101.03961)
    sequence_loss: float = 0.0  # weight of the same per sequence (arXiv:2412.19437)
    z_loss: float = 0.0  # weight of the squared log-sum-exp of the router's logits (arXiv:2202.08906)

    def __post_init__(self) -> None:
        require_types(self)
        for field in ("d_model", "d_expert", "n_experts", "top_k", "n_groups", "top_groups"):
            _require(getattr(self, field) >= 1, f"MoEConfig.{field} must be at least 1")
        _require_not_negative(self, "n_shared", "routed_scale", "switch_loss", "sequence_loss", "z_loss")
        _require_positive(self, "shared_width", "capacity_factor", or_none=True)
        _require_choice("MoEConfig", "gate", self.gate, get_args(Gate))
        _require_choice("MoEConfig", "group_score", self.group_score, get_args(GroupScore))
        _require(self.n_experts % self.n_groups == 0, "MoEConfig.n_experts must be a multiple of n_groups")
        _require(self.top_groups <= self.n_groups, "MoEConfig.top_groups must not exceed n_groups")
        _require(
            self.group_score == "max" or self.n_groups == 1 or self.n_experts >= 2 * self.n_groups,
            "MoEConfig.group_score top2 needs groups of at least two experts (n_groups)",
        )
        reachable = self.n_experts // self.n_groups * self.top_groups
        _require(
            self.top_k <= reachable,
            f"MoEConfig.top_k must not exceed the {reachable} experts that a token can reach (n_experts, n_groups)",
        )
        _require(
            self.shared_width is None or self.n_shared >= 1, "MoEConfig.shared_width needs n_shared >= 1"
        )
        _require(not self.gate_shared or self.n_shared >= 1, "MoEConfig.gate_shared needs n_shared >= 1")

    @property
    def d_shared(self) -> int:
        """Width of the merged shared experts; 0 where there are none."""
        return self.n_shared * self.d_expert if self.shared_width is None else self.shared_width

    @property
    def total_parameters(self) -> int:
        return self._outside_routed + self.n_experts * 3 * self.d_model * self.d_expert

    @property
    def active_parameters(self) -> int:
        """Parameters that one token touches: the whole router, the shared experts and its top-k."""
        return self._outside_routed + self.top_k * 3 * self.d_model * self.d_expert

    @property
    def _outside_routed(self) -> int:
        shared_gate = self.d_model if self.gate_shared else 0
        return self.n_experts * self.d_model + shared_gate + 3 * self.d_model * self.d_shared


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer with Llama's conventions; feed-forwards are dense or MoE.

    Layers before `first_moe_layer` and those in `dense_layers` have a dense feed-forward of width `d_ff`; the others
    are MoE where `moe` is given. All sizes count elements; `max_context` counts tokens, prompt and completion together.
    With `latent`, `n_kv_heads` and `d_head` are not used by attention.

    Layers may share weights: `attention_owners[l]` is the layer whose attention weights layer l uses, `ffn_owners[l]`
    the same for feed-forwards; an owner names itself; empty means that nothing is shared.
    """

    name: str
    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    max_context: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    moe: MoEConfig | None = None
    first_moe_layer: int = 0
    dense_layers: tuple[int, ...] = ()
    latent: LatentConfig | None = None
    rope_scaling: RopeScaling | None = None
    rope_interleaved: bool = False  # neighbours turn together, not halves (DeepSeek)
    qk_norm: QKNorm = (
        "none"  # RMSNorm on queries and keys: per head (Qwen3) or over all heads at once (OLMoE)
    )
    qkv_bias: bool = False
    output_bias: bool = False  # of attention's output projection
    ffn_bias: bool = False  # of dense feed-forwards
    qkv_clip: float | None = None  # queries, keys and values are clamped to +- this (OLMoE)
    sliding_window: int | None = None  # tokens that a query sees, itself included
    full_attention_layers: tuple[int, ...] = ()  # layers without the sliding window
    attention_owners: tuple[int, ...] = ()
    ffn_owners: tuple[int, ...] = ()
    n_ahead: int = (
        0  # multi-token prediction modules (DeepSeek-V3): module i predicts the token i + 2 positions later
    )

    def __post_init__(self) -> None:
        require_types(self)
        for field in (
            "vocab_size",
            "d_model",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "d_head",
            "d_ff",
            "max_context",
        ):
            _require(getattr(self, field) >= 1, f"ModelConfig.{field} must be at least 1")
        _require(self.n_layers <= MOST_LAYERS, f"ModelConfig.n_layers must be at most {MOST_LAYERS}")
        _require(self.n_heads % self.n_kv_heads == 0, "ModelConfig.n_heads must be a multiple of n_kv_heads")
        _require(self.d_head % 2 == 0, "ModelConfig.d_head must be even: rotary turns pairs")
        _require_not_negative(self, "first_moe_layer", "n_ahead")
        _require_positive(self, "rope_theta", "norm_eps")
        _require_positive(self, "sliding_window", "qkv_clip", or_none=True)
        is_yarn = self.rope_scaling is not None and self.rope_scaling.kind == "yarn"
        _require(not is_yarn or self.rope_theta > 1, "ModelConfig.rope_theta must be above 1 for yarn")
        _require_choice("ModelConfig", "qk_norm", self.qk_norm, get_args(QKNorm))
        if self.moe is not None:
            _require(self.moe.d_model == self.d_model, "ModelConfig.moe.d_model must equal d_model")
        if self.latent is not None:
            _require(self.qk_norm == "none", "ModelConfig.qk_norm cannot be used with latent (MLA)")
            _require(self.qkv_clip is None, "ModelConfig.qkv_clip cannot be used with latent (MLA)")
        for field in ("dense_layers", "full_attention_layers"):
            inside = all(0 <= layer < self.n_layers for layer in getattr(self, field))
            _require(inside, f"ModelConfig.{field} names a layer that the model does not have")
        self._require_owners("attention_owners")
        self._require_owners("ffn_owners")

    def _require_owners(self, field: str) -> None:
        owners: tuple[int, ...] = getattr(self, field)
        if not owners:
            return
        _require(len(owners) == self.n_layers, f"ModelConfig.{field} needs one owner per layer")
        for layer, owner in enumerate(owners):
            owned = 0 <= owner <= layer and owners[owner] == owner
            _require(owned, f"ModelConfig.{field}: layer {layer} must name itself or an earlier owner")
            if field == "ffn_owners":
                alike = self.is_moe_layer(layer) == self.is_moe_layer(owner)
                _require(
                    alike,
                    f"ModelConfig.ffn_owners: layers {layer} and {owner} are not of the same kind, dense or MoE",
                )

    def is_moe_layer(self, layer: int) -> bool:
        return self.moe is not None and layer >= self.first_moe_layer and layer not in self.dense_layers

    @property
    def shares_weights(self) -> bool:
        """Whether a layer uses the weights of another one."""
        layers = range(self.n_layers)
        return any(self.attention_owner(layer) != layer or self.ffn_owner(layer) != layer for layer in layers)

    def attention_owner(self, layer: int) -> int:
        return self.attention_owners[layer] if self.attention_owners else layer

    def ffn_owner(self, layer: int) -> int:
        return self.ffn_owners[layer] if self.ffn_owners else layer

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer in tokens; None for full attention."""
        return None if layer in self.full_attention_layers else self.sliding_window

    @property
    def n_moe_layers(self) -> int:
        return sum(self.is_moe_layer(layer) for layer in range(self.n_layers))

    @property
    def total_parameters(self) -> int:
        """Number of stored parameters: shared ones count once."""
        attentions = {self.attention_owner(layer) for layer in range(self.n_layers)}
        ffns = {self.ffn_owner(layer) for layer in range(self.n_layers)}
        blocks = len(attentions) * self.attention_parameters + sum(self._ffn(layer).total for layer in ffns)
        return blocks + self._mtp_parameters + self._outside_blocks

    @property
    def active_parameters(self) -> int:
        """Number of parameters that one token's forward pass multiplies with; shared ones as often as they are used.

        The embedding counts once when tied. MTP modules do not count.
        """
        ffns = sum(self._ffn(layer).active for layer in range(self.n_layers))
        return self.n_layers * self.attention_parameters + ffns + self._outside_blocks

    @property
    def attention_parameters(self) -> int:
        """Attention's parameters in one layer, biases and norms on queries and keys included."""
        d_model, n_heads = self.d_model, self.n_heads
        output_bias = d_model if self.output_bias else 0
        if self.latent is not None:
            latent = self.latent
            d_query, d_kv = latent.d_nope + latent.d_rope, latent.d_nope + latent.d_value
            down = (latent.kv_rank + latent.d_rope) * (d_model + self.qkv_bias)
            up = latent.kv_rank * (1 + n_heads * d_kv)
            if latent.q_rank is None:
                query = d_model * n_heads * d_query
            else:
                query = latent.q_rank * (d_model + self.qkv_bias + 1 + n_heads * d_query)
            return query + down + up + n_heads * latent.d_value * d_model + output_bias
        q, kv = n_heads * self.d_head, 2 * self.n_kv_heads * self.d_head
        norms = {"none": 0, "head": 2 * self.d_head, "all": q + kv // 2}[self.qk_norm]
        return (q + kv) * (d_model + self.qkv_bias) + norms + q * d_model + output_bias

    @property
    def _outside_blocks(self) -> int:
        norms = (2 * self.n_layers + 1) * self.d_model
        return norms + self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)

    @property
    def _mtp_parameters(self) -> int:
        """Parameters of the MTP modules; each has three norms, a block with two more, and the projection of two inputs."""
        block = self.attention_parameters + self._ffn(self.n_layers - 1).total
        return self.n_ahead * (block + 5 * self.d_model + 2 * self.d_model**2)

    def _ffn(self, layer: int) -> _Count:
        if self.moe is not None and self.is_moe_layer(layer):
            return _Count(self.moe.total_parameters, self.moe.active_parameters)
        dense = 3 * self.d_model * self.d_ff + (2 * self.d_ff + self.d_model if self.ffn_bias else 0)
        return _Count(dense, dense)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`, also through JSON. Raises ConfigError for unknown, missing or mistyped fields."""
        if not isinstance(values, dict):
            raise ConfigError(f"not a model configuration: {values!r} is not an object with fields")
        nested = {"moe": MoEConfig, "latent": LatentConfig, "rope_scaling": RopeScaling}
        try:
            parts = {
                name: kind(**values[name]) for name, kind in nested.items() if values.get(name) is not None
            }
            lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
            return cls(**{**values, **lists, **parts})
        except TypeError as error:
            raise ConfigError(f"not a model configuration: {error}") from error


@dataclass(frozen=True)
class _Count:
    """Parameters of one part: all of them, and those that one token multiplies with."""

    total: int
    active: int
