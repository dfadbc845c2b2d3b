"""Which tokenizers a node serves: byte-level BPE of the model's own ids. Others are refused at load, swap and import."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from model.checkpoint import load_config, save_checkpoint
from model.hf.__main__ import main
from model.serving.api.chat import TEMPLATE_FILE, TINY_TEMPLATE
from model.serving.api.errors import LoadError
from model.serving.api.tokenizer import (
    CHARACTERS_PER_NFC_BYTE,
    TOKENIZER_FILE,
    BPETokenizer,
    ByteTokenizer,
    UnservedTokenizerError,
    byte_alphabet,
)
from model.serving.node.loading import load
from model.serving.upstream.counting import MOST_UNSETTLED, LocalCounter, TextCount
from tests.model.hf.hf_models import build
from tests.model.random_models import SMALL, random_transformer
from tests.model.serving.node.node_in_process import bundled, serving

pytestmark = pytest.mark.slow

BYTES = {character: token for token, character in enumerate(byte_alphabet())}
WORDS = {"[UNK]": 0, "hello": 1, "world": 2, "##s": 3}
LLAMA_2 = {"<unk>": 0, "<0x41>": 1, "\u2581": 2, "\u2581the": 3, "a": 4}


def byte_level(vocab: dict[str, int] = BYTES, **options: object) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab, [], **options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def llama_2() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(LLAMA_2, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return tokenizer


OTHERS: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "wordpiece": (wordpiece, r"is WordPiece \(pieces of words"),
    "wordlevel": (lambda: Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]")), r"is WordLevel \(whole words"),
    "unigram": (lambda: Tokenizer(models.Unigram([("a", 0.0)], 0, False)), r"is SentencePiece \(Unigram, '\u2581'"),
    "sentencepiece": (llama_2, r"is SentencePiece \(BPE, '\u2581' for a space"),
    "characters": (lambda: Tokenizer(models.BPE({"a": 0, "b": 1}, [])), r"is BPE of characters, and"),
    "other letters": (lambda: byte_level({"a": 0, "\u4e2d" * 90: 1}), r"is BPE of characters, as '\u4e2d{20}', and"),
    "suffix": (
        lambda: byte_level({"a": 0, "a</w>": 1}, end_of_word_suffix="</w>"),
        r"is BPE with marks where words continue or end",
    ),
}  # fmt: skip


def ours(folder: Path, tokenizer: Tokenizer, stop_tokens: list[int], vocab_size: int = 64) -> Path:
    """A model folder of ours with this tokenizer."""
    model = random_transformer(replace(SMALL, name=folder.name, vocab_size=vocab_size))
    files = {TOKENIZER_FILE: tokenizer.to_str(), TEMPLATE_FILE: TINY_TEMPLATE}
    metadata = {"stop_tokens": stop_tokens}
    save_checkpoint(folder, model.config, model.state_dict(), metadata=metadata, files=files)
    return folder


def theirs(folder: Path, tokenizer: Tokenizer, vocab_size: int = 256, **generation: object) -> Path:
    """The same as transformers saves it."""
    build("llama", vocab_size=vocab_size).save_pretrained(folder)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("make_folder", [ours, theirs])
def test_another_kind_of_tokenizer_is_refused_at_load(
    kind: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    make, what = OTHERS[kind]
    arguments = ([0],) if make_folder is ours else ()
    with pytest.raises(LoadError, match=what) as refused:
        load(str(make_folder(tmp_path / "model", make(), *arguments)))
    assert (refused.value.status, refused.value.code) == (422, "model_not_usable")
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'model'} cannot be served: tokenizer.json is ")
    assert "Choose a model with such a tokenizer" in message and "--upstream" in message


@pytest.mark.parametrize("kind", OTHERS)
def test_another_kind_of_tokenizer_is_refused_at_import_unless_it_stays_behind(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, what = OTHERS[kind]
    source = theirs(tmp_path / "theirs", make(), eos_token_id=2)
    assert main(["import", str(source), str(tmp_path / "mine")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "import the model without it: --without-tokenizer" in error
    with pytest.raises(UnservedTokenizerError, match=what):
        BPETokenizer(source / TOKENIZER_FILE, ())
    assert not (tmp_path / "mine").exists()
    assert main(["import", str(source), str(tmp_path / "mine"), "--without-tokenizer"]) == 0
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == ["config.json", "model.safetensors"]
    assert load_config(tmp_path / "mine")[1]["stop_tokens"] == []


def test_a_tokenizer_with_more_ids_than_the_model_is_refused_at_load_and_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    added = byte_level()
    added.add_tokens(["<think>"])
    folder = ours(tmp_path / "ours", added, [0], vocab_size=256)
    with pytest.raises(LoadError, match="token ids up to 256 and the model has 256 tokens, 0 to 255"):
        load(str(folder))
    source = theirs(tmp_path / "theirs", added)
    with pytest.raises(LoadError, match="token ids up to 256 and the model has 256 tokens, 0 to 255"):
        load(str(source))
    assert main(["import", str(source), str(tmp_path / "mine")]) == 1
    assert "Fetch the tokenizer that belongs to these weights" in capsys.readouterr().err
    assert load(str(ours(tmp_path / "fits", added, [256], vocab_size=257))).tokenizer.stop_tokens == {256}
    sparse = byte_level({"a": 0, "b": 7000})
    with pytest.raises(LoadError, match="token ids up to 7,000"):
        load(str(ours(tmp_path / "sparse", sparse, [0])))


@pytest.mark.parametrize("stop", [256, -1, 1 << 40])
def test_an_end_that_the_model_does_not_have_is_refused_at_load_and_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stop: int
) -> None:
    with pytest.raises(LoadError, match=f"the stop token {stop:,} is not in the model's vocabulary"):
        load(str(ours(tmp_path / "ours", byte_level(), [stop], vocab_size=256)))
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        source = theirs(tmp_path / name, byte_level(), **{name: stop})
        with pytest.raises(LoadError, match=rf"{name} = {stop} names a token .* in generation_config\.json"):
            load(str(source))
        assert main(["import", str(source), str(tmp_path / "mine")]) == 1
        assert f"{name} = {stop} names a token outside of the model's vocabulary" in capsys.readouterr().err


def test_a_swap_to_such_a_model_is_refused_and_the_old_one_serves_on(tmp_path: Path) -> None:
    added = byte_level()
    added.add_tokens(["<think>"])
    wrong = {
        str(ours(tmp_path / "words", wordpiece(), [0])): "is WordPiece",
        str(ours(tmp_path / "more", added, [0], vocab_size=256)): "token ids up to 256",
    }
    with serving(bundled(), token="t") as node, client(node.url) as http:
        for folder, what in wrong.items():
            answer = http.post("/admin/swap", json={"model": folder})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (422, "model_not_usable")
            assert what in error["message"] and error["message"].endswith("tiny still serves")
        body = {"model": "tiny", "prompt": "Hi", "max_tokens": 2}
        assert http.post("/v1/completions", json=body).status_code == 200


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": "Bearer t"}, timeout=60)


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word of 4 MB took a core five seconds and 600 MB, for a refusal."""
    encoded: list[int] = []
    encode = BPETokenizer._encoded

    def noted(self: BPETokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
        encoded.append(len(text))
        return encode(self, text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(BPETokenizer, "_encoded", noted)
    folder = str(ours(tmp_path / "model", byte_level(), [0], vocab_size=256))
    word = "x" * 4_000_000
    asked = {
        "/tokenize": {"prompt": word},
        "/v1/completions": {"prompt": word},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": word}]},
    }
    with serving(bundled(model=folder), token="t") as node, client(node.url) as http:
        for path, body in asked.items():
            answer = http.post(path, json={"model": "model", **body})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "context_length_exceeded"), path
            assert "4,000,0" in error["message"] and "at least 4000" in error["message"]
            assert error["param"] == ("messages" if "messages" in body else "prompt")
        fits = {"model": "model", "prompt": "x" * SMALL.max_context}
        assert http.post("/tokenize", json=fits).json()["count"] == SMALL.max_context
    assert max(encoded) <= SMALL.max_context


def made(
    form: normalizers.Normalizer | None = None, *, merged: int = 0, steps: tuple[object, ...] = ()
) -> Tokenizer:
    """Byte-level BPE with one token of `merged` times "a" besides."""
    vocab, merges = dict(BYTES), []
    for length in range(2, merged + 1):
        vocab["a" * length] = len(vocab)
        merges.append(("a" * (length - 1), "a"))
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, level])
    if form is not None:
        tokenizer.normalizer = form
    return tokenizer


