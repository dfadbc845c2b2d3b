"""Serving with llama.cpp, as `llama-cpp-python` binds it."""

from __future__ import annotations

from typing import Any

import llama_cpp

from benchmarks.peers.drivers.channel import serve
from benchmarks.peers.drivers.llama_engine import LlamaEngine


def _clear_cache(context: Any) -> None:
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)


if __name__ == "__main__":
    engine = LlamaEngine(llama_cpp, version=llama_cpp.__version__, clear_cache=_clear_cache, settings={})
    serve({"load": engine.load, "run": engine.run})
