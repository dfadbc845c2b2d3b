"""Cleans text that a sample wrote. Everything of it that reaches evidence, a log, the database, a page or a terminal comes through here."""

import unicodedata

from benchmarks.patch.hidden_text import hidden_character

CUT = "[...]"


def readable(text: str, *, most: int | None = None) -> str:
    """`text` with everything that does not show itself as a visible escape, and at most `most` characters of its end.

    Escaped are controls, direction marks and other formats, surrogates, private and unassigned characters, separators of
    lines, letters without a shape and selectors of variations. Line ends and tabs stay. The result can be stored as UTF-8,
    moves no terminal's cursor, and reads in the order in which it is written.
    """
    if most is not None and len(text) > most:
        text = text[-most:]  # an escape is longer than what it stands for, so the result is cut again
    shown = "".join(letter if _shows_itself(letter) else _escape(letter) for letter in text)
    return shown if most is None or len(shown) <= most else CUT + shown[len(CUT) - most :]


def _shows_itself(letter: str) -> bool:
    if letter in "\n\t" or " " <= letter <= "~":
        return True
    return letter != "\r" and unicodedata.category(letter) != "Cn" and not hidden_character(letter)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
