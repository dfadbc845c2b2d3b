"""Convert whole folders with tokenizer and stop tokens, between Hugging Face's format and the one that nodes serve.

A tokenizer that a node cannot serve is refused: another one than byte-level BPE, or one of another model. Such a model
can be imported without its tokenizer, for training and evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch

from model.checkpoint import CheckpointError, load_config, load_transformer, save_checkpoint
from model.hf.config.token_ids import TOKEN_FIELDS, token_ids
from model.hf.errors import UnsupportedModel
from model.hf.families.family import vocab_size
from model.hf.families.registry import FAMILIES, family_named
from model.hf.folder import load, load_json, save, their_json
from model.layers.sharing import unshare
from model.serving.api.tokenizer import TOKENIZER_FILE, BPETokenizer, UnservedTokenizerError

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"  # of older models, next to the tokenizer's configuration
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")  # as chat templates name them


def import_folder(
    source: Path, target: Path, *, dtype: torch.dtype | None = None, with_tokenizer: bool = True
) -> None:
    """Import the Hugging Face model in `source` as a model folder of ours, named as `target`.

    Without its tokenizer the chat template and the stop tokens are left out too.
    Raises UnsupportedModel, CheckpointError, FileExistsError where `target` is there, or OSError.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already: choose another name, or remove it first")
    document = their_json(source)
    family_named(document.get("model_type"))
    stop = stop_tokens(source, document) if with_tokenizer else []
    files = texts(source) if with_tokenizer else {}
    if TOKENIZER_FILE in files:
        _check_served(source, stop, vocab_size(document))
    config, state = load(source, dtype=dtype)
    metadata = {
        "description": f"{document['model_type']} from Hugging Face files",
        "source": {"model_type": document["model_type"], "folder": source.resolve().name},
        "stop_tokens": stop,
        "special_tokens": special_tokens(source) if with_tokenizer else {},
    }
    named = {**config.to_dict(), "name": target.name}
    save_checkpoint(target, type(config).from_dict(named), state, metadata=metadata, files=files)


def export_folder(
    source: Path, target: Path, *, model_type: str | None = None, is_unshared: bool = False
) -> str:
    """Export our model folder `source` for transformers; returns the chosen architecture.

    `is_unshared` gives layers that share weights a copy each, with the same outputs. Raises UnsupportedModel,
    CheckpointError, FileExistsError where `target` exists and is not empty, or OSError.
    """
    if "model_type" in load_json(source):
        raise UnsupportedModel(
            f"{source} is already a Hugging Face folder: to import it use `gainshare model import`, or "
            "`python -m model.hf import`"
        )
    config, metadata = load_config(source)
    stop = token_ids(
        "stop_tokens", metadata.get("stop_tokens"), config.vocab_size, file=f"{source}'s metadata"
    )
    files = texts(source)
    if TOKENIZER_FILE in files:
        settings = _tokenizer_config(files[TOKENIZER_FILE], stop) | metadata.get("special_tokens", {})
        files[TOKENIZER_CONFIG_FILE] = json.dumps(settings, indent=2)
    extra = {"eos_token_id": stop[0] if len(stop) == 1 else stop or None}
    state: Mapping[str, torch.Tensor] = load_transformer(source).state_dict()
    if is_unshared:
        config, state = unshare(config, state)
    save(target, config, state, model_type=model_type, extra=extra, files=files)
    return FAMILIES[load_json(target)["model_type"]].architecture


def stop_tokens(source: Path, document: dict[str, Any]) -> list[int]:
    """The ids that end an answer of the model of `document`; those of generation come first, as in transformers.
    Raises UnsupportedModel for special tokens of generation outside of the vocabulary."""
    generation = source / GENERATION_CONFIG_FILE
    asked, n_tokens = _json(generation) if generation.is_file() else {}, vocab_size(document)
    of_generation = {
        name: token_ids(name, asked.get(name), n_tokens, file=generation.name) for name in TOKEN_FIELDS
    }
    of_model = token_ids("eos_token_id", document.get("eos_token_id"), n_tokens)
    return sorted(set(of_model if asked.get("eos_token_id") is None else of_generation["eos_token_id"]))


def _check_served(source: Path, stop: list[int], n_tokens: int) -> None:
    """Raises UnsupportedModel for a tokenizer that a node cannot serve, CheckpointError for a damaged one."""
    try:
        BPETokenizer(source / TOKENIZER_FILE, stop).check_vocabulary(n_tokens)
    except UnservedTokenizerError as error:
        raise UnsupportedModel(
            f"{error}. For training and evaluation import the model without it: --without-tokenizer"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{source} has no usable tokenizer: {error}; fetch it again") from error


def special_tokens(folder: Path) -> dict[str, str]:
    """The texts of a tokenizer's special tokens by name, for chat templates. Raises CheckpointError."""
    found: dict[str, str] = {}
    for file in (folder / SPECIAL_TOKENS_FILE, folder / TOKENIZER_CONFIG_FILE):
        given = _json(file) if file.is_file() else {}
        for name in SPECIAL_TOKENS:
            token = given.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                found[name] = text
    return found


def texts(folder: Path) -> dict[str, str]:
    """Tokenizer and chat template of a folder, by the file names that nodes and transformers read.

    Raises CheckpointError for a file that is not text.
    """
    found = {
        name: _text(folder / name) for name in (TOKENIZER_FILE, TEMPLATE_FILE) if (folder / name).is_file()
    }
    settings = folder / TOKENIZER_CONFIG_FILE
    if TEMPLATE_FILE not in found and settings.is_file():
        template = _json(settings).get("chat_template")
        if isinstance(template, str):  # older models have it here; a list of named templates is not supported
            found[TEMPLATE_FILE] = template
    return found


def _tokenizer_config(tokenizer: str, stop: list[int]) -> dict[str, Any]:
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if not stop:
        return settings
    try:
        settings["eos_token"] = tokenizers.Tokenizer.from_str(tokenizer).id_to_token(stop[0])
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(
            f"{TOKENIZER_FILE} is not a file of the tokenizers library ({error}): export it with Tokenizer.save"
        ) from error
    return settings


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(_text(file))
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}; fetch it again") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file} is not a JSON object; fetch it again")
    return document


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not text ({error}): fetch it again") from error