def opened(tokenizer: Tokenizer, folder: Path) -> BPETokenizer:
    tokenizer.save(str(folder / TOKENIZER_FILE))
    return BPETokenizer(folder / TOKENIZER_FILE, ())


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> list[BPETokenizer]:
    digits = pre_tokenizers.Digits(individual_digits=True)
    empty = normalizers.Sequence([])
    kinds = [
        made(merged=5), made(normalizers.NFC(), merged=3), made(empty, steps=(digits,)),
        made(normalizers.Sequence([normalizers.NFC()])),
    ]  # fmt: skip
    kinds[0].add_tokens(["<long long added token>"])
    kinds[1].add_special_tokens(["\u00e9" * 9])
    return [opened(kind, tmp_path_factory.mktemp("kind")) for kind in kinds]


TEXTS = st.text(max_size=80) | st.text("a1 \u0301\u0323\u1112\u1161\u11ab", max_size=80)


@given(TEXTS, st.sampled_from(range(4)))
def test_no_text_has_fewer_tokens_than_is_said(bounded: list[BPETokenizer], text: str, kind: int) -> None:
    tokenizer = bounded[kind]
    for written in (text, "<long long added token>" * 3 + text, "\u00e9" * 18 + text):
        assert tokenizer.least_tokens(written) <= len(tokenizer.encode(written))
    assert ByteTokenizer().least_tokens(text) <= len(ByteTokenizer().encode(text))
    assert tokenizer.least_tokens("a" * 10_000) >= 200


