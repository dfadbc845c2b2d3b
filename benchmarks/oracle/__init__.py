"""Exact answers in double precision, written from the definitions and independent of the stack under test."""

from benchmarks import blas as _blas  # noqa: F401 - before numpy is imported
