"""Makes the files of the compared models: a Hugging Face folder in bf16 and GGUF files of the same numbers.

What is there is kept; each file appears whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from benchmarks.peers import gguf_file
from benchmarks.peers.drivers.channel import serve
from benchmarks.peers.models import SEED, PeerModel
from model import hf
from model.config import ModelConfig
from model.progress_lines import ProgressLines
from model.smollm2.__main__ import fetch_line
from model.smollm2.convert import GGUFModel
from model.smollm2.fetch import fetch_gguf
from model.transformer import Transformer


def make(config: dict[str, Any], folder: str, is_random: bool, ggufs: list[str]) -> dict[str, Any]:
    """The folder `hf` and the GGUF files of the named formats."""
    torch.set_num_threads(1)
    model = PeerModel(config["name"], ModelConfig.from_dict(config), Path(folder), is_random)
    model.folder.mkdir(parents=True, exist_ok=True)
    if not model.hf.exists():
        state = {name: tensor.bfloat16() for name, tensor in _state(model).items()}
        model_type = "qwen3_moe" if is_random else "llama"
        hf.save(model.hf, model.config, state, model_type=model_type)
    missing = [weights for weights in ggufs if not model.gguf(weights).is_file()]
    for weights in missing:
        _write_gguf(model, weights)
    return {"made": missing}


def _state(model: PeerModel) -> dict[str, Tensor]:
    if not model.is_random:
        return GGUFModel(_smollm2_file()).dense_state()
    torch.manual_seed(SEED)
    return Transformer(model.config).state_dict()


def _write_gguf(model: PeerModel, weights: str) -> None:
    reader = gguf.GGUFReader(_smollm2_file())
    if model.is_random:
        _, state = hf.load(model.hf, dtype=torch.float32)
        gguf_file.write(
            model.gguf(weights),
            architecture=gguf_file.QWEN3_MOE,
            fields=gguf_file.qwen3_moe_fields(model.config),
            tensors={gguf_file.qwen3_moe_name(name): tensor.numpy() for name, tensor in state.items()},
            weights=weights,
            copied_from=reader,
            copied="tokenizer.",
        )
        return
    tensors = {}
    for tensor in reader.tensors:  # in llama.cpp's own order of rows
        exact = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        tensors[tensor.name] = exact.bfloat16().float().numpy()
    copied = {name: field for name, field in reader.fields.items() if name.startswith("llama.")}
    gguf_file.write(
        model.gguf(weights),
        architecture="llama",
        fields={name: (field.contents(), field.types[0]) for name, field in copied.items()},
        tensors=tensors,
        weights=weights,
        copied_from=reader,
        copied="tokenizer.",
    )


def _smollm2_file() -> Path:
    return fetch_gguf(ProgressLines(fetch_line))


if __name__ == "__main__":
    serve({"make": make})
