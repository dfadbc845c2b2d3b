"""Memory that a served model's cache takes for one token, read from the installed configuration without torch.

The configuration is `HOME/models/NAME/config.json` of the local store, in this stack's format or in Hugging Face's. The
models of other nodes are unknown here: their memory counts as 0 bytes and costs nothing. Code that a patch may touch
is not asked.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
MOST_HEADER_BYTES = 64 << 20
DTYPE_BYTES = {"F64": 8, "F32": 4, "float64": 8, "float32": 4}
HALF_BYTES = 2  # bfloat16 and float16; quantised weights have caches of one of them too
MOST_BYTES_PER_TOKEN = 1 << 30


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Bytes of keys and values for each token, over all layers, and the most tokens of one answer that are kept."""

    bytes_per_token: int
    window: int | None = None


UNKNOWN = CacheShape(0)
BUILT_IN = {"tiny": CacheShape(512)}  # 2 layers x 2 heads x (16 + 16) x 4 bytes


def cache_shape(model: str) -> CacheShape:
    """The shape of a served model's cache; `UNKNOWN` if its configuration is not installed here or cannot be read."""
    if model in BUILT_IN:
        return BUILT_IN[model]
    if model.startswith(".") or Path(model).name != model:
        return UNKNOWN
    folder = Path(settings.HOME) / "models" / model
    try:
        changed_ns = (folder / "config.json").stat().st_mtime_ns
    except (OSError, ValueError):
        return UNKNOWN
    return _read(folder, changed_ns)


@lru_cache(maxsize=64)
def _read(folder: Path, changed_ns: int) -> CacheShape:
    """The shape in a folder whose configuration changed at `changed_ns` last."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = document.get("model", document)
        ours = isinstance(document.get("model"), dict)
        element = DTYPE_BYTES.get(_stored_dtype(folder) if ours else _named_dtype(document), HALF_BYTES)
        shape = _our_shape(config, element) if ours else _hugging_face_shape(config, element)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning(
            "the memory of %s is not billed: its configuration cannot be read: %r", folder.name, error
        )
        return UNKNOWN
    if not 0 < shape.bytes_per_token <= MOST_BYTES_PER_TOKEN:
        logger.warning("the memory of %s is not billed: %d bytes a token", folder.name, shape.bytes_per_token)
        return UNKNOWN
    return shape


def _our_shape(config: Mapping[str, Any], element: int) -> CacheShape:
    """Keys and values of `n_kv_heads`, or MLA's latent and rotary key, in each layer."""
    latent, layers = config.get("latent"), _count(config["n_layers"])
    width = (
        _count(latent["kv_rank"]) + _count(latent["d_rope"])
        if latent
        else _count(config["n_kv_heads"]) * 2 * _count(config["d_head"])
    )
    has_full = bool(config.get("full_attention_layers")) or bool(config.get("n_ahead"))
    window = config.get("sliding_window")
    return CacheShape(layers * width * element, None if has_full or window is None else _count(window))


def _hugging_face_shape(config: Mapping[str, Any], element: int) -> CacheShape:
    """The same under Hugging Face's names; sliding windows, whose rules differ by family, are not used."""
    layers = _count(config["num_hidden_layers"])
    if config.get("kv_lora_rank"):
        width = _count(config["kv_lora_rank"]) + _count(config["qk_rope_head_dim"])
    else:
        n_heads = _count(config["num_attention_heads"])
        d_head = _count(config.get("head_dim") or _count(config["hidden_size"]) // n_heads)
        width = _count(config.get("num_key_value_heads") or n_heads) * 2 * d_head
    return CacheShape(layers * width * element)


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is not a size")
    return value


def _named_dtype(config: Mapping[str, Any]) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "")


def _stored_dtype(folder: Path) -> str:
    """The dtype of most weights, from the header of their file: eight bytes of length, then JSON."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER_BYTES:
            raise ValueError("the header of the weights is too long")
        header = json.loads(file.read(length))
    dtypes = Counter(str(entry["dtype"]) for name, entry in header.items() if name != "__metadata__")
    return dtypes.most_common(1)[0][0] if dtypes else ""
