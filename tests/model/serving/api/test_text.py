"""Text comes out in whole characters, without stop strings, and nothing is lost on the way."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from model.serving.api.text import TextStream
from model.serving.api.tokenizer import BPETokenizer, ByteTokenizer, byte_alphabet


def pieces(data: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(ByteTokenizer().token_bytes, stop)
    out = [stream.push(byte) for byte in data]
    return [*out, stream.finish()], stream.is_stopped


@given(st.text())
def test_any_text_survives_byte_by_byte(text: str) -> None:
    data = text.encode("utf-8", errors="replace")
    out, _ = pieces(data)
    assert "".join(out) == data.decode()
    assert all("\ufffd" not in piece for piece in out) or "\ufffd" in text


def test_characters_appear_only_when_they_are_whole() -> None:
    out, _ = pieces("é🎉x".encode())
    assert out == ["", "é", "", "", "", "🎉", "x", ""]


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    assert pieces("ok🎉".encode()[:-1]) == (["o", "k", "", "", "", ""], False)


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert "".join(pieces(b"a\xff\xfeb")[0]) == "a\ufffd\ufffdb"


def test_a_stop_string_ends_the_text_before_itself() -> None:
    out, stopped = pieces(b"one STOP two", ("STOP",))
    assert ("".join(out), stopped) == ("one ", True)


def test_what_may_become_a_stop_string_is_held_back_until_it_does_not() -> None:
    out, stopped = pieces(b"a\n\nb\n", ("\n\nQ", "END"))
    assert out == ["a", "", "", "\n\nb", "", "\n"]
    assert not stopped


def test_a_stop_string_that_begins_before_it_may_is_text() -> None:
    stream = TextStream(ByteTokenizer().token_bytes, ("STOP",))
    text = b"STOPSTOP STOP"
    out = [stream.push(byte, may_stop=i > 5) for i, byte in enumerate(text)]
    assert ("".join(out), stream.is_stopped) == ("STOPSTOP ", True)


def test_the_earliest_of_several_stop_strings_wins() -> None:
    stream = TextStream(lambda _: b"x-- y##", ("##", "--"))
    assert stream.push(0) == "x" and stream.is_stopped
    assert stream.push(0) == stream.finish() == ""


@given(st.text("ab", max_size=40), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stopping_equals_cutting_the_whole_text(text: str, stop: list[str]) -> None:
    """Emitted piece by piece, the text is what cutting at the first moment a stop string is complete gives."""
    out, stopped = pieces(text.encode(), tuple(stop))
    cuts = [text[:end] for end in range(1, len(text) + 1) if any(s in text[:end] for s in stop)]
    assert stopped == bool(cuts)
    expected = cuts[0][: min(cuts[0].find(s) for s in stop if s in cuts[0])] if cuts else text
    assert "".join(out) == expected


def test_special_tokens_are_no_text_and_can_be_spelt_out() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("<|user|>hé<|eos|>") == [259, 104, 195, 169, 257]
    assert tokenizer.token_bytes(259) == b""
    assert tokenizer.stop_tokens == {257}


def test_added_tokens_are_text_unless_they_are_special_or_end_an_answer(tmp_path: Path) -> None:
    """GPT-NeoX's tokenizer, which OLMoE has, adds runs of spaces so, and Qwen3's adds `<think>`."""
    vocabulary = {character: i for i, character in enumerate(byte_alphabet())}
    written = tokenizers.Tokenizer(BPE(vocab=vocabulary, merges=[]))
    written.pre_tokenizer = ByteLevel(add_prefix_space=False)
    written.add_special_tokens(["<|im_start|>"])
    written.add_tokens(["    ", "<think>", "né", "<stop>"])
    written.save(str(tmp_path / "tokenizer.json"))
    tokenizer = BPETokenizer(tmp_path / "tokenizer.json", [260])
    ids = tokenizer.encode("<|im_start|>if:\n    <think>né ü<stop>")
    assert [token for token in ids if token > 255] == [256, 257, 258, 259, 260]
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == "if:\n    <think>né ü"


def test_byte_alphabet_is_one_printable_character_per_byte() -> None:
    alphabet = byte_alphabet()
    assert len(set(alphabet)) == 256 and all(character.isprintable() for character in alphabet)
    assert (alphabet[ord("a")], alphabet[ord(" ")], alphabet[ord("\n")]) == ("a", "Ġ", "Ċ")


def test_other_threads_go_on_while_a_long_text_is_encoded(tmp_path: Path) -> None:
    vocab = {character: i for i, character in enumerate(byte_alphabet())}
    merges = [("1" * n, "1" * n) for n in (1, 2, 4, 8)]
    vocab |= {first + second: 256 + i for i, (first, second) in enumerate(merges)}
    model = tokenizers.Tokenizer(BPE(vocab, merges))
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = BPETokenizer(tmp_path / "tokenizer.json", ())
    counted: list[int] = []
    encoding = threading.Thread(target=lambda: counted.append(len(tokenizer.encode("1" * 800_000))))
    encoding.start()
    n_turns = 0
    while not counted:
        time.sleep(0.001)
        n_turns += 1
    encoding.join()
    assert counted == [50_000] and n_turns > 20, "a few turns at most if it keeps the lock"


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_never_break_the_stream(seed: int) -> None:
    data = random.Random(seed).randbytes(2000)
    assert "".join(pieces(data)[0]).encode()  # every piece can be written as UTF-8
