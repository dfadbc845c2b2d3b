"""Characters that a reviewer cannot see are refused in what a patch adds."""

import ast
import sys
import unicodedata
from pathlib import Path

import pytest

from benchmarks.patch.hidden_text import hidden_character
from benchmarks.patch.patches import parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, load_policy

MODEL = Path(__file__).parents[3] / "model"


def adding(line: str) -> str:
    head = "diff --git a/model/x.py b/model/x.py\nnew file mode 100644\n--- /dev/null\n+++ b/model/x.py\n"
    return f"{head}@@ -0,0 +1,2 @@\n+x = 1\n+{line}\n"


@pytest.mark.parametrize(
    ("letter", "name"),
    [
        ("\u202e", "U+202E"),  # right-to-left override
        ("\u2066", "U+2066"),  # isolate
        ("\u200b", "U+200B"),  # zero-width space
        ("\u200d", "U+200D"),
        ("\ufeff", "U+FEFF"),
        ("\u00ad", "U+00AD"),  # soft hyphen
        ("\x1b", "U+001B"),
        ("\x08", "U+0008"),
        ("\x0c", "U+000C"),
        ("\u2028", "U+2028"),
        ("\u3164", "U+3164"),  # a letter without a shape: a name that looks like nothing
        ("\ufe0f", "U+FE0F"),
        ("\U000e0041", "U+E0041"),  # tags
        ("\ue000", "U+E000"),
        ("\r", "U+000D"),  # hides the line before it on a terminal
    ],
)
def test_a_patch_that_adds_a_hidden_character_is_refused_by_its_name(letter: str, name: str) -> None:
    assert hidden_character(f"a{letter}b") == name
    with pytest.raises(
        PolicyViolation, match=rf"added line 2 has the hidden character {name.replace('+', chr(92) + '+')}"
    ) as refusal:
        check_patch(load_policy(), parse_patch(adding(f"y = 'a{letter}b'")))
    assert refusal.value.code == "hidden_character"
    assert ast.literal_eval(f"'{refusal.value.message.rpartition(' ')[2].rstrip('.')}'") == letter


def test_the_first_hidden_character_is_named() -> None:
    assert hidden_character("a\u202eb\x00") == "U+202E"


@pytest.mark.parametrize("text", ["", "x = 1", "\tx\n", "x\r\n", "ä é ß 漢字 Ω ∑ → 😀 ﬁ", "a\u0301"])
def test_what_shows_itself_is_allowed(text: str) -> None:
    assert hidden_character(text) == ""


def test_every_bidi_control_is_hidden() -> None:
    controls = [
        chr(code) for code in range(sys.maxunicode + 1) if unicodedata.bidirectional(chr(code)) in _CONTROLS
    ]
    assert len(controls) >= 9 and all(hidden_character(letter) for letter in controls)


_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_the_shipped_stack_has_none() -> None:
    files = [path for path in MODEL.rglob("*") if path.suffix in (".py", ".h", ".cpp")]
    assert len(files) > 300
    assert not [path for path in files if hidden_character(path.read_text())]
