"""Rotary embedding and context length: `config.json` to and from a `ModelConfig`.

transformers 4 keeps `rope_theta` next to `rope_scaling`, transformers 5 both in `rope_parameters`; both versions
read the older form, which is written. The formulas behind the kinds are in `model/layers/attention/rotary.py`,
which derives YaRN's factors as transformers does. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig, RopeScaling
from model.hf.config.fields import MOST_CONTEXT, Ours, Theirs, number, whole
from model.hf.errors import UnsupportedModel

# Per kind: their names of numbers and ours, in addition to `factor`; and the defaults of optional ones.
_NUMBERS: Mapping[str, Mapping[str, str]] = {
    "linear": {},
    "dynamic": {},
    "llama3": {"low_freq_factor": "low_frequency_factor", "high_freq_factor": "high_frequency_factor"},
    "yarn": {
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
        "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dims",
    },
}
_MISSING: Mapping[str, float | None] = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": None,
    "mscale": None,
    "mscale_all_dim": None,
}
_ZERO_IS_MISSING = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")  # to transformers, too
_ORIGINAL = "original_max_position_embeddings"
_HAS_ORIGINAL = ("llama3", "yarn")


@dataclass(frozen=True)
class Rope:
    """`max_context`, `rope_theta` and `rope_scaling`.

    `scales_softmax`: the family multiplies the softmax's scale by the `mscale_all_dim` of any kind (DeepSeek); we do
    that for YaRN only.
    """

    default_theta: float = 10_000.0
    scales_softmax: bool = False

    def read(self, theirs: Theirs, ours: Ours) -> None:
        parameters = _parameters(theirs)
        name = "max_position_embeddings"
        max_positions = whole(name, theirs.get(name), most=MOST_CONTEXT)
        given = parameters.get("rope_theta"), theirs.get("rope_theta")
        theta = next((theta for theta in given if theta is not None), self.default_theta)
        scaling = self._scaling(parameters, theirs, max_positions)
        ours["rope_theta"] = number("rope_theta", theta)
        ours["rope_scaling"] = scaling
        ours["max_context"] = max_positions
        if scaling is not None and scaling["kind"] == "dynamic":
            # Scaling starts beyond the context of pre-training and extends it `factor` times.
            reach = max_positions * scaling["factor"]
            if not reach <= MOST_CONTEXT:
                raise UnsupportedModel(
                    f"factor = {scaling['factor']:g} makes a context of more than {MOST_CONTEXT} tokens: correct config.json"
                )
            ours["max_context"] = int(reach)

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        scaling = config.rope_scaling
        theirs["rope_theta"] = config.rope_theta
        theirs["rope_scaling"] = None if scaling is None else _written(scaling)
        is_dynamic = scaling is not None and scaling.kind == "dynamic"
        theirs["max_position_embeddings"] = (
            scaling.original_context if scaling is not None and is_dynamic else config.max_context
        )

    def _scaling(self, parameters: Theirs, theirs: Theirs, max_positions: int) -> dict[str, Any] | None:
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        if self.scales_softmax and parameters.get("mscale_all_dim") and kind not in ("default", "yarn"):
            raise UnsupportedModel(
                f"mscale_all_dim with rope_type {kind!r} is not supported, only with 'yarn'"
            )
        if kind == "default":
            return None
        if not isinstance(kind, str) or kind not in _NUMBERS:
            raise UnsupportedModel(f"rope_type = {kind!r} is not supported: only {', '.join(_NUMBERS)}")
        scaling: dict[str, Any] = {"kind": kind, "factor": number("factor", parameters.get("factor"))}
        for name, our_name in _NUMBERS[kind].items():
            scaling[our_name] = _optional(name, parameters.get(name))
        if kind == "yarn":
            scaling["truncate"] = bool(parameters.get("truncate", True))
        given = theirs.get(_ORIGINAL), parameters.get(_ORIGINAL)
        original = next((value for value in given if value is not None), None)
        is_given = kind in _HAS_ORIGINAL and original is not None
        scaling["original_context"] = (
            whole(_ORIGINAL, original, most=MOST_CONTEXT) if is_given else max_positions
        )
        return scaling


def _written(scaling: RopeScaling) -> dict[str, Any]:
    written: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    for name, our_name in _NUMBERS[scaling.kind].items():
        value = getattr(scaling, our_name)
        if value is not None:
            written[name] = value
    if scaling.kind in _HAS_ORIGINAL:
        written[_ORIGINAL] = scaling.original_context
    if scaling.kind == "yarn":
        written["truncate"] = scaling.truncate
    return written


def _parameters(theirs: Theirs) -> Theirs:
    """The dict of rotary parameters under either name. Raises UnsupportedModel for unknown forms."""
    parameters = theirs.get("rope_scaling") or theirs.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping) or any(
        isinstance(value, Mapping) for value in parameters.values()
    ):
        raise UnsupportedModel(
            "rope_parameters must be one set for all layers: sets per layer type are not supported"
        )
    partial = parameters.get("partial_rotary_factor", theirs.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise UnsupportedModel(
            f"partial_rotary_factor = {partial!r} is not supported: rotary embedding is applied to whole heads here"
        )
    return parameters


def _optional(name: str, value: Any) -> float | None:
    if name in _MISSING and (value is None or (value == 0 and name in _ZERO_IS_MISSING)):
        return _MISSING[name]
    return number(name, value)
