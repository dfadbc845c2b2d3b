"""Default executor of a served model: the stack's own kernels where they support it, else plain torch, which drafts with
the model's prediction modules where it has them.
"""

from __future__ import annotations

import logging

import torch

from model.config import ModelConfig
from model.serving.engine.cache import kept_per_token
from model.serving.executors import native as native_executor
from model.serving.executors.base import Executor
from model.serving.executors.packed import Weights
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.generation import EngineLimits
from model.serving.node.served import ServedModel
from model.serving.speculation.mtp import AheadExecutor, drafting_bytes
from model.transformer import Transformer

log = logging.getLogger(__name__)

BLOCK_TOKENS = native_executor.BLOCK_TOKENS
WEIGHTS: dict[torch.dtype, Weights] = {torch.float32: "fp32", torch.bfloat16: "bf16"}
PREFIX_CONTEXTS = 4  # per running answer: its own context, and three to be found again


def executor_for(served: ServedModel, limits: EngineLimits, own: Executor | None = None) -> Executor:
    """The caller's own, else the one that was loaded with the model, else the fastest that there is for it."""
    return own or served.executor or default_executor(served.transformer, limits)


def default_executor(
    transformer: Transformer, limits: EngineLimits, weights: Weights | None = None, *, consume: bool = False
) -> Executor:
    """In the precision that the transformer has, or in `weights`. Says in the log why it is not the compiled one.

    With `consume` the transformer is the executor's from then on: the compiled one takes its weights, see there. Raises
    ValueError for `weights` of a model without compiled form: plain torch cannot have them.
    """
    if transformer.device.type != "cpu" or (weights is None and transformer.dtype not in WEIGHTS):
        reason: str | None = f"the model is on {transformer.device} in {transformer.dtype}"
    else:
        reason = native_executor.supports(transformer.config)
    if reason is None:
        kept = weights or WEIGHTS[transformer.dtype]
        n_blocks = blocks_within(transformer.config, transformer.dtype.itemsize, limits)
        return native_executor.NativeExecutor(transformer, n_blocks, weights=kept, consume=consume)
    if weights is not None:
        raise ValueError(f"{transformer.config.name} cannot be served in {weights}: {reason}")
    log.warning("%s is computed by plain torch: %s", transformer.config.name, reason)
    return _plain_executor(transformer, limits)


def _plain_executor(transformer: Transformer, limits: EngineLimits) -> TorchExecutor:
    config, itemsize = transformer.config, transformer.dtype.itemsize
    if config.n_ahead == 0 or limits.max_drafts == 0:
        n_blocks = blocks_within(config, itemsize, limits)
        return TorchExecutor(transformer, n_blocks, block_tokens=BLOCK_TOKENS)
    n_blocks = blocks_within(config, itemsize, limits, drafting_bytes(config, itemsize, BLOCK_TOKENS))
    return AheadExecutor(transformer, n_blocks, block_tokens=BLOCK_TOKENS)


def blocks_within(config: ModelConfig, itemsize: int, limits: EngineLimits, more_bytes: int = 0) -> int:
    """Blocks that fit `max_cache_bytes`, but no more than a few whole contexts for each running answer.

    `more_bytes` are added to each block's keys and values. Raises ValueError where not even one fits, as the
    node's option has it.
    """
    n_heads, d_key, d_value = kept_per_token(config)
    block_bytes = BLOCK_TOKENS * config.n_layers * n_heads * (d_key + d_value) * itemsize + more_bytes
    per_context = -(-config.max_context // BLOCK_TOKENS)
    n_blocks = min(limits.max_cache_bytes // block_bytes, PREFIX_CONTEXTS * limits.max_running * per_context)
    if n_blocks < 1:
        raise ValueError(
            f"a cache of {limits.max_cache_bytes} bytes holds no block of {BLOCK_TOKENS} tokens of this model "
            f"({block_bytes} bytes): give the node more with --cache-gib"
        )
    return n_blocks
