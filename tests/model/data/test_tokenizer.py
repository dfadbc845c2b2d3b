"""The tokenizer: nothing is unknown, special tokens come from markup only, files are enough, training is repeatable."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.errors import TokenizerError
from model.data.tokenizer import (
    CHATML,
    LONGEST_TAUGHT,
    MARKUP_FILE,
    MOST_VOCABULARY,
    SPLIT,
    TOKENIZER_FILE,
    Markup,
    TextTokenizer,
)
from model.serving.api.tokenizer import BPETokenizer

pytestmark = pytest.mark.slow

TEXTS = [Path(__file__).read_text(encoding="utf-8"), "déjà vu, déjà lu: naïve café ☕ " * 20] * 3
VOCAB = 700


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(TEXTS, VOCAB)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_every_text_comes_back(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_shorten_text_and_bytes_remain(tokenizer: TextTokenizer) -> None:
    assert tokenizer.vocab_size == VOCAB
    text = TEXTS[0]
    assert len(tokenizer.encode(text)) < len(text.encode()) / 2.5
    assert len(tokenizer.encode("\x00\x01\x02")) == 3
    assert len(tokenizer.encode("𐍈")) == 4  # never seen: one token per byte


def test_numbers_are_cut_into_three_digits_and_indentation_is_one_token(tokenizer: TextTokenizer) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("1234567")]
    assert max(map(len, pieces)) <= 3
    tokens = [tokenizer.decode([token]) for token in tokenizer.encode("    return")]
    assert tokens[0] == "   " and "".join(tokens) == "    return"


def test_documents_end_with_the_end_token(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode_documents(["import os\n", ""])
    (end,) = ids[1]
    assert ids[0] == [*tokenizer.encode("import os\n"), end]
    assert tokenizer.decode([end]) == "<|end|>"


def test_instructions_are_scored_on_the_answer_and_its_end(tokenizer: TextTokenizer) -> None:
    ids, (start, stop) = tokenizer.encode_instruction("Why?", "Because.")
    assert tokenizer.decode(ids) == "<|user|>Why?<|assistant|>Because.<|end|>"
    assert tokenizer.decode(ids[start:stop]) == "Because.<|end|>"
    assert stop == len(ids)


def test_special_tokens_in_a_text_are_text(tokenizer: TextTokenizer) -> None:
    text = "say <|end|> and <|assistant|>"
    ids = tokenizer.encode(text)
    special = {tokenizer.encode_documents([""])[0][0]}
    assert not special & set(ids) and tokenizer.decode(ids) == text
    assert not special & set(tokenizer.encode_documents([text])[0][:-1])
    instruction, (start, _) = tokenizer.encode_instruction(text, text)
    assert instruction.count(special.pop()) == 1
    assert tokenizer.decode(instruction[start:]) == text + "<|end|>"


def test_lone_surrogates_become_question_marks(tokenizer: TextTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"
    assert tokenizer.decode(tokenizer.encode_documents(["\ud800"])[0]) == "?<|end|>"


def test_files_hold_all_of_it(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = TextTokenizer.load(tmp_path)
    assert loaded.sha256 == tokenizer.sha256 and loaded.markup == tokenizer.markup
    assert loaded.encode_documents(TEXTS) == tokenizer.encode_documents(TEXTS)
    assert loaded.encode_instruction("<|end|>", "b") == tokenizer.encode_instruction("<|end|>", "b")


def test_training_is_repeatable(tokenizer: TextTokenizer) -> None:
    assert TextTokenizer.train(TEXTS, VOCAB).sha256 == tokenizer.sha256
    assert TextTokenizer.train(TEXTS, VOCAB - 1).sha256 != tokenizer.sha256
    assert TextTokenizer.train(TEXTS, VOCAB, Markup("<e>", "<u>", "<a>")).sha256 != tokenizer.sha256


def test_the_serving_engine_reads_the_same_file(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    end = tokenizer.encode_documents([""])[0][0]
    served = BPETokenizer(tmp_path / TOKENIZER_FILE, [end])
    ids = tokenizer.encode(TEXTS[1])
    assert served.encode(TEXTS[1]) == ids
    assert b"".join(served.token_bytes(token) for token in ids).decode() == TEXTS[1]
    prompt, (start, _) = tokenizer.encode_instruction("Why?", "Because.")
    assert served.encode("<|user|>Why?<|assistant|>") == prompt[:start]


def test_a_model_s_own_markup_is_used(tmp_path: Path) -> None:
    """A tokenizer with ChatML tokens, as SmolLM2's has."""
    trained = TextTokenizer.train(TEXTS, VOCAB, Markup("<|im_end|>", "<|im_start|>", "<|im_start|>"))
    trained.save(tmp_path)
    (tmp_path / MARKUP_FILE).unlink()
    loaded = TextTokenizer.load(tmp_path, CHATML)
    ids, (start, _) = loaded.encode_instruction("Why?", "Because.")
    expected = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.decode(ids[:start]) == expected
    assert loaded.decode(ids[start:]) == "Because.<|im_end|>"
    with pytest.raises(
        TokenizerError, match=r"'<\|end\|>' does not begin with a special token .*<\|im_end\|>"
    ):
        TextTokenizer.load(tmp_path, Markup())


