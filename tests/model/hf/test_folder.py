"""Folders in Hugging Face's format: shards, dtypes, damage, and writing whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import hf
from model.checkpoint import CheckpointError
from model.config import ModelConfig
from model.hf import UnsupportedModel
from model.hf.shards import INDEX_FILE, WEIGHTS_FILE, read_tensors, tensor_files
from model.transformer import Transformer
from tests.model.hf.hf_models import (
    assert_close,
    assert_equal_states,
    build,
    edit_config,
    load_theirs,
    tokens,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    folder = tmp_path / "mixtral"
    build("mixtral", num_hidden_layers=2).save_pretrained(folder)
    return folder


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replaces tensors of the one weight file; None removes one. Names have `__` for dots."""
    tensors = load_file(folder / WEIGHTS_FILE)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3"])
def test_shards_of_transformers_are_read_and_ours_are_read_by_it(model_type: str, tmp_path: Path) -> None:
    theirs = build(model_type)
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    theirs.save_pretrained(tmp_path / "whole")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    config, state = hf.load(tmp_path / "sharded")
    assert_equal_states(state, hf.load(tmp_path / "whole")[1])

    hf.save(tmp_path / "ours", config, state, shard_bytes=40_000)
    files = sorted((tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < 60_000 for file in files)  # header included
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "ours" / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state.values())
    assert_equal_states(load_theirs(tmp_path / "ours").state_dict(), theirs.state_dict())


