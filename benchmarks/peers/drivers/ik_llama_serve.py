"""Serving with ik_llama.cpp, a fork of llama.cpp, as `ik-llama-cpp-python` binds it.

Its flash attention skips cells by the mask of the last of several rows, which need not be of the same sequence. A batch of
several requests then ends in `GGML_ASSERT(S > 0) failed`, so attention is computed without it.
"""

from __future__ import annotations

import ik_llama_cpp
from ik_llama_cpp import _ctypes_api as api

from benchmarks.peers.drivers.channel import serve
from benchmarks.peers.drivers.llama_engine import LlamaEngine

if __name__ == "__main__":
    engine = LlamaEngine(
        api,
        version=ik_llama_cpp.__version__,
        clear_cache=api.llama_kv_cache_clear,
        settings={"flash_attn": False},
    )
    serve({"load": engine.load, "run": engine.run})
