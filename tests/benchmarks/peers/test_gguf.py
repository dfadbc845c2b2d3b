"""GGUF files for llama.cpp: what is written is read back, in each format, with the other file's tokenizer."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks.peers import gguf_file
from benchmarks.peers.models import QWEN3_MOE_22M, random_model
from model.presets import PRESETS


@pytest.fixture
def donor(tmp_path: Path) -> gguf.GGUFReader:
    path = tmp_path / "donor.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ü"])
    writer.add_eos_token_id(2)
    writer.add_tensor("x", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.GGUFReader(path)


@pytest.mark.parametrize(("weights", "error"), [("f16", 1e-3), ("bf16", 4e-3), ("q8_0", 8e-3)])
def test_numbers_and_fields_come_back(
    donor: gguf.GGUFReader, tmp_path: Path, weights: str, error: float
) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "blk.0.attn_q.weight": rng.uniform(-1, 1, (6, 64)).astype(np.float32),
        "blk.0.ffn_gate_exps.weight": rng.uniform(-1, 1, (3, 5, 32)).astype(np.float32),
        "blk.0.ffn_gate_inp.weight": rng.uniform(-1, 1, (3, 32)).astype(np.float32),
        "output_norm.weight": rng.uniform(-1, 1, 32).astype(np.float32),
    }
    target = tmp_path / "model.gguf"
    gguf_file.write(
        target,
        architecture=gguf_file.QWEN3_MOE,
        fields=gguf_file.qwen3_moe_fields(QWEN3_MOE_22M),
        tensors=tensors,
        weights=weights,
        copied_from=donor,
        copied="tokenizer.",
    )
    assert not list(tmp_path.glob("*.part"))
    reader = gguf.GGUFReader(target)
    read = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in tensors.items():
        found = gguf.dequantize(read[name].data, read[name].tensor_type).reshape(tensor.shape)
        np.testing.assert_allclose(found, tensor, atol=error)
    exact = {name for name, tensor in read.items() if tensor.tensor_type == gguf.GGMLQuantizationType.F32}
    assert exact == {"blk.0.ffn_gate_inp.weight", "output_norm.weight"}
    assert reader.fields["general.architecture"].contents() == "qwen3moe"
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "b", "ü"]
    assert reader.fields["qwen3moe.expert_used_count"].contents() == 4
    assert reader.fields["qwen3moe.attention.head_count_kv"].contents() == 2
    assert reader.fields["qwen3moe.rope.freq_base"].contents() == pytest.approx(1e6)


def test_every_tensor_of_the_compared_model_has_a_name_of_its_own() -> None:
    import torch

    from model.transformer import Transformer

    with torch.device("meta"):
        names = list(Transformer(QWEN3_MOE_22M).state_dict())
    theirs = [gguf_file.qwen3_moe_name(name) for name in names]
    assert len(set(theirs)) == len(names)
    assert "blk.5.ffn_down_exps.weight" in theirs
    with pytest.raises(KeyError):
        gguf_file.qwen3_moe_name("layers.0.ffn.shared.w_up")


def test_a_dense_model_is_no_qwen3_moe() -> None:
    with pytest.raises(ValueError, match="experts"):
        gguf_file.qwen3_moe_fields(PRESETS["smollm2"])


def test_a_models_folder_changes_with_what_is_in_it(tmp_path: Path) -> None:
    import dataclasses

    one = random_model(QWEN3_MOE_22M, tmp_path)
    assert one.folder == random_model(QWEN3_MOE_22M, tmp_path).folder
    other = random_model(dataclasses.replace(QWEN3_MOE_22M, norm_eps=1e-5), tmp_path)
    assert other.folder != one.folder
