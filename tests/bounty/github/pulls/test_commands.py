"""Commands in comments: which lines are some, and what each asks for. Pure."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bounty.github.pulls.commands import MAX_COMMANDS, MAX_TEXT, Name, NotACommand, commands_in, read
from bounty.github.pulls.naming import named_in
from bounty.github.pulls.plain_lines import plain_lines


def texts(body: str) -> list[str]:
    return [asked.text for asked in commands_in(body)]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("/judge", ["/judge"]),
        ("/judge B12 ", ["/judge B12 "]),
        ("Thanks!\n/judge\nbye", ["/judge"]),
        ("a\r\n/judge\r\n/status", ["/judge", "/status"]),
        ("a\r/judge", ["/judge"]),
        ("", []),
        ("please /judge", []),
        (" /judge", []),
        ("    /judge", []),
        ("\t/judge", []),
        ("- /judge", []),
        ("//judge", []),
        ("/usr/bin/python", []),
        ("/", []),
        ("/JUDGE", []),
        ("\\/judge", []),
        ("\u202e/judge", []),
        ("\u2028/judge", []),
        ("a\u2028/judge", []),
        ("a\x0b/judge", []),
        ("> /judge", []),
        (" > /judge", []),
        ("> quoted\n/judge", []),  # Markdown shows it as a part of the quote
        ("> quoted\n\n/judge", ["/judge"]),
        (">\n/judge", []),
        ("```\n/judge\n```", []),
        ("```\n/judge\n```\n/status", ["/status"]),
        ("~~~\n/judge\n```\n/status", []),
        ("````\n```\n/judge\n````", []),
        ("```py\n/judge", []),
        ("``` a`b\n/judge\n```", ["/judge"]),  # no fence has a backtick in its first line
        ("  ```\n/judge\n  ```", []),
        ("    ```\n/judge", ["/judge"]),
        ("- ```\n/judge", ["/judge"]),
        ("`/judge`", []),
        ("`\n/judge\n`", []),
        ("``\n/judge\n`\n``", []),
        ("`\n\n/judge\n\n`", ["/judge"]),  # code does not go on over a blank line
        ("one ` tick\n/judge", ["/judge"]),
        ("<!--\n/judge\n-->", []),
        ("<!-- x -->\n/judge", ["/judge"]),
        ("<!--\n/judge", []),
        ("<pre>\n/judge\n</pre>\n/status", ["/status"]),
        ("<DETAILS>\n\n/judge\n\n</DETAILS>", []),
        ("<blockquote>\n/judge", []),
        ("On Monday, Pam <pam@example.org> wrote:\n/judge", []),
        ("/judge\n\nOn Mon, 1 Jan 2026 at 10:00, Pam wrote:\n\n> hello", []),
        ("/judge\n\n-----Original Message-----\nhello", []),
    ],
)
def test_only_the_authors_own_lines_are_commands(body: str, found: list[str]) -> None:
    assert texts(body) == found


def test_each_command_has_its_line() -> None:
    assert [(asked.line, asked.text) for asked in commands_in("a\n/judge\n\n/status")] == [
        (2, "/judge"),
        (4, "/status"),
    ]


def test_a_text_goes_on_to_the_next_command() -> None:
    body = "/dispute The noise\nwas high:\n```\n/judge\n```\n/status"
    assert texts(body) == ["/dispute The noise\nwas high:\n```\n/judge\n```", "/status"]
    assert read(texts(body)[0]).words == ("The noise\nwas high:\n```\n/judge\n```",)


def test_a_comment_has_a_bounded_number_of_commands_and_one_that_is_not_known() -> None:
    assert len(texts("/status\n" * 100)) == MAX_COMMANDS
    assert texts("/lgtm\n/retest\n/status") == ["/lgtm", "/status"]


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("/judge", Name.JUDGE, ()),
        ("/judge  b12", Name.JUDGE, ("b12",)),
        ("/cancel", Name.CANCEL, ()),
        ("/bounty", Name.BOUNTY, ()),
        ("/bounty open moe_forward 20 100.5", Name.OPEN, ("moe_forward", "20", "100.5")),
        ("/status", Name.STATUS, ()),
        ("/dispute it is wrong ", Name.DISPUTE, ("it is wrong",)),
        ("/fund 5", Name.FUND, ("5",)),
        ("/fund B3 5", Name.FUND, ("B3", "5")),
        ("/accept", Name.ACCEPT, ()),
        ("/accept a.py b/c.py", Name.ACCEPT, ("a.py", "b/c.py")),
        ("/decline not readable", Name.DECLINE, ("not readable",)),
        ("/rejudge", Name.REJUDGE, ()),
    ],
)
def test_commands_are_understood(text: str, name: Name, words: tuple[str, ...]) -> None:
    order = read(text)
    assert (order.name, order.words) == (name, words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/judge now", "Write /judge, or /judge B12"),
        ("/judge B1 B2", "Write /judge"),
        ("/judge B0", "Write /judge"),
        ("/bounty close", "Write /bounty"),
        ("/bounty open moe_forward", "Write /bounty open SUITE RATE ESCROW"),
        ("/fund", "Write /fund CREDITS"),
        ("/fund 3 5", "Write /fund CREDITS"),
        ("/dispute", "Write /dispute TEXT"),
        ("/decline   ", "Write /decline TEXT"),
        ("/frobnicate", "/frobnicate is no command here. Commands: /judge"),
        ("/rejudge now", "Write /rejudge"),
        ("/dispute " + "x" * MAX_TEXT, "at most"),
    ],
)
def test_what_is_not_understood_gets_one_line_of_help(text: str, said: str) -> None:
    with pytest.raises(NotACommand) as refused:
        read(text[:MAX_TEXT])
    assert said in str(refused.value) and "\n" not in str(refused.value)


PARTS = "/judge|/accept x|/dispute t|`|``|```|~~~|> |    |\t| |\n|\r\n|\r|<!--|-->|<pre>|</pre>|a|\u2028|\0|- |1. |/|B12|\u202e|# "
PIECES = st.lists(st.sampled_from(PARTS.split("|")), max_size=40).map("".join)


@settings(max_examples=500, deadline=None)
@given(st.one_of(PIECES, st.text(max_size=300)))
def test_whatever_a_comment_holds_its_commands_can_be_read_or_refused(body: str) -> None:
    for asked in commands_in(body):
        assert asked.text.startswith("/") and asked.line >= 1 and len(asked.text) <= MAX_TEXT
        try:
            read(asked.text)
        except NotACommand as error:
            assert "\n" not in str(error)


@settings(max_examples=500, deadline=None)
@given(PIECES)
def test_no_command_is_read_from_inside_a_quote_or_a_fence(body: str) -> None:
    quoted = "\n".join("> " + line for line in re.split(r"\r\n|\n|\r", body))
    assert commands_in(quoted) == []
    fenced = "`````````\n" + body.replace("`" * 9, "") + "\n"
    if "```````" not in body:
        assert commands_in(fenced) == []
    assert commands_in("\n".join("    " + line for line in re.split(r"\r\n|\n|\r", body))) == []


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200), PIECES)
def test_what_stands_before_can_only_hide_a_command_and_never_make_one(before: str, body: str) -> None:
    """A line is a command only if it begins with a slash in the text itself."""
    whole = before + "\n" + body
    lines = re.split(r"\r\n|\n|\r", whole)
    for line in plain_lines(whole):
        assert lines[line.number - 1] == line.text
    for asked in commands_in(whole):
        assert lines[asked.line - 1].startswith("/")


def test_a_long_comment_of_backticks_is_read_in_linear_time() -> None:
    assert commands_in("`a ``b " * 9000 + "\n/judge") in ([], commands_in("\n/judge"))
    assert commands_in("<!--" * 16_000 + "\n/judge") == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Gainshare-Bounty: B12", "B12"),
        ("x\n\ngainshare-bounty:b12\n", "B12"),
        ("Gainshare-Bounty: B12\nGainshare-Bounty: b12", "B12"),
        ("Gainshare-Bounty: B12\nGainshare-Bounty: B13", "B12 B13"),
        ("Gainshare-Bounty: 12", "12"),
        ("> Gainshare-Bounty: B12", ""),
        ("```\nGainshare-Bounty: B12\n```", ""),
        ("<!-- Gainshare-Bounty: B12 -->", ""),
        ("see Gainshare-Bounty: B12", ""),
        ("Gainshare-Bounty: B12 please", ""),
        ("", ""),
    ],
)
def test_a_text_names_a_bounty_by_a_line_of_its_own(text: str, named: str) -> None:
    assert named_in(text) == named
