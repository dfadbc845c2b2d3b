"""A served model with its tokenizer, chat template and description, by name or folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import CheckpointError, is_complete, load_config, models_home
from model.config import ModelConfig
from model.hf.convert import special_tokens, stop_tokens, texts
from model.hf.families.registry import read_config
from model.hf.folder import load_json
from model.hf.shards import INDEX_FILE, WEIGHTS_FILE
from model.presets import PRESETS
from model.serving.api.chat import NO_TEMPLATE, TEMPLATE_FILE, TINY_TEMPLATE, ChatTemplate
from model.serving.api.tokenizer import (
    TOKENIZER_FILE,
    BPETokenizer,
    ByteTokenizer,
    Tokenizer,
    UnservedTokenizerError,
)
from model.serving.executors.base import Executor
from model.serving.executors.stored import StoredWeights, open_hugging_face, open_ours
from model.transformer import Transformer

TINY = "tiny"
TINY_SEED = 20_250_101
MAX_NAME_SHOWN = 100  # characters
FETCH_HINT = "`gainshare model fetch smollm2` fetches smollm2-moe, `gainshare model fetch smollm2-small` smollm2-moe-small"


@dataclass(frozen=True)
class ServedModel:
    name: str
    transformer: Transformer  # shapes and dtypes only, if `executor` has consumed its weights
    tokenizer: Tokenizer
    chat: ChatTemplate
    metadata: Mapping[str, Any]  # shown by /v1/models
    executor: Executor | None = None  # loaded with the model, of several ranks or devices
    stored: StoredWeights | None = None  # the weights, where the transformer is on the meta device

    @property
    def max_context(self) -> int:
        return self.transformer.config.max_context

    def with_weights(self) -> ServedModel:
        """The same model with its weights loaded from their files. Raises CheckpointError or UnsupportedModel."""
        if self.stored is None:
            return self
        return dataclasses.replace(self, transformer=self.stored.whole(), stored=None)


def find_folder(name: str, home: Path | None = None) -> Path | None:
    """The folder of a model named or located by `name`; None for the built-in tiny model.

    Raises CheckpointError where there is none.
    """
    if name == TINY:
        return None
    try:
        for folder in (models_home(home) / name, Path(name)):
            if is_complete(folder) or is_hugging_face(folder):
                return folder
    except OSError as error:  # an invalid file name, or a folder without permission
        message = f"the model {name[:MAX_NAME_SHOWN]!r} cannot be looked up: {error.strerror}"
        raise CheckpointError(message) from error
    raise CheckpointError(f"there is no model {name!r} in {models_home(home)} or as a folder: {FETCH_HINT}")


def served_config(name: str, home: Path | None = None) -> ModelConfig:
    """The shape of the model that `load_served` loads, without weights. Raises CheckpointError or UnsupportedModel."""
    folder = find_folder(name, home)
    if folder is None:
        return PRESETS[TINY]
    if is_hugging_face(folder):
        return read_config(load_json(folder), folder.resolve().name)[1]
    return load_config(folder)[0]


def load_served(name: str, home: Path | None = None, device: torch.device | None = None) -> ServedModel:
    """Load weights, tokenizer and template, the weights onto `device`, None for the host. Raises CheckpointError.

    Blocks keep their dtype, but on the host bf16 becomes fp32 unless `keeps_bf16`.
    """
    on_host = device is None or device.type == "cpu"
    served = _opened(name, home, keeps_dtype=not on_host or keeps_bf16()).with_weights()
    served.transformer.to(device)
    return served


def open_served(name: str, home: Path | None = None) -> ServedModel:
    """As `load_served` onto the host, but the weights stay in their files; see `ServedModel.stored`.

    Checks that all weights are there with the right shapes. Raises CheckpointError or UnsupportedModel.
    """
    return _opened(name, home, keeps_dtype=keeps_bf16())


def _opened(name: str, home: Path | None, *, keeps_dtype: bool) -> ServedModel:
    folder = find_folder(name, home)
    if folder is None:
        return tiny()
    dtype = None if keeps_dtype else torch.float32
    return _open_hugging_face(folder, dtype) if is_hugging_face(folder) else _open_ours(folder, dtype)


def _open_ours(folder: Path, dtype: torch.dtype | None) -> ServedModel:
    config, metadata = load_config(folder)
    try:
        tokenizer = BPETokenizer(folder / TOKENIZER_FILE, metadata["stop_tokens"])
        tokenizer.check_vocabulary(config.vocab_size)
        template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
        chat = ChatTemplate(template, metadata.get("special_tokens"))
    except UnservedTokenizerError as error:
        raise CheckpointError(f"{folder} cannot be served: {error}") from error
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            f"{folder} has no usable tokenizer or template: {error}; fetch it again"
        ) from error
    stored = open_ours(folder, dtype)
    return ServedModel(config.name, stored.transformer, tokenizer, chat, metadata, stored=stored)


def is_hugging_face(folder: Path) -> bool:
    """Whether `save_pretrained` of transformers wrote this folder; ours name their format."""
    weights = (folder / WEIGHTS_FILE).is_file() or (folder / INDEX_FILE).is_file()
    try:
        document = load_json(folder) if weights else {}
    except CheckpointError:  # loading the folder reports the error
        return False
    return "model_type" in document and "format" not in document


def _open_hugging_face(folder: Path, dtype: torch.dtype | None) -> ServedModel:
    """Raises CheckpointError, or UnsupportedModel where the stack cannot represent the model."""
    stored = open_hugging_face(folder, dtype)
    files = texts(folder)
    try:
        tokenizer = BPETokenizer(folder / TOKENIZER_FILE, stop_tokens(folder, load_json(folder)))
        tokenizer.check_vocabulary(stored.transformer.config.vocab_size)
        chat = ChatTemplate(files.get(TEMPLATE_FILE, NO_TEMPLATE), special_tokens(folder))
    except UnservedTokenizerError as error:
        raise CheckpointError(f"{folder} cannot be served: {error}") from error
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{folder} has no usable tokenizer or template: {error}") from error
    transformer, metadata = stored.transformer, {"description": "from Hugging Face files"}
    return ServedModel(transformer.config.name, transformer, tokenizer, chat, metadata, stored=stored)


def tiny() -> ServedModel:
    """The test model: random weights, one token per byte. Its answers are random, as its metadata says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TINY_SEED)
        transformer = Transformer(PRESETS[TINY]).requires_grad_(False).eval()
    description = "random weights for tests: its answers mean nothing"
    metadata = {"description": description, "is_random": True, "licence": "Apache-2.0"}
    return ServedModel(TINY, transformer, ByteTokenizer(), ChatTemplate(TINY_TEMPLATE), metadata)


def keeps_bf16() -> bool:
    """Whether bf16 is served as it is: where the processor has its products, which are several times slower if emulated.

    Not with GAINSHARE_MODEL_FP32=1: in fp32 two engines give equal answers, in bf16 each rounds elsewhere.
    """
    if os.environ.get("GAINSHARE_MODEL_FP32") == "1":
        return False
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())
