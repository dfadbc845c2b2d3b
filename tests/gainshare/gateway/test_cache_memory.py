"""Bytes of cache for a token, from the installed configuration."""

import json
from pathlib import Path
from typing import Any

import pytest

from gainshare.gateway.cache_memory import BUILT_IN, UNKNOWN, CacheShape, cache_shape
from model.config import LatentConfig, ModelConfig
from model.presets import PRESETS
from model.serving.engine.cache import kept_per_token, widest_window

SMOLLM2 = PRESETS["smollm2"].to_dict()
LATENT = LatentConfig(kv_rank=32, d_nope=16, d_rope=8, d_value=16)


@pytest.fixture
def store(tmp_path: Path, settings: Any) -> Path:
    settings.HOME = tmp_path
    return tmp_path / "models"


def install(folder: Path, config: dict[str, Any], dtypes: list[str] | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if dtypes is not None:
        header = {
            f"w{i}": {"dtype": dtype, "shape": [1], "data_offsets": [0, 2]} for i, dtype in enumerate(dtypes)
        }
        text = json.dumps({"__metadata__": {}, **header}).encode()
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


def of_engine(config: ModelConfig, element: int) -> CacheShape:
    """What the engine keeps of a token."""
    n_heads, d_key, d_value = kept_per_token(config)
    return CacheShape(config.n_layers * n_heads * (d_key + d_value) * element, widest_window(config))


def test_the_built_in_model_is_as_the_engine_keeps_it() -> None:
    assert {"tiny": of_engine(PRESETS["tiny"], 4)} == BUILT_IN


@pytest.mark.parametrize(
    ("change", "dtypes", "element"),
    [
        ({}, ["BF16", "BF16", "F32"], 2),
        ({}, ["F32"], 4),
        ({"latent": LATENT.__dict__}, ["F16"], 2),
        ({"sliding_window": 128}, ["BF16"], 2),
        ({"sliding_window": 128, "full_attention_layers": [3]}, ["BF16"], 2),
    ],
    ids=repr,
)
def test_our_models_are_as_the_engine_keeps_them(
    store: Path, change: dict[str, Any], dtypes: list[str], element: int
) -> None:
    config = {**SMOLLM2, **change}
    install(store / "mine", {"format": "gainshare.model/1", "model": config, "metadata": {}}, dtypes)
    shape = cache_shape("mine")
    assert shape == of_engine(ModelConfig.from_dict(config), element)
    assert shape.bytes_per_token > 0


def test_hugging_face_models_are_read_under_their_names(store: Path) -> None:
    llama = {
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 256,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    install(store / "llama", llama)
    assert cache_shape("llama") == CacheShape(4 * 2 * 2 * 32 * 2)
    install(
        store / "mla",
        {"num_hidden_layers": 3, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "dtype": "float32"},
    )
    assert cache_shape("mla") == CacheShape(3 * 576 * 4)


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        "text",
        {"model": {}},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 2, "num_attention_heads": 0},
    ],
    ids=repr,
)
def test_a_configuration_that_is_none_bills_no_memory(store: Path, config: Any) -> None:
    install(store / "bad", config, [])
    assert cache_shape("bad") == UNKNOWN


def test_a_shape_that_no_model_has_bills_no_memory(store: Path) -> None:
    config = {**SMOLLM2, "n_layers": 10**12}
    install(store / "huge", {"format": "gainshare.model/1", "model": config, "metadata": {}}, ["F32"])
    assert cache_shape("huge") == UNKNOWN


@pytest.mark.parametrize("name", ["elsewhere", "../mine", "a/b", "..", ".hidden", "", "x\0y", "/etc"])
def test_only_installed_models_are_read(store: Path, name: str) -> None:
    install(store.parent / "mine", {"num_hidden_layers": 3, "kv_lora_rank": 5, "qk_rope_head_dim": 6})
    store.mkdir()
    assert cache_shape(name) == UNKNOWN
