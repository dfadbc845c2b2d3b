"""Serving with vLLM's CPU backend, its engine in this process and without a prefix cache: prompts are fresh anyway."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers.drivers.channel import resident_bytes, serve
from benchmarks.peers.drivers.record import Record

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}

_engine: Any = None
_runs = 0


def load(path: str, weights: str, max_tokens: int, max_batch: int) -> dict[str, Any]:
    """The folder's weights in `weights`; vLLM compiles and warms up here."""
    global _engine
    import vllm

    begun = time.monotonic()
    model = vllm.LLM(
        model=path,
        dtype=PRECISIONS[weights],
        skip_tokenizer_init=True,
        max_model_len=max_tokens,
        max_num_seqs=max_batch,
        enable_prefix_caching=False,
        seed=0,
    )
    _engine = model.llm_engine
    seconds = time.monotonic() - begun
    return {"version": vllm.__version__, "load_s": seconds, "resident_bytes": resident_bytes()}


def run(name: str, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers the requests by the engine's own steps."""
    global _runs
    _runs += 1
    from vllm import SamplingParams

    record = Record(requests)
    while not record.is_done:
        for number, request in record.arrived():
            _engine.add_request(
                f"{_runs}-{number}",
                {"prompt_token_ids": request["prompt"]},
                SamplingParams(
                    temperature=0.0, max_tokens=request["n_new"], ignore_eos=True, detokenize=False
                ),
            )
        outputs = _engine.step()
        now_ns = time.monotonic_ns()
        for output in outputs:
            number = int(output.request_id.split("-")[1])
            for token in list(output.outputs[0].token_ids)[record.count(number) :]:
                record.token(number, int(token), now_ns)
    return record.answer()


if __name__ == "__main__":
    serve({"load": load, "run": run})
