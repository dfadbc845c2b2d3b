"""What people wrote is text in our Markdown: it is rendered as it was written and has no other effect."""

import html
import re
from collections.abc import Iterator

import pytest
from django.test import override_settings
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pytest_django import Settings

from benchmarks.patch.hidden_text import hidden_character
from bounty.github.reports.escaping import code, line, prose, title

SITE = "https://gains.example"
ZERO_WIDTH_SPACE = "\u200b"
GFM = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PIECES = st.sampled_from(
    [
        "@octocat", "@org/team", "#34", "GH-34", "fixes #34", "Closes: #1", "owner/repo#3", "owner/repo@deadbeef",
        "https://evil.example/x", "www.evil.example", "http://", "mailto:a@b.example", "a@b.example", "xmpp:a@b.c",
        "![x](https://evil.example/x.png)", "[click](javascript:alert(1))", "[a]: http://evil.example", "<b>", "</details>",
        "<details open>", "<!-- gainshare:pull-request:1 -->", "<script>alert(1)</script>", "<img src=x onerror=y>",
        "# ", "## x", "> quote", "- item", "* item", "+ item", "1. item", "12) item", "---", "===", "***", "```", "~~~",
        "``", "`", "|a|b|", "\n|-|-|\n", "\n", "\n\n", "\r\n", "    code", "\t", "&amp;", "&#64;", "&lt;b&gt;", "\\", "\\@",
        "$x$", "$$", ":tada:", "[^1]", "[ ]", "[!NOTE]", "~~gone~~", "\u202e", "\u2066", "\u200b", "\ufeff", "\u00ad",
        "\x00", "\x1b[31m", "\u2028", "e\u0301\u0301\u0301\u0301\u0301\u0301", "é", "用户", "🎉", " ", "word", ".", "/judge",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join)


@pytest.fixture(autouse=True, scope="module")
def site() -> Iterator[None]:
    with override_settings(PUBLIC_URL=SITE):
        yield


def flat(tokens: list[Token]) -> list[Token]:
    return [inner for token in tokens for inner in [token, *flat(token.children or [])]]


def shown(markdown: str) -> str:
    """The text that a reader sees, with what GitHub looks through for mentions and references."""
    return html.unescape(re.sub(r"<[^>]*>", "", GFM.render(markdown)))


PLAIN = {"paragraph_open", "paragraph_close", "inline", "text", "text_special", "softbreak"}
MARKS = {"<br>", "<span>", "</span>"}


@given(TEXTS)
@example("@octocat fixes #34, see https://evil.example and www.evil.example or GH-3")
@example("</details>\n<!-- gainshare:pull-request:1 -->\n# Heading")
@example("1. one\n2) two\n- three\n===\n---")
@example("$`x`$ :tada: a@b.example")
def test_nothing_that_people_wrote_is_markup(text: str) -> None:
    markdown = prose(text)
    for token in flat(GFM.parse(markdown)):
        assert token.type in PLAIN or (token.type == "html_inline" and token.content in MARKS), token
    assert_without_effect(shown(markdown))


def assert_without_effect(seen: str) -> None:
    assert not re.search(r"@[\w-]", seen)
    assert not re.search(r"#\d", seen)
    assert not re.search(r"(?i)\bgh-\d", seen)
    assert not re.search(r"(?i)\b(https?|ftp):/|\bwww\.|mailto:[!-~]|xmpp:[!-~]", seen)
    assert not re.search(r":\w+:", seen)
    assert hidden_character(seen.replace(ZERO_WIDTH_SPACE, "")) == ""


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200))
def test_a_reader_sees_what_was_written(text: str) -> None:
    assert shown(prose(text)).strip().replace(ZERO_WIDTH_SPACE, "") == text


@given(TEXTS)
def test_a_code_span_is_one_span_and_nothing_else(text: str) -> None:
    inline = [token for token in flat(GFM.parse(f"by {code(text)}, then")) if token.type != "inline"]
    assert [token.type for token in inline] == [
        "paragraph_open", "text", "code_inline", "text", "paragraph_close",
    ]  # fmt: skip
    assert hidden_character(inline[2].content) == ""


@given(TEXTS)
def test_a_line_stays_on_its_line_in_a_list(text: str) -> None:
    tokens = flat(GFM.parse(f"- first {line(text)}\n- second"))
    assert [token.type for token in tokens].count("list_item_open") == 2
    assert "\n" not in line(text) and "\n" not in title(text)


@given(st.text(min_size=3000, max_size=4000))
def test_a_long_text_is_cut(text: str) -> None:
    assert len(shown(prose(text, most=100)).replace(ZERO_WIDTH_SPACE, "")) <= 101
    assert len(title(text)) <= 255


def test_letters_do_not_stack_over_other_lines() -> None:
    assert shown(prose("e" + "\u0301" * 500)).count("\u0301") == 3


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (f"See {SITE}/bounties/1/.", f"{SITE}/bounties/1/"),
        (f"{SITE}/submissions/ab-c/", f"{SITE}/submissions/ab-c/"),
    ],
)
def test_addresses_of_this_site_stay_links(text: str, target: str, settings: Settings) -> None:
    assert f'href="{target}"' in GFM.render(prose(text))


@pytest.mark.parametrize(
    "text",
    [f"{SITE}.evil.example/", f"{SITE}@evil.example/", f"{SITE}/?next=//evil.example", f"{SITE}", f"{SITE}/a)[b](c"],
)  # fmt: skip
def test_only_whole_addresses_of_this_site_are_links(text: str) -> None:
    assert "evil" not in "".join(re.findall(r'href="([^"]*)"', GFM.render(prose(text))))
