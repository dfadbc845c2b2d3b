"""The folded parts of a pull request's comment: answers to commands, and its history. The newest entries stay."""

from datetime import UTC, datetime

from bounty.github.reports.escaping import code, line, prose
from bounty.github.reports.outcomes import is_public, outcome_of
from bounty.models import Command, CommandState, Head, HeadState, PullRequest
from bounty.visibility import without_figures

OPEN_ANSWERS = 3  # of the newest commands are not folded
MOST_ANSWERS = 20
MOST_HEADS = 20
MOST_ANSWER = 1500
MARKS = {CommandState.DONE: "👍", CommandState.REFUSED: "👎", CommandState.WAITING: "⏳"}


def commands(pull_request: PullRequest) -> str:
    """The answers to the newest commands; all but the last ones are folded."""
    rows = list(pull_request.commands.order_by("-created_at", "-pk")[:MOST_ANSWERS])
    if not rows:
        return ""
    newest, older = rows[:OPEN_ANSWERS], rows[OPEN_ANSWERS:]
    parts = ["**Answers to commands**", "\n".join(_answer(row) for row in newest)]
    if older:
        left = pull_request.commands.count() - len(rows)
        more = f"\n\n{left} older answers are left out." if left > 0 else ""
        parts.append(_fold("Older answers", "\n".join(_answer(row) for row in older) + more))
    return "\n\n".join(parts)


def history(heads: list[Head]) -> str:
    """Each head with its verdict, and what came after that; the newest first."""
    shown = heads[: -MOST_HEADS - 1 : -1]
    if not shown:
        return ""
    left = len(heads) - len(shown)
    more = f"\n\n{left} older heads are left out." if left > 0 else ""
    title = "History: 1 head" if len(heads) == 1 else f"History: {len(heads)} heads"
    return _fold(title, "\n".join(_head(head) for head in shown) + more)


def _answer(row: Command) -> str:
    answer = prose(row.answer, most=MOST_ANSWER) if row.answer else "is being worked on."
    # A break of the answer continues the same list item.
    return (
        f"- {MARKS[CommandState(row.state)]} {code(row.text, most=120)} by {code(row.login)}: "
        + answer.replace("\n", "\n  ")
    )


def _head(head: Head) -> str:
    return "\n".join([f"- {code(head.sha[:12])}, sealed {_at(head.sealed_at)}: {_state(head)}", *_told(head)])


def _state(head: Head) -> str:
    outcome = outcome_of(head)
    if outcome is not None:
        return line(outcome.title)
    if head.state == HeadState.SUBMITTED:
        return "being judged"
    return {
        HeadState.SEEN: "its diff is being read",
        HeadState.SEALED: "sealed, not judged",
        HeadState.WAITING: "waits to be judged",
    }.get(HeadState(head.state), str(head.get_state_display()).lower())


def _told(head: Head) -> list[str]:
    """One line for each final check run. Figures are left out while its submission is in doubt or judged again."""
    told = sorted((row for row in head.reports.all() if row.is_final), key=lambda row: row.pk)
    outcome = outcome_of(head)
    if len(told) == 1 and outcome is not None and outcome.key == told[0].outcome:
        return []  # the head's own line says it
    hides = head.submission is not None and not is_public(head.submission)
    lines = []
    for row in told:
        assert row.final_fields is not None and row.told_at is not None, "a final check run was written down"
        title = str(row.final_fields["title"])
        title = without_figures(title) or "a verdict" if hides else title
        lines.append(f"  - {_at(row.told_at)}: {line(title)}")
    return lines


def _fold(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _at(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
