"""Grow a model folder into another one, with tokenizer, chat template and a record of its origin."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint import (
    WEIGHTS_FILE,
    CheckpointError,
    is_model_folder,
    load_config,
    load_transformer,
    write_model,
)
from model.config import ModelConfig
from model.data.tokenizer import MARKUP_FILE, TOKENIZER_FILE
from model.growth.derivation import Growth
from model.growth.moments_file import moments_of, write_moments
from model.new_folder import new_folder
from model.serving.api.chat import TEMPLATE_FILE

COPIED_FILES = (TOKENIZER_FILE, MARKUP_FILE, TEMPLATE_FILE)
STILL_TRUE = ("stop_tokens", "licence", "source")  # of a parent's metadata; the rest is about its training
DERIVATION = "derivation"  # metadata of a grown model: its growths, oldest first


@dataclass(frozen=True)
class Grown:
    """Result of a growth. `preserves` is that of `Growth`; `n_moments` is the number of parameters with moments."""

    parent: ModelConfig
    child: ModelConfig
    preserves: bool
    n_moments: int | None = None  # None without moments


def grow_folder(
    source: Path,
    target: Path,
    grow: Callable[[ModelConfig], Growth],
    *,
    method: str,
    arguments: Mapping[str, Any],
    with_moments: bool = False,
) -> Grown:
    """Grow the model of `source` with `grow` into the new folder `target`, which gives it its name.

    `method` and `arguments` (plain JSON) are recorded. Weights keep their dtype; `with_moments` grows AdamW's moments
    too. Raises ConfigError where the method does not support the model or its moments, CheckpointError for a folder
    without a usable model, or without moments with `with_moments`, FileExistsError where `target` exists, and OSError
    with nothing left behind.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already: choose another name, or remove it first")
    config, metadata = load_config(source)
    growth = grow(config)
    child = dataclasses.replace(growth.config, name=target.name)
    state = growth.state(load_transformer(source).state_dict())
    moments = growth.moments(moments_of(source)) if with_moments else None
    step = {
        "method": method,
        "arguments": dict(arguments),
        "parent": config.name,
        "parent_sha256": _sha256(source / WEIGHTS_FILE),
        "preserves": growth.preserves,
        "moments": with_moments,
    }
    facts = {
        **{name: metadata[name] for name in STILL_TRUE if name in metadata},
        "description": f"{config.name}, grown: {method}",
        DERIVATION: [*metadata.get(DERIVATION, []), step],
    }
    with new_folder(target, is_ours=is_model_folder, name="model") as partial:
        write_model(partial, child, state, metadata=facts, files=_texts(source))
        if moments is not None:
            write_moments(partial, moments)
    return Grown(config, child, growth.preserves, None if moments is None else len(moments))


def _texts(folder: Path) -> dict[str, str]:
    texts = {}
    for file in (folder / name for name in COPIED_FILES):
        try:
            texts[file.name] = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{file} is not text ({error}): fetch the model again") from error
    return texts


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
