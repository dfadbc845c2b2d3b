"""The commands: a Hugging Face folder becomes one that a node serves, and comes back as it was."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from model import hf
from model.checkpoint import load_config, load_transformer, save_checkpoint
from model.hf.__main__ import main
from model.serving.api.chat import Message
from model.serving.api.tokenizer import byte_alphabet
from model.serving.node.served import load_served
from tests.model.hf.hf_models import (
    assert_close,
    assert_equal_states,
    build,
    edit_config,
    load_theirs,
    tokens,
)
from tests.model.random_models import SMALL, random_tokens, random_transformer

VOCAB_SIZE = 258  # bytes and two special tokens


@pytest.fixture(autouse=True)
def quiet_root() -> Iterator[None]:
    """`main` configures the root logger."""
    handlers = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A Mixtral as a hub would have it, with a byte-level tokenizer and an older place for the chat template."""
    folder = tmp_path / "published"
    build("mixtral", vocab_size=VOCAB_SIZE).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(byte_alphabet())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|start|>", "<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 257}))
    return folder


def test_an_imported_model_is_served_and_exported_as_it_was(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home" / "models" / "mine"
    assert main(["import", str(published), str(home)]) == 0
    assert capsys.readouterr().out == f"mine is ready: {home}\n"
    config, metadata = load_config(home)
    assert config.name == "mine"
    assert metadata["stop_tokens"] == [257]
    assert metadata["source"] == {"model_type": "mixtral", "folder": "published"}
    assert_equal_states(load_transformer(home).state_dict(), hf.load(published)[1])

    served = load_served("mine", tmp_path / "home")
    assert served.tokenizer.encode("Hi<|end|>") == [*byte_ids("Hi"), 257]
    ids = tokens(0, vocab_size=VOCAB_SIZE)
    with torch.no_grad():
        assert_close(load_transformer(home)(ids), load_theirs(published)(ids).logits)

    assert main(["export", str(home), str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"model": "MixtralForCausalLM", "folder": str(tmp_path / "out")}
    exported = load_theirs(tmp_path / "out")
    assert_equal_states(exported.state_dict(), load_theirs(published).state_dict())
    assert exported.config.eos_token_id == 257
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token_id == 257
    assert tokenizer("Hi")["input_ids"] == byte_ids("Hi")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat == "Hi"


def byte_ids(text: str) -> list[int]:
    """A token's id is its character's place in the alphabet, which goes by byte."""
    return list(text.encode())


@pytest.mark.parametrize("is_imported", [True, False])
def test_prompts_begin_as_the_tokenizer_begins_them(
    published: Path, tmp_path: Path, is_imported: bool
) -> None:
    """Completions by its own rule, chats by the template, from a folder of ours or of theirs; and back."""
    tokenizer = Tokenizer.from_file(str(published / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|start|> $A", special_tokens=[("<|start|>", 256)]
    )
    tokenizer.save(str(published / "tokenizer.json"))
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    added = {"content": "<|start|>", "special": True}  # older files spell tokens out
    settings = {"chat_template": template, "bos_token": added, "eos_token": None}
    (published / "tokenizer_config.json").write_text(json.dumps(settings))
    (published / "special_tokens_map.json").write_text(json.dumps({"bos_token": "?", "eos_token": "<|end|>"}))
    folder = tmp_path / "mine" if is_imported else published
    if is_imported:
        assert main(["import", str(published), str(folder)]) == 0
        assert main(["export", str(folder), str(tmp_path / "out")]) == 0
        back = AutoTokenizer.from_pretrained(tmp_path / "out")
        chat = [{"role": "user", "content": "Hi"}]
        assert back.apply_chat_template(chat, tokenize=False) == "<|start|>Hi<|end|>"
        assert back("Hi")["input_ids"] == [256, *byte_ids("Hi")]
    served = load_served(str(folder))
    assert served.tokenizer.encode_prompt("Hi") == [256, *byte_ids("Hi")]
    assert served.tokenizer.encode("Hi") == byte_ids("Hi")
    assert served.chat.render([Message("user", "Hi")]) == "<|start|>Hi<|end|>"


def test_weights_are_converted_on_the_way(published: Path, tmp_path: Path) -> None:
    assert main(["import", str(published), str(tmp_path / "mine"), "--dtype", "bfloat16"]) == 0
    assert load_transformer(tmp_path / "mine").embedding.dtype == torch.bfloat16


def test_several_stop_tokens_come_through(published: Path, tmp_path: Path) -> None:
    (published / "generation_config.json").unlink()
    edit_config(published, eos_token_id=[257, 256])
    assert main(["import", str(published), str(tmp_path / "mine")]) == 0
    assert load_config(tmp_path / "mine")[1]["stop_tokens"] == [256, 257]
    assert main(["export", str(tmp_path / "mine"), str(tmp_path / "out")]) == 0
    assert load_theirs(tmp_path / "out").config.eos_token_id == [256, 257]


@pytest.mark.parametrize("stop", ["</s>", 2.5, [2, "</s>"], {"id": 2}, True])
def test_stop_tokens_that_are_none_are_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stop: object
) -> None:
    (published / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))
    assert main(["import", str(published), str(tmp_path / "mine")]) == 1
    assert f"eos_token_id must be a token id or a list of them, not {stop!r}" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "tokenizer_config.json"])
