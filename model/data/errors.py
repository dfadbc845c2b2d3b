"""Errors of training data. Every message says what to do."""

from __future__ import annotations


class DataError(Exception):
    """Training data that cannot be made or used."""


class CorpusError(DataError):
    """A corpus that is not on this machine or has no usable document."""


class ShardError(DataError):
    """A data folder or one of its files that is missing, unfinished or damaged."""


class StateError(DataError):
    """A stored state that belongs to another stream."""


class TokenizerError(DataError):
    """A tokenizer that cannot be trained, read or used."""