def test_no_character_is_composed_of_more_than_twice_its_bytes() -> None:
    for code in (*range(0xD800), *range(0xE000, sys.maxunicode + 1)):
        parts = unicodedata.normalize("NFD", chr(code))
        assert len(parts) <= CHARACTERS_PER_NFC_BYTE * len(chr(code).encode())


def test_where_text_may_vanish_nothing_is_said_of_its_length(tmp_path: Path) -> None:
    missing = byte_level({character: token for character, token in BYTES.items() if character != "x"})
    strips = made()
    strips.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    removes = made(steps=(pre_tokenizers.Split(" ", "removed"),))
    kinds = [missing, strips, removes, made(normalizers.Strip()), made(normalizers.NFKC())]
    kinds += [made(steps=(pre_tokenizers.WhitespaceSplit(),))]
    for kind in kinds:
        assert opened(kind, tmp_path).least_tokens("x" * 1_000_000) == 0


def test_a_file_s_truncation_and_padding_touch_no_prompt(tmp_path: Path) -> None:
    cut = byte_level()
    cut.enable_truncation(4)
    cut.enable_padding(length=50)
    assert opened(cut, tmp_path).encode("abcdefg") == list(b"abcdefg")


def test_special_tokens_may_be_spelt_with_any_character(tmp_path: Path) -> None:
    """DeepSeek's vocabulary has its special tokens, which are no bytes, among the others."""
    begin = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
    tokenizer = byte_level({**BYTES, begin: 256})
    tokenizer.add_special_tokens([begin])
    assert opened(tokenizer, tmp_path).encode(f"{begin}a") == [256, ord("a")]


def test_a_long_word_of_an_upstream_server_is_counted_in_linear_time(tmp_path: Path) -> None:
    """Without white space all of it was counted again with each piece: minutes for these."""
    tokenizer = opened(made(merged=7), tmp_path)
    counting = TextCount(tokenizer)
    for _ in range(10_000):
        counting.push("aaaaaaa")
        assert len(counting._tail) <= MOST_UNSETTLED
    whole = len(tokenizer.encode("aaaaaaa" * 10_000))
    assert whole <= counting.n_tokens <= whole + 70_000 // (MOST_UNSETTLED // 2) + 1


def test_a_tokenizer_that_counts_for_another_server_is_refused_by_name_too(tmp_path: Path) -> None:
    llama_2().save(str(tmp_path / TOKENIZER_FILE))
    with pytest.raises(LoadError, match="is SentencePiece") as refused:
        LocalCounter(tmp_path)
    assert refused.value.code == "tokenizer_not_usable"