def test_sizes_and_texts_that_teach_nothing_are_refused() -> None:
    with pytest.raises(TokenizerError, match="must be above 259"):
        TextTokenizer.train(TEXTS, 259)
    with pytest.raises(TokenizerError, match="give more text"):
        TextTokenizer.train(["ab"], 300)
    assert TextTokenizer.train(["aba ababa"], 10_000).vocab_size < 300  # no more merges than there are


@pytest.mark.parametrize("vocab_size", [-1, 0, MOST_VOCABULARY + 1, 1_000_000_000, 1 << 70])
def test_a_vocabulary_that_the_trainer_would_abort_on_is_refused(vocab_size: int) -> None:
    with pytest.raises(TokenizerError, match=rf"at most 1,048,576, not {vocab_size:,}"):
        TextTokenizer.train(TEXTS, vocab_size)


def test_a_piece_of_any_length_is_learnt_from_in_linear_time() -> None:
    """Merges of a word of 400,000 letters took 200 s: time grew with the square of its length."""
    for run in ("x", "xy", "é", " ", "\n", "!"):
        word = run * (400_000 // len(run))
        started = time.process_time()
        trained = TextTokenizer.train([*TEXTS, word], VOCAB)
        assert time.process_time() - started < 30
        assert trained.decode(trained.encode(word)) == word
        assert len(trained.encode(word)) < len(word.encode()) / 2, "it has learnt from the word"


def test_a_long_piece_changes_nothing_in_ordinary_text(tokenizer: TextTokenizer) -> None:
    """Up to the length that is stated, training is that of the plain pre-tokenizer, and ids are of whole pieces."""
    plain = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    texts = [*TEXTS, "y" * LONGEST_TAUGHT, "-" * LONGEST_TAUGHT]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB,
        min_frequency=2,
        special_tokens=list(Markup().strings),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator(texts, trainer)
    plain.encode_special_tokens = True
    trained = TextTokenizer.train(texts, VOCAB)
    for text in (*texts, "word" * LONGEST_TAUGHT, "\n " * LONGEST_TAUGHT, " " * (3 * LONGEST_TAUGHT) + "x"):
        assert trained.encode(text) == plain.encode(text, add_special_tokens=False).ids


def test_a_missing_or_damaged_file_is_named(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"markup\.json is missing: build the data again"):
        TextTokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / TOKENIZER_FILE).write_text("{}")
    with pytest.raises(TokenizerError, match="has no usable tokenizer"):
        TextTokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / MARKUP_FILE).write_text(json.dumps({"begin": "x"}))
    with pytest.raises(TokenizerError, match="has no usable tokenizer"):
        TextTokenizer.load(tmp_path)
    (tmp_path / TOKENIZER_FILE).write_bytes(b'{"model": "\xff"}')
    with pytest.raises(
        TokenizerError, match=r"/tokenizer\.json is not UTF-8 text: byte 0xff at offset 11 .*build"
    ):
        TextTokenizer.load(tmp_path, Markup())
    (tmp_path / TOKENIZER_FILE).unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        TextTokenizer.load(tmp_path, Markup())


def test_a_tokenizer_without_special_tokens_is_refused() -> None:
    with pytest.raises(TokenizerError, match="which has none: give its own markup"):
        TextTokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))
