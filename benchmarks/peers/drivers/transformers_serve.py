"""Serving with transformers: a static batch, padded on the left, with its cache; and the reference that answers are held to.

Of its implementations of experts the fastest is used for each workload, found by trying each once. It has no place for
requests that arrive later: all are there from the start, which is in its favour.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.peers.drivers.channel import resident_bytes, serve
from benchmarks.peers.drivers.record import Record

IMPLEMENTATIONS = ("grouped_mm", "batched_mm", "eager")
MOST_GATHERED_BYTES = 1 << 30  # batched_mm copies an expert's weights for each token that chose it
SHORT_S = 1.5  # below it a trial is repeated
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

_model: Any = None
_chosen: dict[str, str] = {}


def load(path: str, weights: str) -> dict[str, Any]:
    """The folder's weights in `weights`."""
    global _model
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    begun = time.monotonic()
    _model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=PRECISIONS[weights])
    _model.eval()
    seconds = time.monotonic() - begun
    return {"version": transformers.__version__, "load_s": seconds, "resident_bytes": resident_bytes()}


def run(name: str, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers the requests; the first time a workload is met, its implementation of experts is chosen."""
    if name not in _chosen:
        _chosen[name] = _fastest(requests)
    _use(_chosen[name])
    return {**_generate(requests), "how": _chosen[name]}


@torch.inference_mode()
def regrets(sequences: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Regret of each token of each answer: by how much its logit falls short of the best one, {"prompt", "tokens"} given."""
    found: list[list[float]] = []
    for sequence in sequences:
        prompt, answer = sequence["prompt"], sequence["tokens"]
        ids = torch.tensor([[*prompt, *answer[:-1]]])
        logits_SV = _model(input_ids=ids, logits_to_keep=len(answer)).logits[0].float()
        chosen_S = logits_SV.gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)
        found.append((logits_SV.amax(-1) - chosen_S).tolist())
    return {"regrets": found}


@torch.inference_mode()
def _generate(requests: list[dict[str, Any]]) -> dict[str, Any]:
    record = Record([{**request, "after": 0} for request in requests])
    record.arrived()
    ids_BS, mask_BS = _padded([request["prompt"] for request in requests])
    running = dict.fromkeys(range(len(requests)))
    cache = None
    while True:
        positions_BS = (mask_BS.cumsum(-1) - 1).clamp(min=0)[:, -ids_BS.shape[1] :]
        out = _model(
            input_ids=ids_BS,
            attention_mask=mask_BS if len(requests) > 1 else None,
            position_ids=positions_BS,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.cache
        ids_BS = out.logits[:, -1].argmax(-1, keepdim=True)
        now_ns = time.monotonic_ns()
        for row, token in enumerate(ids_BS[:, 0].tolist()):
            if row in running and record.token(row, token, now_ns):
                del running[row]
        if not running:
            return record.answer()
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(requests), 1)], dim=1)


def _padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def _fastest(requests: list[dict[str, Any]]) -> str:
    """The implementation whose answer comes first; a model without experts has but one."""
    config = _model.config
    if not hasattr(config, "num_experts"):
        return "dense"
    seconds: dict[str, float] = {}
    expert = 3 * config.hidden_size * config.moe_intermediate_size * _model.dtype.itemsize
    gathered = sum(len(request["prompt"]) for request in requests) * config.num_experts_per_tok * expert
    for name in IMPLEMENTATIONS:
        if name == "batched_mm" and gathered > MOST_GATHERED_BYTES:
            continue
        _use(name)
        seconds[name] = _seconds(requests)
        if seconds[name] < SHORT_S:  # a first call loads kernels
            seconds[name] = min(seconds[name], _seconds(requests))
    return min(seconds, key=lambda name: seconds[name])


def _seconds(requests: list[dict[str, Any]]) -> float:
    begun = time.monotonic()
    _generate(requests)
    return time.monotonic() - begun


def _use(implementation: str) -> None:
    if implementation != "dense":
        _model.set_experts_implementation(implementation)


if __name__ == "__main__":
    serve({"load": load, "run": run, "regrets": regrets})
