"""Errors of a teacher and of its cache."""

from __future__ import annotations


class IncompatibleError(ValueError):
    """A teacher and a student that cannot be combined; the message says why and what to do."""


class CacheError(Exception):
    """A teacher's cache that cannot be used; the message says what to do."""