def test_files_that_are_no_text_are_refused(
    name: str, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (published / name).write_bytes(b"\xff\xfe")
    assert main(["import", str(published), str(tmp_path / "home")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {published / name} is not text") and error.endswith("fetch it again\n")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("metadata", "files", "message"),
    [
        ({"stop_tokens": "ab"}, {}, "stop_tokens must be a token id or a list of them, not 'ab'"),
        ({"stop_tokens": [1.5]}, {}, "stop_tokens must be a token id or a list of them"),
        (
            {"stop_tokens": [7]},
            {"tokenizer.json": "{}"},
            "tokenizer.json is not a file of the tokenizers library",
        ),
    ],
)
def test_a_folder_of_ours_that_holds_something_else_is_not_exported(
    metadata: dict[str, object],
    files: dict[str, str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = random_transformer(SMALL).state_dict()
    save_checkpoint(tmp_path / "ours", SMALL, state, metadata=metadata, files=files)
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "theirs").exists()


def test_a_model_without_tokenizer_or_stop_tokens_converts(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path / "bare")
    assert main(["import", str(tmp_path / "bare"), str(tmp_path / "mine")]) == 0
    assert load_config(tmp_path / "mine")[1]["stop_tokens"] == []
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == ["config.json", "model.safetensors"]
    assert main(["export", str(tmp_path / "mine"), str(tmp_path / "out")]) == 0
    assert load_theirs(tmp_path / "out").config.eos_token_id is None


@pytest.mark.parametrize("as_json", [False, True])
def test_refusals_are_one_line_and_write_nothing(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    options = ["--json"] if as_json else []
    edit_config(published, hidden_act="gelu")
    assert main(["import", str(published), str(tmp_path / "mine"), *options]) == 1
    out, err = capsys.readouterr()
    assert "error: hidden_act = 'gelu' is not supported" in err
    if as_json:
        assert json.loads(out)["error"]["code"] == "conversion_failed"
    else:
        assert out == ""
    assert not (tmp_path / "mine").exists()


def test_existing_folders_are_left_alone(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(published), str(tmp_path / "mine")]) == 0
    before = (tmp_path / "mine" / "config.json").read_bytes()
    assert main(["import", str(published), str(tmp_path / "mine")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "mine"), str(published)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "mine" / "config.json").read_bytes() == before


def test_a_model_whose_layers_share_weights_is_exported_unshared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(SMALL, n_layers=3, attention_owners=(0, 0, 2), ffn_owners=(0, 1, 1))
    model = random_transformer(config)
    save_checkpoint(tmp_path / "mine", config, model.state_dict(), metadata={}, files={})
    export = ["export", str(tmp_path / "mine"), str(tmp_path / "out")]
    assert main(export) == 1
    err = capsys.readouterr().err
    assert "layers share weights. Export it with --unshare" in err
    assert len(err) < 300
    assert not (tmp_path / "out").exists()
    assert main([*export, "--unshare"]) == 0
    ids = random_tokens(config, 2, 9)
    with torch.no_grad():
        assert_close(load_theirs(tmp_path / "out")(ids).logits, model.eval()(ids))


@pytest.mark.parametrize("as_json", [False, True])
def test_each_direction_names_the_other_one(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    assert main(["import", str(published), str(tmp_path / "mine")]) == 0
    for command, folder, other in (("import", tmp_path / "mine", "export"), ("export", published, "import")):
        capsys.readouterr()
        assert main([command, str(folder), str(tmp_path / "out"), *(["--json"] if as_json else [])]) == 1
        out, err = capsys.readouterr()
        assert f"gainshare model {other}" in err and f"python -m model.hf {other}" in err
        assert not as_json or f"gainshare model {other}" in json.loads(out)["error"]["message"]
        assert not (tmp_path / "out").exists()


def test_a_family_that_cannot_represent_the_model_is_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["import", str(published), str(tmp_path / "mine")])
    capsys.readouterr()
    assert main(["export", str(tmp_path / "mine"), str(tmp_path / "out"), "--family", "olmoe"]) == 1
    assert "olmoe cannot represent" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
