"""Weights that go from their files into packed memory a layer at a time: the same bits as from a whole model, and in
no more memory than packed weights and a layer."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import hf, native
from model.checkpoint import CheckpointError, load_transformer, save_checkpoint
from model.config import MoEConfig
from model.serving.api.errors import LoadError
from model.serving.executors import native_tables as tables
from model.serving.executors.hardware import Hardware, load_on
from model.serving.executors.native import NativeExecutor
from model.serving.executors.native_weights import NativeWeights, least_bytes
from model.serving.executors.packed import PackedStack, Weights
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.executors.stored import StoredWeights, open_hugging_face, open_ours
from model.serving.executors.streamed import with_executor
from model.serving.metering.generation import EngineLimits
from model.serving.node import loading
from model.serving.node.served import load_served, open_served
from model.transformer import Transformer
from tests.model.hf.hf_models import FIELDS, build
from tests.model.random_models import SMALL, random_tokens, random_transformer
from tests.model.serving.executors.test_native_executor import CONFIGS, N_BLOCKS, computed, model_of
from tests.model.serving.node.test_loading import hf_folder

pytestmark = pytest.mark.slow

ALL_WEIGHTS: tuple[Weights, ...] = get_args(Weights)
LIMITS = EngineLimits(max_running=1)
BF16, FP32 = torch.bfloat16, torch.float32


def library() -> ctypes.CDLL:
    found = native.library()
    assert found is not None, native.state()
    tables.check(found)
    return found


def written(folder: Path, model: Transformer) -> Path:
    """A model folder of ours."""
    save_checkpoint(folder, model.config, model.state_dict(), metadata={}, files={})
    return folder


def kept(weights: NativeWeights) -> list[Tensor]:
    """All that is kept, in the order of packing."""
    found: list[Tensor] = []
    for each in weights._kept:
        parts = [each.data, each.scales, each.starts] if isinstance(each, PackedStack) else [each]
        found.extend(part for part in parts if part is not None)
    return found


def assert_same_bits(stored: StoredWeights, weights: Weights) -> NativeWeights:
    """As packed from the whole model; and the description is left as it was, without weights."""
    whole, described = stored.whole(), stored.transformer
    before = {name: (weight.shape, weight.dtype) for name, weight in described.state_dict().items()}
    assert before == {name: (weight.shape, weight.dtype) for name, weight in whole.state_dict().items()}
    expected = NativeWeights(library(), whole, weights)
    found = NativeWeights(library(), described, weights, stored=stored)
    assert {weight.device.type for weight in described.state_dict().values()} == {"meta"}
    assert {name: (each.shape, each.dtype) for name, each in described.state_dict().items()} == before
    assert (found.n_bytes, found.embedding_kind) == (expected.n_bytes, expected.embedding_kind)
    assert (found.embedding.value is None) == (expected.embedding.value is None)
    pairs = list(zip(kept(found), kept(expected), strict=True))
    assert pairs and all(a.dtype == b.dtype and a.equal(b) for a, b in pairs)
    return found


@pytest.mark.parametrize("model_type", FIELDS)
def test_folders_of_all_families_are_packed_to_the_same_bits(model_type: str, tmp_path: Path) -> None:
    theirs = build(model_type)
    for dtype in (FP32, BF16):
        theirs.to(dtype).save_pretrained(tmp_path / str(dtype), max_shard_size="100KB")
    assert len(list((tmp_path / str(BF16)).glob("*.safetensors"))) > 1  # a layer may be in two of them
    for weights in ALL_WEIGHTS:
        assert_same_bits(open_hugging_face(tmp_path / str(BF16), None), weights)
    assert_same_bits(open_hugging_face(tmp_path / str(BF16), FP32), "fp32")
    assert_same_bits(open_hugging_face(tmp_path / str(BF16), FP32), "int8")
    assert_same_bits(open_hugging_face(tmp_path / str(FP32), None), "bf16")


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_embedding_is_read_from_where_the_whole_models_is(tied: bool, tmp_path: Path) -> None:
    build("qwen3_moe", tie_word_embeddings=tied).to(BF16).save_pretrained(tmp_path)
    for weights in ALL_WEIGHTS:
        found = assert_same_bits(open_hugging_face(tmp_path, None), weights)
        assert (found.embedding.value is None) == (tied and weights in ("bf16", "fp32"))


@pytest.mark.parametrize("name", CONFIGS)
def test_our_own_folders_are_packed_to_the_same_bits(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "ours", model_of(name))
    for weights in ALL_WEIGHTS:
        found = assert_same_bits(open_ours(folder, None), weights)
        assert least_bytes(load_transformer(folder), weights) <= sum(each.nbytes for each in kept(found))


def test_modules_for_prediction_are_not_packed(tmp_path: Path) -> None:
    model = random_transformer(replace(SMALL, n_ahead=2))
    assert_same_bits(open_ours(written(tmp_path / "ours", model), None), "bf16")


@pytest.mark.parametrize("weights", ALL_WEIGHTS)
def test_numbers_wider_than_the_first_norm_are_narrowed_to_it_first(weights: Weights, tmp_path: Path) -> None:
    """As by `cast_blocks`, so that the same file means the same model to all executors."""
    model = model_of("deepseek").bfloat16()
    state = {
        name: tensor.float() + 1e-3 if "w_" in name and "w_up" not in name else tensor
        for name, tensor in model.state_dict().items()
    }
    save_checkpoint(tmp_path / "mixed", model.config, state, metadata={}, files={})
    for dtype in (None, FP32):
        assert_same_bits(open_ours(tmp_path / "mixed", dtype), weights)


def test_least_bytes_are_near_what_is_kept() -> None:
    moe = MoEConfig(d_model=128, d_expert=64, n_experts=8, top_k=2)
    config = replace(SMALL, d_model=128, d_head=32, d_ff=128, vocab_size=512, moe=moe, dense_layers=(0,))
    for tied in (True, False):
        model = random_transformer(replace(config, tie_embeddings=tied))
        for weights in ALL_WEIGHTS:
            there = sum(tensor.nbytes for tensor in kept(NativeWeights(library(), model, weights)))
            assert 0.9 * there < least_bytes(model, weights) <= there


def test_an_executor_computes_the_same_from_files(tmp_path: Path) -> None:
    folder = str(hf_folder(tmp_path / "theirs"))
    opened = open_served(folder)
    assert {weight.device.type for weight in opened.transformer.parameters()} == {"meta"}
    streamed = with_executor(opened, LIMITS)
    whole = load_served(folder)
    assert isinstance(streamed.executor, NativeExecutor) and streamed.stored is None
    expected = NativeExecutor(whole.transformer, N_BLOCKS, weights="fp32")
    tokens = random_tokens(SMALL, 40).tolist()
    assert torch.equal(
        computed(streamed.executor, tokens, [40], first=0), computed(expected, tokens, [40], first=0)
    )


@pytest.mark.parametrize("dtype", [FP32, torch.float16])
def test_what_is_left_to_plain_torch_is_loaded_as_a_whole(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A processor without fast bf16 reads halves as fp32, which has a compiled form.
    monkeypatch.setattr("model.serving.node.served.keeps_bf16", lambda: True)
    folder = str(hf_folder(tmp_path / "theirs", dtype=dtype))
    if dtype is FP32:
        monkeypatch.setattr(native, "library", lambda: None)
        monkeypatch.setattr(native, "state", lambda: "no compiler")
    served = load_on(Hardware(), folder, None, LIMITS)
    assert isinstance(served.executor, TorchExecutor) and served.stored is None
    assert served.executor.transformer is served.transformer and served.transformer.device.type == "cpu"
    state = load_served(folder).transformer.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in served.transformer.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "cannot be read"),
        (lambda file: file.unlink(), "cannot be read"),
        (lambda file: replaced(file, torch.ones(3)), "changed while it was loaded"),
        (lambda file: replaced(file, None), "cannot be read"),
    ],
)
def test_files_that_change_after_they_were_opened_are_refused(
    change: object, message: str, tmp_path: Path
) -> None:
    folder = hf_folder(tmp_path / "theirs")
    opened = open_served(str(folder))
    assert callable(change)
    change(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        with_executor(opened, LIMITS)
    assert {weight.device.type for weight in opened.transformer.parameters()} == {"meta"}


def replaced(file: Path, tensor: Tensor | None) -> None:
    """Another tensor, or none, in place of a matrix of the second layer."""
    state = load_file(file)
    name = "model.layers.1.mlp.down_proj.weight"
    del state[name]
    file.unlink()
    save_file(state if tensor is None else state | {name: tensor}, file)


def test_a_load_is_held_against_what_it_keeps_not_against_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hf_folder(tmp_path / "theirs")
    needed = {weights: least_bytes(open_served(str(folder)).transformer, weights) for weights in ALL_WEIGHTS}
    assert needed["int8"] < needed["fp32"] < loading.weight_bytes(folder)
    monkeypatch.setattr(loading, "available_memory", lambda: needed["int8"])
    assert load_on(Hardware(weights="int8"), str(folder), None, LIMITS).executor is not None
    monkeypatch.setattr(NativeWeights, "_layer", None)  # nothing is packed before memory is asked about
    for weights in ("fp32", "bf16"):
        with pytest.raises(LoadError, match="does not fit into memory") as large:
            load_on(Hardware(weights=weights), str(folder), None, LIMITS)
        assert (large.value.status, large.value.code) == (507, "out_of_memory")
    monkeypatch.setattr(native, "library", lambda: None)
    with pytest.raises(LoadError, match="does not fit into memory"):  # as a whole, as its files have it
        load_on(Hardware(), str(folder), None, LIMITS)
    with pytest.raises(LoadError, match="does not fit into memory"):
        load_on(Hardware(n_hot=0, accelerator="cpu"), str(folder), None, LIMITS)


PEAK = """
import re, sys
from pathlib import Path
from model.serving.executors.native import NativeExecutor
from model.serving.executors.stored import open_hugging_face, open_ours

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def load(folder):
    stored = (open_hugging_face if "theirs" in folder else open_ours)(Path(folder), None)
    return NativeExecutor(stored.transformer, 4, weights=sys.argv[1], stored=stored)

