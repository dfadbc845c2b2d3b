"""Hashes of tokenizers and weights, and the check that two models use the same token ids."""

from __future__ import annotations

import hashlib
import json

import tokenizers
import torch
from torch import nn

from model.config import ModelConfig
from model.distill.errors import IncompatibleError

# The parts that decide a text's ids; padding, truncation and templates do not.
TOKENIZER_PARTS = ("model", "added_tokens", "normalizer", "pre_tokenizer")


def tokenizer_sha256(document: str) -> str:
    """SHA-256 of a `tokenizer.json`'s content, equal for tokenizers that give every text the same ids.

    Raises IncompatibleError for a text that is not such a document.
    """
    try:
        content = json.loads(tokenizers.Tokenizer.from_str(document).to_str())  # in this version's format
        parts = {name: content[name] for name in TOKENIZER_PARTS}
    except Exception as error:  # tokenizers raises bare Exceptions
        raise IncompatibleError(
            f"this is not a tokenizer.json of the tokenizers library ({error}): export it with Tokenizer.save"
        ) from error
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def model_sha256(model: nn.Module, config: ModelConfig) -> str:
    """SHA-256 of a model's shape and all its weights. Reads them once: about a second per gigabyte."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_same_tokens(
    *, student_vocabulary: int, student_tokenizer: str, teacher_vocabulary: int, teacher_tokenizer: str
) -> None:
    """Raises IncompatibleError where token ids differ; `..._tokenizer` are results of `tokenizer_sha256`."""
    if student_vocabulary != teacher_vocabulary:
        raise IncompatibleError(
            f"the student has a vocabulary of {student_vocabulary} tokens and the teacher one of {teacher_vocabulary}: "
            "give the student the teacher's vocabulary, and its data the teacher's tokenizer"
        )
    if student_tokenizer != teacher_tokenizer:
        raise IncompatibleError(
            f"the student's tokenizer ({student_tokenizer[:12]}) is not the teacher's ({teacher_tokenizer[:12]}): one "
            "token id means different text to them. Tokenise the student's data with the teacher's tokenizer"
        )
