"""The lines of a Markdown text that are its author's own words: outside of quotes, code, comments and HTML. Pure.

Only lines that begin in the first column count, since what is indented may be code. Where CommonMark's rules and this
reading could differ, a line is left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

LINE_END = re.compile(r"\r\n|\n|\r")  # Markdown has no others
FENCE = re.compile(r" {0,3}(?P<marks>`{3,}|~{3,})(?P<info>.*)")
QUOTE = re.compile(r" {0,3}>")
TICKS = re.compile(r"`+")
#: HTML whose content is not plain text: from its start to its end, or to the end of the text.
HIDDEN = re.compile(
    r"<!--(?:.*?-->|.*)|<(?P<tag>pre|code|blockquote|details|script|style|textarea|template|title|svg|table)\b(?:.*?</(?P=tag)\s*>|.*)",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line and its number in the text, from 1."""

    number: int
    text: str


def plain_lines(text: str) -> list[Line]:
    """The author's own lines, in order. Those in between that are left out end a paragraph."""
    lines = LINE_END.split(text)
    hidden = _in_html(lines)
    found: list[Line] = []
    for paragraph in _paragraphs(lines, hidden):
        found += _outside_code(paragraph)
    return found


def _in_html(lines: list[str]) -> set[int]:
    """The numbers of lines that HTML hides, or a part of which it hides."""
    numbers: set[int] = set()
    for match in HIDDEN.finditer(whole := "\n".join(lines)):
        first = whole.count("\n", 0, match.start()) + 1
        numbers.update(range(first, first + match[0].count("\n") + 1))
    return numbers


def _paragraphs(lines: list[str], hidden: set[int]) -> Iterator[list[Line]]:
    """Runs of lines without a blank one in between, outside of fences and quotes."""
    run: list[Line] = []
    fence, is_quote = "", False
    for number, text in enumerate(lines, start=1):
        found = FENCE.fullmatch(text)
        if fence:
            if found and found["marks"].startswith(fence) and not found["info"].strip():
                fence = ""
            continue
        if not text.strip(" \t"):
            is_quote = False
        elif QUOTE.match(text):
            is_quote = True  # with the lines after it: a quote's paragraph goes on without its mark
        opens = found is not None and not (found["marks"][0] == "`" and "`" in found["info"])
        if found is not None and opens:
            fence, is_quote = found["marks"], False
        if opens or is_quote or number in hidden or not text.strip(" \t"):
            yield run
            run = []
        else:
            run.append(Line(number, text))
    yield run


def _outside_code(paragraph: list[Line]) -> list[Line]:
    """The lines of a paragraph that begin in the first column and outside of inline code."""
    text = "\n".join(line.text for line in paragraph)
    spans = _code_spans(text)
    found, at = [], 0
    for line in paragraph:
        is_code = any(start < at < end for start, end in spans)
        if not is_code and line.text[:1] not in (" ", "\t"):
            found.append(line)
        at += len(line.text) + 1
    return found


def _code_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each code span: from a run of backticks to the next run of the same length."""
    runs = [(found.start(), found.end()) for found in TICKS.finditer(text)]
    closing: dict[int, list[int]] = {}
    for index in reversed(range(len(runs))):
        closing.setdefault(runs[index][1] - runs[index][0], []).append(index)
    spans, index = [], 0
    while index < len(runs):
        later = closing[runs[index][1] - runs[index][0]]
        while later and later[-1] <= index:
            later.pop()
        if later:
            spans.append((runs[index][0], runs[later[-1]][1]))
            index = later[-1]
        index += 1
    return spans
