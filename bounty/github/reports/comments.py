"""The wanted text of a pull request's one comment, from rows alone. It is edited in place, and its history is folded.

It shows what everyone may know (`bounty.visibility`), and nothing that changes by itself: progress stands in the check run.
"""

from bounty.github.reports import sections
from bounty.github.reports.checks import heads_of
from bounty.github.reports.folded import commands, history
from bounty.github.reports.outcomes import changes_nothing
from bounty.models import Head, HeadState, PullRequest

LIMIT = 65_536  # GitHub's, in characters
MOST_UNITS = 60_000  # of UTF-16, however GitHub counts them
ACTED_ON = (HeadState.WAITING, HeadState.SUBMITTED, HeadState.REFUSED)


def marker(pull_request: PullRequest) -> str:
    """Finds our comment again on GitHub."""
    return f"<!-- gainshare:pull-request:{pull_request.pk} -->"


def wanted_comment(pull_request: PullRequest) -> str:
    """The comment's text; empty where the pull request has nothing to do with a bounty, so that it gets none."""
    heads = [head for head in heads_of(pull_request) if not head.is_of_queue]
    if not _is_wanted(pull_request, heads):
        return ""
    head = shown_head(heads)
    fixed = [
        f"{marker(pull_request)}\n### Gainshare",
        sections.headline(pull_request, head),
        sections.newest(head, heads),
        sections.problems(pull_request, head, heads),
        sections.verdict(head),
        sections.payment(pull_request, head),
        sections.bounty(pull_request),
        sections.sealing(pull_request, head),
        sections.sign_off(head),
    ]
    folded = [commands(pull_request), history(heads), sections.help_text()]
    return _fitting([part for part in fixed if part], [part for part in folded if part])


def shown_head(heads: list[Head]) -> Head | None:
    """The newest head that is judged or was, else the newest one."""
    submitted = [head for head in heads if head.submission is not None]
    return next(reversed(submitted or heads), None)


def _is_wanted(pull_request: PullRequest, heads: list[Head]) -> bool:
    if pull_request.named or pull_request.commands.exists():
        return True
    return any((head.state in ACTED_ON or head.diff_blob) and not changes_nothing(head) for head in heads)


def _fitting(fixed: list[str], folded: list[str]) -> str:
    """All parts that GitHub takes, the fixed ones first; what is left out is said."""
    text = _cut("\n\n".join(fixed), MOST_UNITS - 2000)
    for part in folded:
        longer = f"{text}\n\n{part}"
        text = longer if units(longer) <= MOST_UNITS else f"{text}\n\nMore is on the submission's page."
    return text


def _cut(text: str, most: int) -> str:
    """At most `most` units, cut after a whole paragraph."""
    while units(text) > most:
        text = text.rpartition("\n\n")[0]
    return text


def units(text: str) -> int:
    """Length in UTF-16 units, the longest of the ways in which characters are counted."""
    return len(text.encode("utf-16-le")) // 2
