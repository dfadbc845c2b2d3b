"""Errors of a teacher and of its cache."""

from __future__ import annotations


class IncompatibleError(ValueError):
    """Teacher and student cannot go together; the message says why and what to do."""


class CacheError(Exception):
    """A teacher's cache cannot be used as asked; the message says what to do."""
