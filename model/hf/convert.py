"""Whole folders, with tokenizer and stop tokens: Hugging Face's to one that nodes serve, and back.

A node serves byte-level BPE tokenizers with a chat template; other folders convert all the same, for training and
evaluation. Knows nothing of the model store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch

from model.checkpoint import CheckpointError, load_config, load_transformer, save_checkpoint
from model.hf.errors import UnsupportedModel
from model.hf.folder import load, load_json, save
from model.hf.registry import FAMILIES
from model.layers.sharing import unshare

TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"  # of older models, beside the tokenizer's configuration
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")  # as chat templates name them


def import_folder(source: Path, target: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes the Hugging Face model in `source` as a model folder of ours, named as `target`.

    Raises UnsupportedModel, CheckpointError, FileExistsError where `target` is there, or OSError.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already: choose another name, or remove it first")
    config, state = load(source, dtype=dtype)
    document = load_json(source)
    metadata = {
        "description": f"{document['model_type']} from Hugging Face files",
        "source": {"model_type": document["model_type"], "folder": source.resolve().name},
        "stop_tokens": stop_tokens(source, document),
        "special_tokens": special_tokens(source),
    }
    named = {**config.to_dict(), "name": target.name}
    save_checkpoint(target, type(config).from_dict(named), state, metadata=metadata, files=texts(source))


def export_folder(
    source: Path, target: Path, *, model_type: str | None = None, is_unshared: bool = False
) -> str:
    """Writes our model folder `source` for transformers, and returns the architecture that was chosen.

    `is_unshared` gives layers that share weights a copy each, which computes the same. Raises UnsupportedModel, CheckpointError, FileExistsError where `target` is there and not empty, or OSError.
    """
    if "model_type" in load_json(source):
        raise UnsupportedModel(
            f"{source} is a Hugging Face folder already: to read it use `gainshare model import`, or "
            "`python -m model.hf import`"
        )
    config, metadata = load_config(source)
    stop = _token_ids("stop_tokens", metadata.get("stop_tokens") or [])
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
    """The ids that end an answer of the model described by `document`; those of generation come first, as in
    transformers. Raises UnsupportedModel where they are no token ids."""
    generation = source / GENERATION_CONFIG_FILE
    given = _json(generation).get("eos_token_id") if generation.is_file() else None
    if given is None:
        given = document.get("eos_token_id")
    return sorted(set(_token_ids("eos_token_id", [] if given is None else given)))


def special_tokens(folder: Path) -> dict[str, str]:
    """The texts of a tokenizer's special tokens, by their names, which chat templates write. Raises CheckpointError."""
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
    """Tokenizer and chat template of a folder, by the files where nodes and transformers look for them.

    Raises CheckpointError for a file that is no text.
    """
    found = {
        name: _text(folder / name) for name in (TOKENIZER_FILE, TEMPLATE_FILE) if (folder / name).is_file()
    }
    settings = folder / TOKENIZER_CONFIG_FILE
    if TEMPLATE_FILE not in found and settings.is_file():
        template = _json(settings).get("chat_template")
        if isinstance(
            template, str
        ):  # older models keep it here; several named ones are not for us to choose from
            found[TEMPLATE_FILE] = template
    return found


def _token_ids(name: str, given: object) -> list[int]:
    ids = [given] if type(given) is int else given
    if not isinstance(ids, list) or any(type(token) is not int for token in ids):
        raise UnsupportedModel(f"{name} must be a token id or a list of them, not {given!r}")
    return ids


def _tokenizer_config(tokenizer: str, stop: list[int]) -> dict[str, Any]:
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if not stop:
        return settings
    try:
        settings["eos_token"] = tokenizers.Tokenizer.from_str(tokenizer).id_to_token(stop[0])
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(
            f"{TOKENIZER_FILE} is none of the tokenizers library ({error}): export it with Tokenizer.save"
        ) from error
    return settings


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(_text(file))
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}; fetch it anew") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file} holds no JSON object; fetch it anew")
    return document


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is no text ({error}): fetch it anew") from error
