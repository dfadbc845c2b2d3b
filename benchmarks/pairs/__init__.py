"""Measures base and candidate in fresh pairs of sandboxed processes whose calls alternate."""

from benchmarks import blas as _blas  # noqa: F401 - before numpy is imported
