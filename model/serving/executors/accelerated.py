"""Executor of a model on a CUDA device: captured decode steps if possible, else plain torch.

No CUDA device has run it yet.
"""

from __future__ import annotations

import logging

from model.serving.executors.choice import BLOCK_TOKENS, blocks_within
from model.serving.executors.cuda_graphs import Capture, CaptureSizes, GraphedExecutor, refusal
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.generation import EngineLimits
from model.transformer import Transformer

log = logging.getLogger(__name__)


def accelerated_executor(
    transformer: Transformer, limits: EngineLimits, *, capture: Capture | None = None
) -> TorchExecutor:
    """Build the executor, in the transformer's precision. The log says why if steps are not captured.

    Everything that steps within `limits` need is captured at once, so that no answer waits for a capture; `capture` is
    as for `GraphedExecutor`. Raises ValueError where the cache is too small for one block, torch.OutOfMemoryError.
    """
    config = transformer.config
    n_blocks = blocks_within(config, transformer.dtype.itemsize, limits)
    reason = refusal(transformer)
    if reason is not None:
        log.warning("%s is computed without CUDA graphs: %s", config.name, reason)
        return TorchExecutor(transformer, n_blocks, block_tokens=BLOCK_TOKENS)
    # a step reads at most the whole cache: larger sizes would be padding and take memory
    capture_sizes = CaptureSizes.within(limits.max_running, config.max_context, n_blocks * BLOCK_TOKENS)
    executor = GraphedExecutor(
        transformer, n_blocks, block_tokens=BLOCK_TOKENS, capture_sizes=capture_sizes, capture=capture
    )
    executor.prepare()
    log.info("decode steps of %s are replayed from %d CUDA graphs", config.name, executor.n_graphs)
    return executor
