"""Load a served model's default executor without holding all of its unpacked weights in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from model.serving.executors import native as native_executor
from model.serving.executors.choice import WEIGHTS, blocks_within, default_executor
from model.serving.executors.native_weights import least_bytes
from model.serving.executors.packed import Weights
from model.serving.metering.generation import EngineLimits
from model.serving.node.loading import check_fits
from model.serving.node.served import ServedModel


def with_executor(
    opened: ServedModel, limits: EngineLimits, weights: Weights | None = None, *, kept_in: Path | None = None
) -> ServedModel:
    """Give a model that `open_served` returned the executor that `default_executor` would choose for it.

    The compiled one packs weights from their files a layer at a time and holds only that layer unpacked. A folder
    `kept_in` keeps them packed for the next load. Raises what `default_executor` raises; LoadError where memory is
    certainly too small, before any is taken; CheckpointError or UnsupportedModel.
    """
    stored, transformer = opened.stored, opened.transformer
    form = weights or WEIGHTS.get(transformer.dtype)
    if stored is None or form is None or native_executor.supports(transformer.config) is not None:
        if stored is not None:
            check_fits(stored.file_bytes)
        whole = opened.with_weights()
        executor = default_executor(whole.transformer, limits, weights, consume=True)
        return dataclasses.replace(whole, executor=executor)
    check_fits(least_bytes(transformer, form))
    n_blocks = blocks_within(transformer.config, transformer.dtype.itemsize, limits)
    compiled = native_executor.NativeExecutor(
        transformer, n_blocks, weights=form, stored=stored, kept_in=kept_in
    )
    return dataclasses.replace(opened, executor=compiled, stored=None)
