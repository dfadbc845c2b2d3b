"""One leased run from trees to evidence: fetch, judge, post. May be killed at any point; the platform starts it over."""

import logging
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.faults import fault_point
from benchmarks.judging.cancellation import Cancellation, Cancelled
from benchmarks.judging.job import Job, JobKind
from benchmarks.judging.judge import JudgeOptions, judge
from benchmarks.pairs.quiet import Quiet
from benchmarks.patch.tree_folders import tree_folders
from benchmarks.patch.trees import BlobStore, Tree, TreeError
from benchmarks.runner.client import LeasedRun, LeaseLost, PlatformError, RunnerClient
from benchmarks.runner.reporter import Reporter
from benchmarks.sandbox import SandboxError
from benchmarks.suites import UnknownSuite

logger = logging.getLogger(__name__)

LOG_PATIENCE_S = 20.0


def carry_out(
    run: LeasedRun,
    client: RunnerClient,
    *,
    home: Path,
    key: Ed25519PrivateKey,
    options: JudgeOptions | None = None,
) -> None:
    """Measure the run and post its evidence, or say why that was not possible.

    A lost lease or a cancelled run ends it quietly: it is another runner's, or no one's, by now.
    """
    fault_point("runner.leased")
    try:
        _measure(run, client, home, key, options)
    except LeaseLost as error:
        logger.warning("run %s: %s", run.run_id, error)
    except Cancelled as error:
        logger.info("run %s stopped: %s", run.run_id, error)
    except (SandboxError, TreeError, UnknownSuite, PlatformError, OSError) as error:
        logger.exception("run %s failed", run.run_id)
        _report_failure(run, client, code=_code(error), detail=str(error))
    except Exception as error:
        _report_failure(run, client, code="runner_error", detail=type(error).__name__)
        raise


def _measure(
    run: LeasedRun, client: RunnerClient, home: Path, key: Ed25519PrivateKey, options: JudgeOptions | None
) -> None:
    cancellation, quiet = Cancellation(), Quiet()
    with Reporter(run, client, cancellation, quiet) as reporter:
        store = BlobStore(home / "blobs")
        for tree in run.trees.values():
            fetch_blobs(tree, store, client, cancellation)
        reproduction = client.blob(run.reproduction) if run.reproduction else b""
        with tree_folders(run.trees.values(), store, home / "trees") as folders:
            fault_point("runner.preparing")
            job = Job(
                run_id=run.run_id,
                kind=cast(JobKind, run.kind),
                suite=run.suite,
                preset=run.preset,
                base_tree=run.base_tree,
                candidate_tree=run.candidate_tree,
                nonce=run.nonce,
                reproduction=reproduction.decode(),
                continues=run.continues,
                old_tree=run.old_tree,
                old_paid_log_ppm=run.old_paid_log_ppm,
                earlier_confirmations=run.earlier_confirmations,
            )
            callbacks = _WithFault(reporter)
            sealed = judge(
                job,
                tree_dirs=folders,
                key=key,
                callbacks=callbacks,
                options=options,
                cancellation=cancellation,
                quiet=quiet,
            )
        reporter.flush(patience_s=LOG_PATIENCE_S)
        fault_point("runner.before_evidence")
        client.evidence(run, sealed)
        fault_point("runner.after_evidence")
    logger.info("run %s: %s", run.run_id, sealed["document"]["verdict"]["kind"])


class _WithFault:
    """The reporter, with the place at which a test may kill a runner that has samples already."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.on_commitment = reporter.on_commitment
        self.on_log = reporter.on_log
        self.on_pair = reporter.on_pair

    def on_progress(self, stage: str, pairs_done: int, pairs_max: int) -> bool:
        if pairs_done:
            fault_point("runner.measuring")
        return self._reporter.on_progress(stage, pairs_done, pairs_max)


def fetch_blobs(tree: Tree, store: BlobStore, client: RunnerClient, cancellation: Cancellation) -> None:
    """Bring into the store what it lacks of `tree`; every blob is verified when it arrives and again when written."""
    for entry in tree.entries:
        cancellation.check()
        if not store.has(entry.blob):
            store.put(client.blob(entry.blob))


def _code(error: Exception) -> str:
    return getattr(error, "code", None) or type(error).__name__


def _report_failure(run: LeasedRun, client: RunnerClient, *, code: str, detail: str) -> None:
    """The lease runs out anyway: a report that does not arrive only costs time."""
    try:
        client.failed(run, code, detail)
    except PlatformError as error:
        logger.warning("run %s: the failure could not be reported: %s", run.run_id, error)
