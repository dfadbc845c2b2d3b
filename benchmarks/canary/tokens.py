"""The model's tokenizer as the installed stack reads it from the store: lengths of prompts, and ids of planted words."""

from __future__ import annotations

from pathlib import Path

from model.serving.api.tokenizer import TOKENIZER_FILE, BPETokenizer, ByteTokenizer, Tokenizer

BUILT_IN = "tiny"


def tokenizer_of(models: Path | None, name: str) -> Tokenizer:
    """Raises ValueError that names the file where the store's model has no usable tokenizer."""
    if name == BUILT_IN:
        return ByteTokenizer()
    if models is None:
        raise ValueError(f"the model {name} is in no store: name the folder with --models")
    file = models / name / TOKENIZER_FILE
    if not file.is_file():
        raise ValueError(f"{file} is missing: fetch the model {name} into this store first")
    return BPETokenizer(file, ())
