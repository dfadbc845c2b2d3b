"""Characters that a reviewer cannot see, or that change the order in which the others are shown.

Source that looks harmless on a page may read differently to Python: see Boucher & Anderson 2021, "Trojan Source"
(arXiv:2111.00169).
"""

import re
import unicodedata

_CATEGORIES = frozenset(
    {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
)  # controls, formats (bidi among them), private use
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters and marks without a shape
_LONE_RETURN = re.compile(r"\r(?!\n|$)")


def hidden_character(text: str) -> str:
    """The first hidden character as `U+202E`; empty where there is none. Tabs and ends of lines are not hidden."""
    for letter in text:
        if letter in "\t\n\r":
            continue
        if unicodedata.category(letter) in _CATEGORIES or letter in _BLANK or _is_selector(letter):
            return f"U+{ord(letter):04X}"
    return "U+000D" if _LONE_RETURN.search(text) else ""


def escaped(name: str) -> str:
    """How sources write the character of that name, as `U+202E`, so that a reviewer sees it: `\\u202e`."""
    code = int(name.removeprefix("U+"), 16)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _is_selector(letter: str) -> bool:
    """Whether it selects a variation of the letter before, and shows nothing itself."""
    return "\ufe00" <= letter <= "\ufe0f" or "\U000e0100" <= letter <= "\U000e01ef"