def test_each_tensor_is_read_once_and_one_at_a_time(mixtral: Path) -> None:
    stored = load_file(mixtral / WEIGHTS_FILE)
    names = [name for name, _ in read_tensors(tensor_files(mixtral), stored.keys())]
    assert sorted(names) == sorted(stored)
    assert [name for name, _ in read_tensors(tensor_files(mixtral), {"model.norm.weight"})] == [
        "model.norm.weight"
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_stored_dtypes_are_kept_both_ways(dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = build("qwen2_moe").to(dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    config, state = hf.load(tmp_path / "theirs")
    assert {tensor.dtype for tensor in state.values()} == {dtype}
    hf.save(tmp_path / "back", config, state)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == str(dtype)[6:]
    assert_equal_states(load_theirs(tmp_path / "back").state_dict(), theirs.state_dict())


def test_weights_are_converted_on_demand_but_for_the_balancing_bias(tmp_path: Path) -> None:
    build("deepseek_v3").save_pretrained(tmp_path / "theirs")
    _, state = hf.load(tmp_path / "theirs")
    _, converted = hf.load(tmp_path / "theirs", dtype=torch.bfloat16)
    for name, tensor in state.items():
        expected = tensor if name.endswith("router.bias") else tensor.bfloat16()
        assert torch.equal(converted[name], expected), name


def test_a_mixed_model_is_written_in_the_widest_of_its_dtypes(tmp_path: Path) -> None:
    theirs = build("llama")
    theirs.save_pretrained(tmp_path / "theirs")
    config, state = hf.load(tmp_path / "theirs")
    mixed = hf.to_transformer(config, state).cast_blocks(torch.bfloat16)
    hf.save(tmp_path / "mixed", config, mixed.state_dict())
    assert load_theirs(tmp_path / "mixed").dtype == torch.float32
    assert torch.equal(load_theirs(tmp_path / "mixed").model.embed_tokens.weight, state["embedding"])


def test_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    build("deepseek_v3").save_pretrained(tmp_path / "theirs")
    config, state = hf.load(tmp_path / "theirs")
    model = hf.to_transformer(config, state)
    assert not model.training
    built = {
        name: buffer.detach() for name, buffer in Transformer(config).named_buffers() if name not in state
    }
    loaded = {name: buffer for name, buffer in model.named_buffers() if name not in state}
    assert_equal_states(loaded, built)  # counters that are not stored, on a real device and at zero
    model.train()(tokens(0)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.equal(model.state_dict()["embedding"], hf.load(tmp_path / "theirs")[1]["embedding"])


@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3"])
def test_a_model_that_was_trained_with_a_capacity_comes_back_with_its_logits(
    model_type: str, tmp_path: Path
) -> None:
    build(model_type).save_pretrained(tmp_path / "theirs")
    dropless, state = hf.load(tmp_path / "theirs")
    assert dropless.moe is not None
    config = dataclasses.replace(dropless, moe=dataclasses.replace(dropless.moe, capacity_factor=0.5))
    model = hf.to_transformer(config, state)
    hf.save(tmp_path / "out", config, state, model_type=model_type)
    read, state_again = hf.load(tmp_path / "out")
    ids = tokens(0)
    with torch.no_grad():
        logits = model(ids)
        assert torch.equal(hf.to_transformer(read, state_again)(ids), logits)
        assert_close(load_theirs(tmp_path / "out")(ids).logits, logits)
        assert not torch.allclose(model.train()(ids), logits, atol=1e-2)  # in training pairs are dropped


def test_a_tied_head_that_is_stored_anyway_must_be_the_embedding(tmp_path: Path) -> None:
    build("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    config, state = hf.load(tmp_path)
    assert config.tie_embeddings
    assert "head" not in state
    edit_weights(tmp_path, lm_head__weight=state["embedding"].clone())
    assert_equal_states(hf.load(tmp_path)[1], state)
    assert hf.locate(tmp_path)[1].keys() == state.keys()
    edit_weights(tmp_path, lm_head__weight=state["embedding"] + 1)
    with pytest.raises(CheckpointError, match="differs from the embedding"):
        hf.load(tmp_path)
    with pytest.raises(CheckpointError, match="differs from the embedding"):
        hf.locate(tmp_path)


def test_old_rotary_buffers_are_ignored(mixtral: Path) -> None:
    _, state = hf.load(mixtral)
    edit_weights(mixtral, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(6))
    assert_equal_states(hf.load(mixtral)[1], state)


def test_published_prediction_modules_are_left_out_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = build("deepseek_v3")
    theirs.save_pretrained(tmp_path)
    edit_weights(
        tmp_path,
        model__layers__3__enorm__weight=torch.ones(48),
        model__layers__3__eh_proj__weight=torch.ones(48, 96),
    )
    with caplog.at_level(logging.WARNING, "model.hf"):
        config, state = hf.load(tmp_path)
    assert "MTP modules are left out: model.layers.3.eh_proj.weight" in caplog.text
    assert_close(hf.to_transformer(config, state)(tokens(0)).detach(), theirs(tokens(0)).logits.detach())


def test_our_prediction_modules_are_left_out_with_a_note(
    mixtral: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, state = hf.load(mixtral)
    ahead = dataclasses.replace(config, n_ahead=1)
    trained = {**Transformer(ahead).state_dict(), **state}
    with caplog.at_level(logging.WARNING, "model.hf"):
        hf.save(tmp_path / "back", ahead, trained)
    assert "MTP modules are used in training only" in caplog.text
    assert_equal_states(hf.load(tmp_path / "back")[1], state)
    load_theirs(tmp_path / "back")


@pytest.mark.parametrize("read", [hf.load, hf.locate])
def test_damaged_weights_are_refused(read: Callable[[Path], object], mixtral: Path) -> None:
    edit_weights(mixtral, model__norm__weight=None)
    with pytest.raises(CheckpointError, match=r"lack model\.norm\.weight"):
        read(mixtral)
    edit_weights(mixtral, model__norm__weight=torch.ones(47))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \[47\].* asks for \[48\]"):
        read(mixtral)
    edit_weights(mixtral, model__norm__weight=torch.ones(48), model__other=torch.ones(1))
    with pytest.raises(CheckpointError, match=r"a mixtral has no model\.other"):
        read(mixtral)
    edit_weights(mixtral, model__other=None, model__norm__weight=torch.ones(48, dtype=torch.int8))
    with pytest.raises(UnsupportedModel, match="int8: quantised"):
        read(mixtral)
    edit_weights(mixtral, model__norm__weight=torch.ones(48))
    expert = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    edit_weights(mixtral, **{expert: load_file(mixtral / WEIGHTS_FILE)[expert].bfloat16()})
    with pytest.raises(CheckpointError, match=r"experts\.w_down differ in dtype"):
        read(mixtral)
    assert hf.load(mixtral, dtype=torch.float32)[1]["layers.0.ffn.experts.w_down"].dtype == torch.float32


def test_fused_experts_are_refused_with_what_to_do(tmp_path: Path) -> None:
    build("qwen3_moe").save_pretrained(tmp_path, save_original_format=False)
    with pytest.raises(UnsupportedModel, match="save_original_format=True"):
        hf.load(tmp_path)


def test_damaged_folders_say_what_to_do(mixtral: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        hf.load(tmp_path)
    weights = (mixtral / WEIGHTS_FILE).read_bytes()
    (mixtral / WEIGHTS_FILE).write_bytes(weights[:3000])
    with pytest.raises(CheckpointError, match="fetch it again"):
        hf.load(mixtral)
    (mixtral / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        hf.load(mixtral)
    (mixtral / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickled: save it again"):
        hf.load(mixtral)
    for index, message in [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "not in its own folder"),
        ('{"weight_map": {"a": "a.safetensors"}}', "has no a.safetensors"),
    ]:
        (mixtral / INDEX_FILE).write_text(index)
        with pytest.raises(CheckpointError, match=message):
            hf.load(mixtral)
    (mixtral / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        hf.load(mixtral)
    (mixtral / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        hf.load(mixtral)


def test_an_index_that_names_a_tensor_its_file_lacks_is_refused(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    index["weight_map"]["model.other"] = index["weight_map"]["model.norm.weight"]
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model\.other"):
        hf.load(tmp_path)


def test_refused_configurations_never_open_the_weights(mixtral: Path) -> None:
    (mixtral / WEIGHTS_FILE).unlink()
    edit_config(mixtral, hidden_act="relu")
    with pytest.raises(UnsupportedModel, match="hidden_act"):
        hf.load(mixtral)


def small() -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    config = ModelConfig(
        name="small", vocab_size=17, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_head=4, d_ff=6, max_context=9
    )  # fmt: skip
    torch.manual_seed(6)
    return config, Transformer(config).state_dict()


def test_a_state_of_another_model_is_not_written(tmp_path: Path) -> None:
    config, state = small()
    wrong: list[dict[str, Any]] = [
        {**state, "other": torch.ones(1)},
        {name: tensor for name, tensor in state.items() if name != "norm.weight"},
        {**state, "norm.weight": torch.ones(9)},
    ]
    for one in wrong:
        with pytest.raises(CheckpointError, match=r"do not fit small: see (other|norm\.weight)"):
            hf.save(tmp_path / "out", config, one)
        with pytest.raises(CheckpointError, match="do not fit small"):
            hf.to_transformer(config, one)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.hf.shards.save_file", full)
    with pytest.raises(OSError, match="No space"):
        hf.save(tmp_path / "out", *small())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="not empty"):
        hf.save(tmp_path / "full", *small())
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["letter.txt"]
    (tmp_path / "empty").mkdir()
    hf.save(tmp_path / "empty", *small(), extra={"eos_token_id": 3}, files={"note.txt": "hello"})
    assert (tmp_path / "empty" / "note.txt").read_text() == "hello"
    assert load_theirs(tmp_path / "empty").config.eos_token_id == 3
