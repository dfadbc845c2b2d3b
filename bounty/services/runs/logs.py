"""Logs of runs: bounded, append-only, and readable from any offset."""

from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from bounty.errors import BadRequest, LogGap
from bounty.limits import LOG_PAGE_CHARS, MAX_LOG_CHARS, MAX_LOG_POST_CHARS
from bounty.models import LogChunk, Run, RunState, Submission, SubmissionState
from bounty.services.runs.leases import require_lease

CUT_NOTE = f"\n[the log is longer than {MAX_LOG_CHARS} characters; the rest was not kept]\n"
# Room above the bound for the platform's own short lines.
OWN_ROOM = 20_000


@dataclass(frozen=True, slots=True)
class LogPage:
    """Part of a log: ``text`` from ``offset``. The next part starts at ``next_offset``, unless ``is_final``."""

    offset: int
    next_offset: int
    text: str
    is_final: bool


def append_log(*, run_id: UUID, lease: UUID, runner_id: UUID, offset: int, text: str) -> int:
    """Append text from the lease's holder. Returns the next offset, in characters of this lease.

    Text that was received before is not written twice. Raises LeaseLost; LogGap (with the offset to continue
    from) if a part is missing.
    """
    if len(text) > MAX_LOG_POST_CHARS:
        raise BadRequest(
            f"The part is too long. Send at most {MAX_LOG_POST_CHARS} characters of log at a time."
        )
    with transaction.atomic():
        run = require_lease(run_id=run_id, lease=lease, runner_id=runner_id)
        if offset > run.log_lease_chars:
            raise LogGap(f"A part of the log is missing. Send it again from offset {run.log_lease_chars}.")
        fresh = text[run.log_lease_chars - offset :]
        if fresh:
            run.log_lease_chars += len(fresh)
            _write(run, fresh, MAX_LOG_CHARS, is_sealed=True)
        return run.log_lease_chars


def say(run: Run, text: str, *, is_sealed: bool = False) -> None:
    """A line of the platform itself in the run's log. The caller's transaction has changed the run's row.

    A sealed line tells what was found: like all that a runner sends, it is shown once the submission is decided.
    """
    locked = Run.objects.select_for_update().get(pk=run.pk)
    _write(locked, f"[gainshare] {text}\n", MAX_LOG_CHARS + OWN_ROOM, is_sealed=is_sealed)
    run.log_chars = locked.log_chars


def _write(run: Run, text: str, bound: int, *, is_sealed: bool) -> None:
    """Append to the locked run, as far as the bound allows, and store its counters."""
    clean = _storable(text)
    room = bound - run.log_chars
    if len(clean) > room:
        clean = clean[: max(room - len(CUT_NOTE), 0)] + CUT_NOTE if room > 0 else ""
    if clean:
        LogChunk.objects.create(run=run, start=run.log_chars, text=clean, is_sealed=is_sealed)
        run.log_chars += len(clean)
    Run.objects.filter(pk=run.pk).update(log_chars=run.log_chars, log_lease_chars=run.log_lease_chars)


def _storable(text: str) -> str:
    """Replace characters that PostgreSQL cannot store (NUL and lone surrogates), keeping the length."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def read_log(
    *, runs: QuerySet[Run], offset: int, limit: int = LOG_PAGE_CHARS, with_sealed: bool = True
) -> LogPage:
    """The logs of ``runs``, one after the other by age, from character ``offset`` on.

    Without what is sealed the text has gaps; offsets count as if it were there.
    """
    ordered = list(runs.order_by("queued_at", "pk"))
    parts: list[str] = []
    length = 0
    before, wanted = 0, limit
    for run in ordered:
        start = offset - before
        if wanted > 0 and start < run.log_chars:
            piece, covered = _slice(run, max(start, 0), wanted, with_sealed)
            parts.append(piece)
            length += covered
            wanted -= covered
        before += run.log_chars
    text = "".join(parts)
    next_offset = offset + length
    is_over = all(run.state in (RunState.FINISHED, RunState.LOST) for run in ordered)
    return LogPage(offset, next_offset, text, is_over and next_offset >= before)


def _slice(run: Run, start: int, limit: int, with_sealed: bool) -> tuple[str, int]:
    """The text from ``start`` on, and how many characters of the log it covers."""
    chunks = LogChunk.objects.filter(run=run, start__lt=min(run.log_chars, start + limit)).order_by("-start")
    pieces: list[str] = []
    covered = 0
    for chunk in chunks.iterator(chunk_size=64):
        piece = chunk.text[max(start - chunk.start, 0) : max(start + limit - chunk.start, 0)]
        covered += len(piece)
        pieces += [piece] if with_sealed or not chunk.is_sealed else []
        if chunk.start <= start:
            break
    return "".join(reversed(pieces)), covered


def submission_log(*, submission: Submission, offset: int, with_sealed: bool = True) -> LogPage:
    """The logs of all runs of a submission, gate first. Final once the submission's verdict is."""
    runs = Run.objects.filter(submission=submission)
    page = read_log(runs=runs, offset=offset, with_sealed=with_sealed)
    is_final = page.is_final and (submission.has_verdict or submission.state == SubmissionState.WITHDRAWN)
    return LogPage(page.offset, page.next_offset, page.text, is_final)
