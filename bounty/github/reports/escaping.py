"""Writes what people wrote into our Markdown as plain text: no markup, mention, link, reference or hidden character.

GitHub looks for mentions, references and addresses in the rendered text, so escaping the Markdown is not enough: a
zero-width space after `@`, `#` and `:` takes their meaning away. Addresses of this site stay links.
"""

import re
from collections.abc import Callable

from django.conf import settings

from benchmarks.sandbox.readable import readable

BREAK = "&#8203;"  # a zero-width space, as an entity so that a reader of the source sees it
CUT = "…"
MOST = 2000  # characters of one text
MOST_ON_ONE_LETTER = 3  # combining marks; more of them would run over the neighbouring lines

_MARKUP = re.compile(r"[\\`*_{}\[\]<>|~&\"'!^=]")
_AT_THE_START = re.compile(r"^(\d*)([-+.)])")
_MARK = r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_STACKED = re.compile(f"({_MARK}{{{MOST_ON_ONE_LETTER}}}){_MARK}+")
_ISSUE = re.compile(r"(?i)\bgh(?=-\d)")
_WWW = re.compile(r"(?i)\bwww(?=\.)")


def prose(text: str, *, most: int = MOST) -> str:
    """One paragraph of Markdown that shows `text` as it was written; its line ends become breaks."""
    lines = _lines(text, most)
    return "<br>\n".join(_with_own_links(line, _plain) for line in lines)


def line(text: str, *, most: int = MOST) -> str:
    """Like `prose`, on one line."""
    return _with_own_links(" ".join(_lines(text, most)), _plain)


def code(text: str, *, most: int = 200) -> str:
    """A code span on one line: for names, commands, paths and digests."""
    shown = " ".join(_lines(text, most)).strip() or "(empty)"
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def title(text: str, *, most: int = 255) -> str:
    """One line for a place that GitHub shows as plain text."""
    return _cut(" ".join(_lines(text, most)), most)


def _lines(text: str, most: int) -> list[str]:
    """The lines that are not empty, cleaned, at most `most` characters in all."""
    shown = readable(_cut(text.replace("\r\n", "\n").replace("\t", " "), most))
    shown = _STACKED.sub(r"\1", shown)
    return [" ".join(one.split()) for one in _cut(shown, most).split("\n") if one.strip()]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - len(CUT)] + CUT


def _with_own_links(text: str, plain: Callable[[str], str]) -> str:
    """`text` through `plain`, but for addresses of this site, which become links."""
    own = re.compile(re.escape(settings.PUBLIC_URL.rstrip("/")) + r"/[A-Za-z0-9/_-]*(?![^\s.,;:)])")
    parts, done = [], 0
    for found in own.finditer(text):
        parts += [plain(text[done : found.start()]), f"<{found[0]}>"]
        done = found.end()
    return _at_the_start("".join([*parts, plain(text[done:])]))


def _at_the_start(text: str) -> str:
    """`text` without what would begin a list, a heading or a rule."""
    return _AT_THE_START.sub(lambda found: f"{found[1]}&#{ord(found[2])};", text)


def _plain(text: str) -> str:
    text = _MARKUP.sub(lambda found: f"&#{ord(found[0])};", text)
    text = re.sub(r"(?<!&)#", f"#{BREAK}", text)
    text = text.replace("@", f"@{BREAK}").replace("$", "<span>&#36;</span>")
    text = re.sub(r":(?=\S)", f":{BREAK}", text)
    return _WWW.sub(lambda found: found[0] + BREAK, _ISSUE.sub(lambda found: found[0] + BREAK, text))
