"""SmolLM2: conversion, tokenizer, growth with equal logits, and the answer that everybody knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model.checkpoint import load_config, load_transformer, models_home
from model.presets import PRESETS
from model.serving.api.chat import Message
from model.serving.api.text import TextStream
from model.serving.engine.cache import SequenceCache
from model.serving.node.served import load_served
from model.smollm2.convert import GGUFModel, unpermute
from model.smollm2.errors import ConversionError
from model.smollm2.fetch import grown
from model.transformer import Transformer

pytestmark = pytest.mark.slow

QUESTION = (Message("user", "What is the capital of France?"),)


def test_unpermute_turns_neighbouring_pairs_into_halves() -> None:
    rows = torch.arange(8)[:, None] * torch.ones(1, 3)  # two heads of width 4
    assert unpermute(rows, n_heads=2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GARBAGE" * 100)
    with pytest.raises(ConversionError, match="fetch again"):
        GGUFModel(tmp_path / "broken.gguf")


@pytest.mark.parametrize(
    ("name", "millions"), [("smollm2-moe", (370, 376)), ("smollm2-moe-small", (212, 218))]
)
def test_grown_logits_equal_the_dense_parents_and_both_know_paris(
    smollm2_gguf: Path, name: str, millions: tuple[int, int]
) -> None:
    source = GGUFModel(smollm2_gguf)
    state = source.dense_state()
    growth = grown(name, source.config)
    tokenizer = source.tokenizer()
    tokens = torch.tensor([tokenizer.encode("The capital of France is Paris. The capital of Italy is").ids])
    logits = []
    for shape, weights in ((source.config, state), (growth.config, growth.state(state))):
        with torch.device("meta"):
            model = Transformer(shape)
        model.load_state_dict(weights, assign=True)
        with torch.no_grad():
            logits.append(model(tokens)[0])
    dense, moe = logits
    assert tokenizer.decode([int(dense[-1].argmax())]) == " Rome"
    assert (dense - moe).abs().max() <= 1e-5 * dense.abs().max()
    assert growth.config.name == name
    assert millions[0] < growth.config.total_parameters / 1e6 < millions[1]


def test_tokenizer_of_the_folder_splits_as_smollm_does(smollm2_home: Path) -> None:
    tokenizer = load_served("smollm2-moe", smollm2_home).tokenizer
    texts = [
        "Hello, world!",
        "  indented\n\tcode = 123456",
        "naïve café 🎉 日本語",
        "I'll say <|im_end|> twice",
    ]
    for text in texts:
        ids = tokenizer.encode(text)
        assert b"".join(tokenizer.token_bytes(token) for token in ids).decode() == text.replace(
            "<|im_end|>", ""
        )
    assert len(tokenizer.encode("123456")) == 6  # single digits
    assert tokenizer.encode("<|im_end|>") == [2]
    assert tokenizer.encode("\ud800") == tokenizer.encode("?")  # no UTF-8 form
    assert tokenizer.stop_tokens == {0, 2}


def test_chat_template_adds_the_models_own_system_message(smollm2_home: Path) -> None:
    prompt = load_served("smollm2-moe", smollm2_home).chat.render(QUESTION)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_capital_of_france_is_paris(smollm2_home: Path, dtype: torch.dtype) -> None:
    served = load_served("smollm2-moe", smollm2_home)
    model = load_transformer(models_home(smollm2_home) / "smollm2-moe", dtype)
    cache = SequenceCache(model.config, model.dtype, model.device)
    text = TextStream(served.tokenizer.token_bytes)
    new, answer = served.tokenizer.encode(served.chat.render(QUESTION)), ""
    for _ in range(24):
        logits = model.step([(cache, new)])[0]
        cache.advance(len(new))
        new = [int(logits.argmax())]
        if new[0] in served.tokenizer.stop_tokens:
            break
        answer += text.push(new[0])
    assert answer == "The capital of France is Paris."


def test_the_store_holds_what_the_configuration_says(smollm2_home: Path) -> None:
    folder = models_home(smollm2_home) / "smollm2-moe"
    config, metadata = load_config(folder)
    assert config.moe is not None and config.name == "smollm2-moe"
    assert config.d_model == PRESETS["smollm2"].d_model
    assert metadata["licence"] == "Apache-2.0"
    model = load_transformer(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.total_parameters


def command(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "model.smollm2", "fetch", *options],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_fetching_again_answers_at_once_from_the_store(smollm2_home: Path) -> None:
    started = time.monotonic()
    done = command("--json", "--home", str(smollm2_home))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["cached"] is True and document["model"] == "smollm2-moe"
    assert document["folder"] == str(models_home(smollm2_home) / "smollm2-moe")
    assert time.monotonic() - started < 5


def test_fetch_without_network_says_so_and_fails(tmp_path: Path) -> None:
    away = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    done = command("--json", "--home", str(tmp_path), **away)
    assert done.returncode == 1
    assert "network" in json.loads(done.stdout)["error"]["message"]
    assert "Traceback" not in done.stderr


def test_fetch_into_an_impossible_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = command("--home", str(tmp_path / "file"))
    assert done.returncode == 1
    assert "cannot write the model" in done.stderr and "Traceback" not in done.stderr
