"""What the documents promise of pull requests is what the limits say."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bounty.github.app.facts import AccountFacts, PullRequestFacts
from bounty.github.events.door import MAX_BODY_BYTES
from bounty.github.pulls.seeing import sealed_when
from bounty.limits import EVENTS_WAIT, HEADS_PER_DAY

DOCS = Path(__file__).resolve().parents[4] / "docs"
OPENED = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_the_documents_name_the_limits() -> None:
    assert f"At most {HEADS_PER_DAY} commits of one author" in (DOCS / "github.md").read_text()
    assert f"at most {MAX_BODY_BYTES // 2**20} MiB each" in (DOCS / "reference" / "api.md").read_text()
    minutes = int(EVENTS_WAIT.total_seconds() / 60)
    assert f"at most {minutes} minutes from then" in (DOCS / "concepts" / "judging.md").read_text()


@pytest.mark.parametrize(
    ("updated", "received", "bound", "sealed"),
    [
        (
            OPENED,
            OPENED + HOUR,
            OPENED - HOUR,
            OPENED,
        ),  # the event was late: the first commit was public then
        (OPENED + HOUR, OPENED + 2 * HOUR, OPENED - HOUR, OPENED + 2 * HOUR),  # pushed since, for all we know
        (
            OPENED,
            OPENED - timedelta(seconds=2),
            OPENED - HOUR,
            OPENED - timedelta(seconds=2),
        ),  # clocks differ
        (OPENED, OPENED + 3 * HOUR, OPENED + HOUR, OPENED + HOUR),  # opened before the branch was bound
        (OPENED, OPENED + HOUR, OPENED + 2 * HOUR, OPENED + HOUR),  # never after the receipt
    ],
)
def test_when_a_head_is_sealed(
    updated: datetime, received: datetime, bound: datetime, sealed: datetime
) -> None:
    facts = PullRequestFacts(
        repository_id=1,
        number=1,
        author=AccountFacts(1, "pam"),
        title="",
        body="",
        branch="main",
        head_sha="0" * 40,
        state="open",
        is_draft=False,
        is_merged=False,
        created_at=OPENED,
        updated_at=updated,
    )
    assert sealed_when(facts, received_at=received, bound_at=bound) == sealed
