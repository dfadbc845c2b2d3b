"""Logs of runs: bounded, append-only, and readable from any offset.

A part is sealed if it tells what was measured: all that a runner sends, and the platform's own lines of every run after
the first, because such a run tells that a gate has passed.
"""

from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from bounty.errors import BadRequest, LogGap
from bounty.limits import LOG_PAGE_CHARS, MAX_LOG_CHARS, MAX_LOG_POST_CHARS
from bounty.models import LogChunk, Run, RunKind, RunState, Submission, SubmissionState
from bounty.services.runs.leases import require_lease

CUT_NOTE = f"\n[the log is longer than {MAX_LOG_CHARS} characters; the rest was not kept]\n"
JUDGING_KINDS = (RunKind.GATE, RunKind.FIX)  # the run that a submission waits for from the start
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
    """Write a line of the platform itself to the run's log. The caller's transaction has changed the run's row.

    A sealed line is shown once the submission is decided, like all that a runner sends. It tells what was found, or
    belongs to a run that is ordered only after a passed gate.
    """
    locked = Run.objects.select_for_update().get(pk=run.pk)
    is_sealed = is_sealed or (run.submission_id is not None and run.kind not in JUDGING_KINDS)
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

    Without the right to read sealed parts the log ends where the first of them begins, and is not final. So an offset
    never counts sealed characters: else code could send its author numbers by what it prints. And an offset means the
    same place before and after the seal is lifted: a reader who continues from it then loses and repeats nothing. The
    price is that the platform's own lines after that place, such as those on a second attempt, are shown with the rest.
    """
    ordered = list(runs.order_by("queued_at", "pk"))
    parts: list[str] = []
    length = 0
    before, wanted = 0, limit
    is_cut = False
    for run in ordered:
        readable = run.log_chars if with_sealed else _unsealed_chars(run)
        start = offset - before
        if wanted > 0 and start < readable:
            piece = _slice(run, max(start, 0), min(wanted, readable - max(start, 0)))
            parts.append(piece)
            length += len(piece)
            wanted -= len(piece)
        before += readable
        if readable < run.log_chars:
            is_cut = True
            break
    next_offset = offset + length
    is_over = all(run.state in (RunState.FINISHED, RunState.LOST) for run in ordered)
    return LogPage(offset, next_offset, "".join(parts), is_over and not is_cut and next_offset >= before)


def _unsealed_chars(run: Run) -> int:
    """The length of the run's log up to its first sealed part."""
    first = LogChunk.objects.filter(run=run, is_sealed=True).order_by("start").first()
    return run.log_chars if first is None else first.start


def _slice(run: Run, start: int, limit: int) -> str:
    """At most ``limit`` characters of the run's log from ``start`` on."""
    chunks = LogChunk.objects.filter(run=run, start__lt=min(run.log_chars, start + limit)).order_by("-start")
    pieces: list[str] = []
    for chunk in chunks.iterator(chunk_size=64):
        pieces.append(chunk.text[max(start - chunk.start, 0) : max(start + limit - chunk.start, 0)])
        if chunk.start <= start:
            break
    return "".join(reversed(pieces))


def submission_log(*, submission: Submission, offset: int, with_sealed: bool = True) -> LogPage:
    """The logs of all runs of a submission, gate first. Final once the submission's verdict is."""
    runs = Run.objects.filter(submission=submission)
    page = read_log(runs=runs, offset=offset, with_sealed=with_sealed)
    is_final = page.is_final and (submission.has_verdict or submission.state == SubmissionState.WITHDRAWN)
    return LogPage(page.offset, page.next_offset, page.text, is_final)
