"""The sandboxed half of suite `checkpoint_load`: writes a checkpoint to /tmp untimed, loads it once, then answers.

Runs inside the sandbox only. Whatever it returns is checked from outside; nothing here is trusted.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import decoder_sample  # type: ignore[import-not-found]  # it is next to this file inside the sandbox
import tensors  # type: ignore[import-not-found]
import torch

HEADER_BYTES = 32 * 1024  # as in `checkpoint_load.py`


def prepare(threads: int, device: str) -> None:
    tensors.start(threads, device)
    with torch.device("meta"):  # imports what modules without memory are built with
        torch.nn.Linear(1, 1)


def build(config: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Imports what loading needs; there is no model yet."""
    import safetensors.torch  # noqa: F401 - the loader imports it late

    import model.checkpoint
    import model.serving.engine.scheduler
    import model.serving.executors.choice
    import model.transformer

    return {
        "folder": Path(tempfile.mkdtemp()) / "checkpoint",
        "document": {
            "format": model.checkpoint.FORMAT,
            "model": decoder_sample.model_config(config).to_dict(),
            "metadata": {},
        },
        "device": config["device"],
        "step_tokens": config["step_tokens"],
    }


def call(state: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    if "data" in inputs:
        return store(state, inputs)
    if "header" in inputs:
        return load(state, inputs)
    answers: dict[str, Any] = decoder_sample.call(state, inputs)
    return answers


def store(state: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """A folder with its configuration and all of the weights' file but its beginning."""
    from model.checkpoint import CONFIG_FILE, WEIGHTS_FILE

    folder, data = state["folder"], inputs["data"][2]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps(state["document"]), encoding="utf-8")
    with (folder / WEIGHTS_FILE).open("wb") as file:
        file.seek(HEADER_BYTES)
        stored = file.write(data)
    return {"stored": tensors.to_raw(torch.tensor([stored]))}


def load(state: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Completes the file and loads the folder: `loaded` [1]. The engine that reads the prompts is in `state` then."""
    from model.checkpoint import WEIGHTS_FILE, load_transformer

    descriptor = os.open(state["folder"] / WEIGHTS_FILE, os.O_WRONLY)
    os.pwrite(descriptor, inputs["header"][2], 0)
    os.close(descriptor)
    transformer = load_transformer(state["folder"]).to(state["device"])
    state["engine"] = decoder_sample.Stepped(transformer, state["step_tokens"])
    return {"loaded": tensors.to_raw(torch.ones(1, dtype=torch.int64))}
