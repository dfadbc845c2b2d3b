"""The model node: cache, engine, usage counters, tokenizers and the HTTP server."""

from model import spinning as _spinning  # noqa: F401 - before torch is imported
