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
            _write(run, fresh, MAX_LOG_CHARS)
        return run.log_lease_chars


def say(run: Run, text: str) -> None:
    """Write a line of the platform into the run's log. The caller's transaction has changed the run's row."""
    locked = Run.objects.select_for_update().get(pk=run.pk)
    _write(locked, f"[gainshare] {text}\n", MAX_LOG_CHARS + OWN_ROOM)
    run.log_chars = locked.log_chars


def _write(run: Run, text: str, bound: int) -> None:
    """Append to the locked run's log up to the bound, and store its counters."""
    clean = _storable(text)
    room = bound - run.log_chars
    if len(clean) > room:
        clean = clean[: max(room - len(CUT_NOTE), 0)] + CUT_NOTE if room > 0 else ""
    if clean:
        LogChunk.objects.create(run=run, start=run.log_chars, text=clean)
        run.log_chars += len(clean)
    Run.objects.filter(pk=run.pk).update(log_chars=run.log_chars, log_lease_chars=run.log_lease_chars)


def _storable(text: str) -> str:
    """Replace characters that PostgreSQL cannot store (NUL and lone surrogates), keeping the length."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def read_log(*, runs: QuerySet[Run], offset: int, limit: int = LOG_PAGE_CHARS) -> LogPage:
    """The logs of ``runs``, oldest first, from character ``offset``."""
    ordered = list(runs.order_by("queued_at", "pk"))
    parts: list[str] = []
    before, wanted = 0, limit
    for run in ordered:
        start = offset - before
        if wanted > 0 and start < run.log_chars:
            piece = _slice(run, max(start, 0), wanted)
            parts.append(piece)
            wanted -= len(piece)
        before += run.log_chars
    text = "".join(parts)
    next_offset = offset + len(text)
    is_over = all(run.state in (RunState.FINISHED, RunState.LOST) for run in ordered)
    return LogPage(offset, next_offset, text, is_over and next_offset >= before)


def _slice(run: Run, start: int, limit: int) -> str:
    chunks = LogChunk.objects.filter(run=run, start__lt=min(run.log_chars, start + limit)).order_by("-start")
    pieces: list[str] = []
    for chunk in chunks.iterator(chunk_size=64):
        pieces.append(chunk.text[max(start - chunk.start, 0) : max(start + limit - chunk.start, 0)])
        if chunk.start <= start:
            break
    return "".join(reversed(pieces))


def submission_log(*, submission: Submission, offset: int) -> LogPage:
    """The logs of all runs of a submission, gate first. Final when the submission's verdict is."""
    page = read_log(runs=Run.objects.filter(submission=submission), offset=offset)
    is_final = page.is_final and (submission.is_decided or submission.state == SubmissionState.WITHDRAWN)
    return LogPage(page.offset, page.next_offset, page.text, is_final)
