"""Loading models for serving: Hugging Face folders, and failures told apart by their cause."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import hf
from model.checkpoint import CheckpointError
from model.layers.unfilled import unfilled
from model.serving.api.chat import ChatError, Message
from model.serving.api.errors import LoadError
from model.serving.metering.generation import EngineLimits
from model.serving.node import loading
from model.serving.node import served as served_models
from model.serving.node.served import load_served, served_config
from model.serving.node.service import Service
from model.transformer import Transformer
from tests.model.random_models import SMALL, random_transformer

pytestmark = pytest.mark.slow

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def hf_folder(folder: Path, *, template: str | None = TEMPLATE, dtype: torch.dtype = torch.float32) -> Path:
    """SMALL as transformers would save it in `dtype`, with a tokenizer of single bytes."""
    from model.serving.api.tokenizer import byte_alphabet

    vocab = {character: i for i, character in enumerate(byte_alphabet()[33 : 33 + 52])}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    files = {"tokenizer.json": json.dumps(tokenizer)}
    if template is not None:
        files["chat_template.jinja"] = template
    model = random_transformer(SMALL).to(dtype)
    hf.save(folder, SMALL, model.state_dict(), extra={"eos_token_id": 7}, files=files)
    return folder


def spoilt(folder: Path) -> Path:
    """A folder of `hf_folder` with one matrix that holds no numbers."""
    file = hf_folder(folder) / "model.safetensors"
    state = load_file(file)
    state["model.layers.1.mlp.down_proj.weight"].fill_(float("nan"))
    save_file(state, file, metadata={"format": "pt"})
    return folder


def test_a_model_whose_context_is_shorter_than_a_block_is_served(tmp_path: Path) -> None:
    file = hf_folder(tmp_path) / "config.json"
    config = json.loads(file.read_text()) | {"max_position_embeddings": 5}
    file.write_text(json.dumps(config))
    service = Service(load_served(str(tmp_path)), EngineLimits(max_running=1))
    assert service.max_context == 5
    service.engine.stop()


def test_a_hugging_face_folder_is_served_as_it_is(tmp_path: Path) -> None:
    served = load_served(str(hf_folder(tmp_path / "theirs")))
    assert served.name == "theirs" and served.max_context == SMALL.max_context
    assert served.tokenizer.stop_tokens == {7}
    assert served.chat.render([Message("user", "ab")]) == "[user]ab"
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = random_transformer(SMALL).eval()(tokens)
        assert torch.allclose(served.transformer(tokens).float(), expected, atol=0.1)
    assert not any(parameter.requires_grad for parameter in served.transformer.parameters())


def test_bf16_is_widened_for_a_processor_that_does_not_multiply_it_and_kept_on_a_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = str(hf_folder(tmp_path / "theirs", dtype=torch.bfloat16))
    monkeypatch.setattr(served_models, "keeps_bf16", lambda: False)
    assert load_served(folder).transformer.dtype is torch.float32
    there = load_served(folder, None, torch.device("meta")).transformer
    assert there.dtype is torch.bfloat16 and there.device.type == "meta"
    assert served_config(folder) == there.config


def test_a_model_of_bf16_is_served_in_fp32_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.delenv("GAINSHARE_MODEL_FP32", raising=False)
    assert served_models.keeps_bf16()
    monkeypatch.setenv("GAINSHARE_MODEL_FP32", "1")
    assert not served_models.keeps_bf16()


def test_loading_draws_no_random_numbers_and_leaves_torchs_compiler_alone(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "theirs")
    code = (
        "import sys; from model.serving.node.served import load_served; from model.serving.executors.native_weights import give_up; "
        f"give_up(load_served({str(folder)!r}).transformer); "
        "sys.exit(str(sorted({'torch._dynamo', 'sympy'} & sys.modules.keys()) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "", "a second and 90 MiB more"
    with unfilled():
        before = Transformer(SMALL)
    assert {weight.device.type for weight in before.parameters()} == {"meta"}
    assert {name: weight.shape for name, weight in before.named_parameters()} == {
        name: weight.shape for name, weight in random_transformer(SMALL).named_parameters()
    }


def test_a_folder_without_a_template_serves_completions_only(tmp_path: Path) -> None:
    served = load_served(str(hf_folder(tmp_path / "base", template=None)))
    with pytest.raises(ChatError, match="/v1/completions"):
        served.chat.render([Message("user", "ab")])


def test_each_failure_has_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError) as missing:
        loading.load("nowhere", tmp_path)
    assert (missing.value.status, missing.value.code) == (404, "model_not_found")
    with pytest.raises(LoadError, match="File name too long") as endless:
        loading.load("x" * 5000, tmp_path)
    assert (endless.value.status, endless.value.code) == (404, "model_not_found")
    assert len(str(endless.value)) < 300
    (hf_folder(tmp_path / "mute") / "tokenizer.json").unlink()
    with pytest.raises(LoadError, match=r"tokenizer.json: No such file"):
        loading.load(str(tmp_path / "mute"))
    damaged = hf_folder(tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LoadError) as unusable:
        loading.load(str(damaged))
    assert (unusable.value.status, unusable.value.code) == (422, "model_not_usable")
    monkeypatch.setattr(loading, "available_memory", lambda: 1000)
    with pytest.raises(LoadError) as large:
        loading.load(str(damaged))
    assert (large.value.status, large.value.code) == (507, "out_of_memory")


def test_a_model_that_computes_no_numbers_is_not_served(tmp_path: Path) -> None:
    served = load_served(str(spoilt(tmp_path / "spoilt")))
    with pytest.raises(LoadError, match="spoilt computes values that are not finite") as damaged:
        Service(served, EngineLimits())
    assert (damaged.value.status, damaged.value.code) == (422, "model_not_usable")


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "no"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        chained(
            CheckpointError("model.safetensors cannot be used"),
            OSError(errno.ENOMEM, "Cannot allocate memory"),
        ),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_every_lack_of_memory_is_told_as_one(error: Exception) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(LoadError) as caught:
        loading.without_running_out(fails)
    assert (caught.value.status, caught.value.code) == (507, "out_of_memory")


def test_bugs_are_not_dressed_up_as_bad_models() -> None:
    def fails() -> None:
        raise RuntimeError("shape mismatch in a kernel")

    with pytest.raises(RuntimeError, match="kernel"):
        loading.without_running_out(fails)


def test_memory_is_asked_about_before_it_is_taken() -> None:
    available = loading.available_memory()
    assert available is not None and 2**20 < available < 2**50
    loading.check_memory(available, available)
    loading.check_memory(1 << 60, None)
    with pytest.raises(LoadError, match="GiB are needed"):
        loading.check_memory(available + 1, available)