load(sys.argv[2])
before = peak()
executor = load(sys.argv[3])
print(peak() - before, executor.weights.n_bytes)
"""
N_LAYERS = 12
LARGE = replace(
    SMALL, d_model=256, n_layers=N_LAYERS, moe=MoEConfig(d_model=256, d_expert=256, n_experts=8, top_k=2), qk_norm="head"
)  # fmt: skip
SLACK_BYTES = 12 << 20  # huge pages at the packed memory's end, and the allocator's


@pytest.mark.parametrize(("kind", "weights"), [("theirs", "int8"), ("ours", "bf16")])
def test_loading_peaks_at_packed_weights_and_one_layer(kind: str, weights: str, tmp_path: Path) -> None:
    """By the kernel's own count, mapped pages of files included."""
    folders = [tmp_path / f"{size}-{kind}" for size in ("small", "large")]
    for config, folder in zip((replace(LARGE, n_layers=1), LARGE), folders, strict=True):
        model = random_transformer(config)
        if kind == "ours":
            written(folder, model)
        else:
            hf.save(folder, config, model.state_dict(), model_type="qwen3_moe")
    file_bytes = loading.weight_bytes(folders[1])
    done = subprocess.run(
        [sys.executable, "-c", PEAK, weights, *map(str, folders)], capture_output=True, text=True, check=True
    )
    grown, packed = map(int, done.stdout.split())
    assert file_bytes > 4 * SLACK_BYTES
    assert packed * 0.8 < grown < packed + file_bytes / N_LAYERS + SLACK_BYTES
