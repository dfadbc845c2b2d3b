"""Tells the platform how a leased run is going: renews the lease, reports progress, carries the log.

One thread in addition to the judge's. It keeps out of timed calls (`Quiet`), and stops the judge when the platform says so or
the lease is lost. A platform that is away for a while costs nothing but late news.
"""

import threading
import time
from typing import Any

from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.quiet import Quiet
from benchmarks.runner.client import LeasedRun, LeaseLost, PlatformError, RunnerClient

TICK_S = 1.0
PATIENCE_S = 1.0
LENT_BEAT_S = 4.0  # a device on loan may be recalled: the platform is asked often
STOPPING_S = 5.0  # before the device must be back: a pair that is not over by then is given up
RECALLED = "the device was recalled"
MAX_LOG_CHARACTERS = 512 * 1024
MAX_POST_CHARACTERS = 64 * 1024
CUT = "\n[the rest of this run's log was not kept]\n"


class Reporter:
    """The judge's callbacks, and the thread that passes them on. Use as a context manager."""

    def __init__(
        self, run: LeasedRun, client: RunnerClient, cancellation: Cancellation, quiet: Quiet
    ) -> None:
        self._run, self._client, self._cancellation, self._quiet = run, client, cancellation, quiet
        self._progress = ("preparing", 0, 0)
        self._reported: tuple[str, int, int] | None = None
        self._beat_at = time.monotonic()  # the lease was just given
        self._give_up_at: float | None = None  # once the device is recalled
        self._log = ""
        self._log_offset = 0  # characters that the platform has
        self._log_total = 0
        self._lock = threading.Lock()
        self._posting = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reporter", daemon=True)

    # -- what the judge calls ---------------------------------------------------------------------

    def on_commitment(self, commitment: str) -> None:
        self._client.commitment(self._run, commitment)

    def on_pair(self, sealed: dict[str, Any]) -> None:
        self._client.pair(self._run, sealed)

    def on_progress(self, stage: str, pairs_done: int, pairs_max: int) -> bool:
        self._progress = (stage, pairs_done, pairs_max)
        return self._cancellation.is_set

    def on_log(self, text: str) -> None:
        with self._lock:
            room = MAX_LOG_CHARACTERS - self._log_total
            if room <= 0:
                return
            kept = text if len(text) <= room else text[:room] + CUT
            self._log += kept
            self._log_total += len(kept)

    # -- the thread -------------------------------------------------------------------------------

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def flush(self, *, patience_s: float) -> None:
        """Send what is left of the log now; what cannot be sent is lost, the verdict is not."""
        try:
            while self._post_log(patience_s=patience_s):
                pass
        except PlatformError:
            return

    def _work(self) -> None:
        tick_s = min(TICK_S, self._run.lease_s / 6)
        while not self._is_over.wait(tick_s):
            with self._quiet.between_calls(PATIENCE_S):
                try:
                    self._give_up_if_late()
                    self._post_log(patience_s=0)
                    self._beat()
                except LeaseLost:
                    self._cancellation.cancel("the lease was lost")
                    return
                except PlatformError:
                    continue  # away: the next tick tries again

    def _beat(self) -> None:
        progress, now = self._progress, time.monotonic()
        if progress == self._reported and now - self._beat_at < self._pause_s():
            return
        stage, pairs_done, pairs_max = progress
        answer = self._client.heartbeat(self._run, stage=stage, pairs_done=pairs_done, pairs_max=pairs_max)
        if answer.cancel:
            self._cancellation.cancel("the platform asked to stop")
        elif answer.give_back_s is not None:
            self._stop_within(answer.give_back_s, stage)
        self._reported, self._beat_at = progress, now

    def _pause_s(self) -> float:
        third = self._run.lease_s / 3
        return min(third, LENT_BEAT_S) if self._run.is_lent else third

    def _stop_within(self, give_back_s: float, stage: str) -> None:
        """Stop after the pair that is being measured; at once where none is, or where it takes too long."""
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + max(0.0, give_back_s - STOPPING_S)
        self._cancellation.cancel_between_pairs(RECALLED)
        if stage == "preparing":
            self._cancellation.cancel(RECALLED)

    def _give_up_if_late(self) -> None:
        if self._give_up_at is not None and time.monotonic() >= self._give_up_at:
            self._cancellation.cancel(RECALLED)

    def _post_log(self, *, patience_s: float) -> bool:
        """Send one piece; whether there is more."""
        with self._posting:
            with self._lock:
                piece = self._log[:MAX_POST_CHARACTERS]
            if not piece:
                return False
            self._client.log(self._run, self._log_offset, piece, patience_s=patience_s)
            with self._lock:
                self._log = self._log[len(piece) :]
                self._log_offset += len(piece)
                return bool(self._log)
