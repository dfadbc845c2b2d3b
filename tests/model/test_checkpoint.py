"""Model folders are written whole or not at all, and unusable ones say what to do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from model import checkpoint
from model.checkpoint import CheckpointError, load_config, load_transformer, models_home, save_checkpoint
from model.layers.moe.layer import moe_layers
from model.new_folder import FolderTakenError
from model.presets import PRESETS
from model.transformer import Transformer


def save_tiny(folder: Path) -> Transformer:
    torch.manual_seed(8)
    model = Transformer(PRESETS["tiny"]).eval()
    save_checkpoint(folder, model.config, model.state_dict(), metadata={"a": 1}, files={"note.txt": "hello"})
    return model


def test_a_saved_model_computes_the_same(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "tiny")
    loaded = load_transformer(tmp_path / "tiny")
    tokens = torch.arange(20)[None]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    # Not bit for bit: where a memory-mapped weight starts decides which kernel multiplies it.
    torch.testing.assert_close(loaded(tokens), model(tokens).detach(), rtol=1e-5, atol=1e-5)
    assert load_config(tmp_path / "tiny") == (model.config, {"a": 1})
    assert (tmp_path / "tiny" / "note.txt").read_text() == "hello"


def test_a_loaded_model_with_balanced_experts_counts_their_load_from_zero(tmp_path: Path) -> None:
    tiny = PRESETS["tiny"]
    assert tiny.moe is not None
    config = dataclasses.replace(tiny, moe=dataclasses.replace(tiny.moe, bias_balancing=True))
    save_checkpoint(tmp_path / "tiny", config, Transformer(config).state_dict(), metadata={}, files={})
    loaded = load_transformer(tmp_path / "tiny").to("cpu").train()
    loaded(torch.arange(20)[None])
    for layer in moe_layers(loaded).values():
        assert layer.load_E is not None and int(layer.load_E.sum()) == 20 * tiny.moe.top_k


def test_blocks_can_be_cast_while_the_ends_stay_fp32(tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    model = load_transformer(tmp_path / "tiny", torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert (
        model.embedding.dtype
        == model.norm.weight.dtype
        == model(torch.arange(5)[None]).dtype
        == torch.float32
    )


def test_a_failed_save_leaves_nothing_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path / "tiny")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_tiny(tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    load_transformer(tmp_path / "tiny")


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".tiny.new-killed").mkdir()
    (tmp_path / ".tiny.new-killed" / "model.safetensors").write_bytes(b"half")
    save_tiny(tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_only_a_model_of_ours_is_replaced(tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    save_tiny(tmp_path / "tiny")
    (tmp_path / "tiny" / "notes").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("hi")
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.json").write_text('{"model_type": "llama"}')
    for name in ("tiny", "other", "published"):
        before = sorted((tmp_path / name).iterdir())
        with pytest.raises(FolderTakenError, match="other content than a model"):
            save_tiny(tmp_path / name)
        assert sorted((tmp_path / name).iterdir()) == before


def test_damaged_folders_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no model"):
        load_config(tmp_path)
    save_tiny(tmp_path / "tiny")
    weights = tmp_path / "tiny" / checkpoint.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="fetch the model again"):
        load_transformer(tmp_path / "tiny")
    config = tmp_path / "tiny" / checkpoint.CONFIG_FILE
    document = json.loads(config.read_text())
    config.write_text(json.dumps({**document, "format": "other/9"}))
    with pytest.raises(CheckpointError, match="other/9"):
        load_config(tmp_path / "tiny")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b'{"format": "gainshare.model/1", "model": 3, "metadata": {}}',
        b'{"format": "gainshare.model/1", "model": {}, "metadata": {}}',
        b'{"format": "gainshare.model/1", "metadata": {}}',
    ],
)
def test_a_configuration_that_is_none_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / checkpoint.CONFIG_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config.json cannot be read: .*; fetch the model again"):
        load_config(tmp_path)
    with pytest.raises(CheckpointError, match="has no model"):
        load_config(tmp_path / checkpoint.CONFIG_FILE)


def test_metadata_are_a_table(tmp_path: Path) -> None:
    save_tiny(tmp_path / "m")
    document = json.loads((tmp_path / "m" / checkpoint.CONFIG_FILE).read_text())
    (tmp_path / "m" / checkpoint.CONFIG_FILE).write_text(json.dumps({**document, "metadata": [1]}))
    with pytest.raises(CheckpointError, match="its metadata is not an object"):
        load_config(tmp_path / "m")


def test_the_store_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path))
    assert models_home() == tmp_path / "models"
    assert models_home(tmp_path / "else") == tmp_path / "else" / "models"
    monkeypatch.delenv("GAINSHARE_HOME")
    assert models_home().parts[-2:] == (".gainshare", "models")
