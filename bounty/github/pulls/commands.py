"""Commands in a comment: a line that begins with `/`, and what it asks for. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum

from bounty.bounty_numbers import NUMBER
from bounty.github.pulls.plain_lines import LINE_END, Line, plain_lines

MAX_COMMANDS = 10  # of one comment; the rest is left out
MAX_TEXT = 2000
COMMAND = re.compile(r"/(?P<name>[a-z][a-z-]{0,29})(?:[ \t]+(?P<rest>.*))?[ \t]*")
#: A reply by mail quotes what it answers without marks that could be relied on, so nothing in it is a command.
MAIL = re.compile(
    r"On .{1,300} wrote:|-{2,} ?Original Message ?-{2,}|_{20,}|(?:From|Von|De): .*@.*|Reply to this email directly.*|"
    r"You are receiving this because .*"
)
HELP = (
    "Commands: /judge [B12], /cancel, /bounty, /status, /dispute TEXT; for maintainers /bounty open SUITE RATE ESCROW, "
    "/fund [B12] CREDITS, /accept [PATH ...], /decline TEXT, /rejudge."
)


class Name(StrEnum):
    """What a command asks for."""

    JUDGE = "judge"
    CANCEL = "cancel"
    BOUNTY = "bounty"
    OPEN = "bounty open"
    STATUS = "status"
    DISPUTE = "dispute"
    FUND = "fund"
    ACCEPT = "accept"
    DECLINE = "decline"
    REJUDGE = "rejudge"


USAGE = {
    Name.JUDGE: "/judge, or /judge B12 to name the bounty",
    Name.CANCEL: "/cancel",
    Name.BOUNTY: "/bounty",
    Name.OPEN: "/bounty open SUITE RATE ESCROW, both in credits, such as /bounty open moe_forward 20 100",
    Name.STATUS: "/status",
    Name.DISPUTE: "/dispute TEXT, where TEXT says what is wrong with the verdict",
    Name.FUND: "/fund CREDITS, or /fund B12 CREDITS",
    Name.ACCEPT: "/accept, or /accept PATH ... with every file that nobody measured",
    Name.DECLINE: "/decline TEXT, where TEXT says why",
    Name.REJUDGE: "/rejudge",
}
WITH_TEXT = frozenset({Name.DISPUTE, Name.DECLINE})  # their text goes on to the next command


@dataclass(frozen=True, slots=True)
class Asked:
    """One command as it is kept: its line in the comment, and its text from `/` on."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Order:
    """A command that was understood. `words` are its arguments; one text for a dispute or a refusal."""

    name: Name
    words: tuple[str, ...] = ()


class NotACommand(ValueError):
    """A line that begins like a command and is none. The message says in one line what to write."""


def commands_in(body: str) -> list[Asked]:
    """The commands of a comment, at most MAX_COMMANDS. Of those that no one knows only the first, to be answered once."""
    if any(MAIL.fullmatch(line.strip()) for line in LINE_END.split(body)):
        return []
    found = [line for line in plain_lines(body) if COMMAND.fullmatch(line.text)]
    asked, is_unknown = [], False
    for index, line in enumerate(found):
        end = found[index + 1].number if index + 1 < len(found) else None
        known = _name_of(line.text)
        if known is None:
            if not is_unknown:
                asked.append(Asked(line.number, line.text[:MAX_TEXT]))
            is_unknown = True
            continue
        asked.append(
            Asked(line.number, _whole(body, line, end) if known in WITH_TEXT else line.text[:MAX_TEXT])
        )
    return asked[:MAX_COMMANDS]


def read(text: str) -> Order:
    """What a kept command asks for. Raises NotACommand with one line of help."""
    found = COMMAND.fullmatch(LINE_END.split(text)[0])
    name = _name_of(text)
    if found is None or name is None:
        raise NotACommand(f"{text.split()[0][:40] if text.split() else text} is no command here. {HELP}")
    rest = (text[found.end("name") :]).strip()
    if name in WITH_TEXT:
        if not rest or len(text) >= MAX_TEXT:
            raise NotACommand(f"Write {USAGE[name]}, with at most {MAX_TEXT - 100} characters.")
        return Order(name, (rest,))
    words = tuple(rest.split())
    if name is Name.OPEN:
        words = words[1:]
    if not _fits(name, words) or len(text) >= MAX_TEXT:
        raise NotACommand(f"Write {USAGE[name]}.")
    return Order(name, words)


def _name_of(text: str) -> Name | None:
    found = COMMAND.fullmatch(LINE_END.split(text)[0])
    if found is None:
        return None
    rest = (found["rest"] or "").split()
    if found["name"] == Name.BOUNTY and rest[:1] == ["open"]:
        return Name.OPEN
    try:
        return Name(found["name"])
    except ValueError:
        return None


def _fits(name: Name, words: tuple[str, ...]) -> bool:
    """Whether the command has as many arguments as it takes, and bounties' numbers where it takes them."""
    if name is Name.JUDGE:
        return len(words) <= 1 and all(map(NUMBER.fullmatch, words))
    if name is Name.OPEN:
        return len(words) == 3
    if name is Name.FUND:
        return len(words) == 1 or (len(words) == 2 and NUMBER.fullmatch(words[0]) is not None)
    return name is Name.ACCEPT or not words


def _whole(body: str, line: Line, end: int | None) -> str:
    """The command's line and what follows it, up to the line of the next command."""
    lines = LINE_END.split(body)
    return "\n".join(lines[line.number - 1 : None if end is None else end - 1]).strip()[:MAX_TEXT]
