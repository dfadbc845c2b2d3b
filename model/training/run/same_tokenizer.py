"""Check that a run's initial model and its data use the same token ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from model.config import ConfigError
from model.data.tokenizer import TOKENIZER_FILE
from model.distill import IncompatibleError, tokenizer_sha256


def require_same_tokenizer(folder: Path, files: Mapping[str, str]) -> None:
    """Compare the tokenizers of a model folder and of the data's `files`. Without one of them nothing is compared.

    Raises ConfigError where the tokenizer in `folder` gives other ids than the data's.
    """
    file = folder / TOKENIZER_FILE
    if TOKENIZER_FILE not in files or not file.is_file():
        return
    try:
        is_same = tokenizer_sha256(file.read_text(encoding="utf-8")) == tokenizer_sha256(
            files[TOKENIZER_FILE]
        )
    except (IncompatibleError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be compared with the data's: {error}") from error
    if not is_same:
        raise ConfigError(
            f"[model] checkpoint {folder} has another tokenizer than [data] folder: one token id means different text to "
            f"them. Build the data with `--tokenizer {folder}`, or leave the checkpoint out"
        )
