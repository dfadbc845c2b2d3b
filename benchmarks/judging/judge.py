"""The judge: measures a candidate against a base and seals what it saw as evidence.

Clock, secrets, inputs, expected outputs and verdict live here, in this process; the trees supply `model/**` only and
run in sandboxes. The order is: commit to the secrets, build both trees, take pairs until the numbers decide (gate, A/A)
or until there are as many as fixed beforehand (confirmation), then document, verdict, signature. Whatever a sample does
wrong ends the run early with an event; the verdict is made of samples and events by `benchmarks.evidence.decision`
alone.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.catalogue import BUG_ATTEMPTS, SUITES
from benchmarks.evidence.base_checks import deciding_event, needs_attempt
from benchmarks.evidence.bugs import BUG_KINDS
from benchmarks.evidence.commitment import commit
from benchmarks.evidence.counting import is_counted_for_awards
from benchmarks.evidence.decision import decide_so_far, make_plan, next_extras, next_pairs
from benchmarks.evidence.document import build_document, seal
from benchmarks.evidence.pair_record import POOLED_KINDS, pair_record, seal_pair
from benchmarks.evidence.samples import thawed_tree
from benchmarks.evidence.schema import SCHEMA
from benchmarks.judging.bugs import Trials
from benchmarks.judging.cancellation import Cancellation, Cancelled
from benchmarks.judging.job import Callbacks, Job
from benchmarks.pairs.builds.build import build_tree
from benchmarks.pairs.builds.memory import REMEMBERED, BuildMemory
from benchmarks.pairs.calibration import Calibration, CalibrationFailed, calibrated
from benchmarks.pairs.cores import Cores, choose_cores
from benchmarks.pairs.nameless import NamelessCopies
from benchmarks.pairs.pair import SLOTS
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.runner import PairRunner, failure_of
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideFailed, SideSetup
from benchmarks.patch.policy import harness_hash, load_policy
from benchmarks.patch.trees import sha256_hex
from benchmarks.runner.fingerprint import environment, package_version
from benchmarks.sandbox import SandboxLevel, best_level
from benchmarks.sandbox.accounting.placement import counted_by
from benchmarks.suites import Suite, get_guard_suite, get_suite
from benchmarks.suites.bug import bug_suite

STAGES = {
    "gate": "gating",
    "aa": "gating",
    "confirmation": "measuring",
    "guard": "measuring",
    "reproduction": "measuring",
    "fix": "measuring",
}


@dataclass(frozen=True)
class JudgeOptions:
    """Choices of the machine's owner. `level` None takes the best sandbox there is and refuses to run without one."""

    level: SandboxLevel | None = None
    cores: Cores | None = None


def judge(
    job: Job,
    *,
    tree_dirs: Mapping[str, Path],
    key: Ed25519PrivateKey,
    callbacks: Callbacks,
    options: JudgeOptions | None = None,
    cancellation: Cancellation | None = None,
    quiet: Quiet | None = None,
) -> dict[str, Any]:
    """Measure `job` and return the sealed evidence. `tree_dirs` maps the job's tree hashes to folders with `model/`.

    Other threads of this process use `quiet` to keep out of timed calls. Raises Cancelled when stopped from outside,
    UnknownSuite, SandboxUnavailable or SandboxError where nothing can be measured; then there is no evidence.
    """
    options = options or JudgeOptions()
    return _Judgement(
        job, tree_dirs, callbacks, options, cancellation or Cancellation(), quiet or Quiet()
    ).run(key)


class _Judgement:
    """One run of the judge, from secrets to seal."""

    def __init__(
        self,
        job: Job,
        tree_dirs: Mapping[str, Path],
        callbacks: Callbacks,
        options: JudgeOptions,
        cancellation: Cancellation,
        quiet: Quiet,
    ) -> None:
        self._job, self._callbacks, self._cancellation = job, callbacks, cancellation
        self._suite: Suite = suite_of(job)
        self._level = options.level or best_level()
        self._cores = options.cores or choose_cores()
        self._trees = {"base": tree_dirs[job.base_tree], "candidate": tree_dirs[job.candidate_tree]}
        if job.old_tree:
            self._trees["old"] = tree_dirs[job.old_tree]
        candidate = self._trees["candidate"]
        self._copies = NamelessCopies(
            # A fix may differ from base, so its pairs have the candidate on both sides: the oracle alone judges.
            {"base": candidate, "candidate": candidate} if job.kind == "fix" else self._trees
        )
        self._secret, self._seeds = Seeds.fresh()
        self._phases, self._quiet = Phases(), quiet
        self._started_at = _now()
        self._stage = "preparing"
        self._builds = BuildMemory() if job.kind == "confirmation" else REMEMBERED
        self._key: Ed25519PrivateKey | None = None
        self._wanted = self._told = 0
        self._base_checks: list[dict[str, Any]] = []
        self._calibration = Calibration(self._suite)
        self._setup = SideSetup(self._suite, self._level, self._cores, job.device)
        self._trials = Trials(
            job.reproduction,
            self._trees,
            level=self._level,
            cores=self._cores.all,
            seeds=self._seeds,
            device=job.device,
            on_log=callbacks.on_log,
            cancellation=cancellation,
        )
        self._runner = PairRunner(
            self._copies,
            self._setup,
            self._seeds,
            phases=self._phases,
            quiet=quiet,
            cancellation=cancellation,
            on_log=callbacks.on_log,
            on_pair=self._progress,
            on_complete=self._post_pair,
        )

    def run(self, key: Ed25519PrivateKey) -> dict[str, Any]:
        job, self._key = self._job, key
        self._callbacks.on_log(
            f"{job.kind} of {job.suite}/{job.preset}: candidate {job.candidate_tree[:12]} against base "
            f"{job.base_tree[:12]}, sandbox {self._level}, measuring on core {self._cores.measuring}\n"
        )
        self._callbacks.on_commitment(commit(self._secret, job.nonce))
        self._progress(0)
        with closing(self._copies):
            self._build()
            self._calibrate()
            self._stage = STAGES[job.kind]
            self._try_base()
            if job.kind in BUG_KINDS:
                self._try()
            self._measure()
        sealed = seal(build_document(**self._parts()), key)
        verdict = sealed["document"]["verdict"]
        self._callbacks.on_log(f"verdict: {verdict['kind']}. {verdict['reason']}\n")
        return sealed

    def _build(self) -> None:
        """All trees at once, each in a separate sandbox: nothing is timed yet."""
        with self._phases.spend("build"), ThreadPoolExecutor(len(self._trees)) as pool:
            try:
                for build in [pool.submit(self._build_one, name) for name in self._trees]:
                    self._await_build(build)
            except BaseException:
                self._cancellation.cancel("the judge was interrupted")  # or the pool would wait for compilers
                raise

    def _await_build(self, build: Future[None]) -> None:
        try:
            build.result()
        except SideFailed as failure:
            self._runner.add_event(failure)

    def _build_one(self, name: str) -> None:
        self._builds.build(
            name,
            self._trees[name],
            level=self._level,
            slot=SLOTS[name],
            on_log=self._callbacks.on_log,
            cancellation=self._cancellation,
        )

    def _calibrate(self) -> None:
        """Settle how many calls a pair has and what its slots are; a guard's quick presets are what they are."""
        if self._runner.has_ended or self._job.kind in ("guard", *BUG_KINDS):
            return
        try:
            found = calibrated(
                self._copies,
                self._setup,
                self._seeds.child("calibration"),
                is_confirmation=self._job.kind == "confirmation",
                has_old=bool(self._job.old_tree) and not self._runner.has_lost_old,
                phases=self._phases,
                quiet=self._quiet,
                cancellation=self._cancellation,
                sample_log=self._runner.sample_log,
            )
        except CalibrationFailed as error:
            self._runner.add_event(error.failure)
            self._runner.failed_pair = error.pair
            return
        if found.old_failure is not None:
            self._runner.add_event(found.old_failure)
        self._calibration, self._suite = found, found.suite
        self._runner.measure_with(found.suite, found.usual)

    def _try(self) -> None:
        """The reproduction's trials, until they decide or only the suites are left."""
        sides = ["base"] if self._job.kind == "reproduction" else ["base", "candidate"]
        with self._phases.spend("measuring"):
            self._trials.read()
            for side, number in product(sides, range(BUG_ATTEMPTS)):
                if decide_so_far(self._undecided()) is not None:
                    return
                self._progress(0)
                self._trials.attempt(side, number)
                self._callbacks.on_log(f"attempt {number + 1} of {BUG_ATTEMPTS} on {side} done\n")

    def _measure(self) -> None:
        while decide_so_far(self._undecided()) is None:
            document = self._undecided()
            wanted, extras = next_pairs(document), next_extras(document)
            self._wanted = planned_pairs(self._runner.measured, wanted)
            self._progress(self._runner.measured.total())
            self._runner.take_block(wanted, controls=extras.controls, old=extras.old, direct=extras.direct)
            self._try_base()

    def _post_pair(self, pair: dict[str, Any], checks: dict[str, int]) -> None:
        """Post a complete pair, so that it counts whatever becomes of this run."""
        if self._job.kind not in POOLED_KINDS or self._job.is_local or thawed_tree(pair) is not None:
            return
        assert self._key is not None, "pairs are measured after `run` began"
        self._callbacks.on_pair(seal_pair(pair_record(self._parts(), pair, checks), self._key))

    def _try_base(self) -> None:
        """Where an event names base: try base without the candidate, until it is known whose failure it was."""
        while True:
            undecided = self._undecided()
            if not needs_attempt(undecided, deciding_event(undecided)):
                return
            self._progress(self._runner.measured.total())
            self._callbacks.on_log("base failed: it is tried again without the patch\n")
            self._base_checks.append(self._attempt_at_base())

    def _attempt_at_base(self) -> dict[str, Any]:
        """The last pair that failed once more with base on both sides, or base's build; as it is in the evidence."""
        pair = self._runner.failed_pair
        if pair is not None:
            return self._runner.attempt_alone(pair)
        with self._phases.spend("build"):
            failure = failure_of(self._build_base_alone)
        return {"pair": None, "failure": failure}

    def _build_base_alone(self) -> None:
        build_tree(
            "base",
            self._trees["base"],
            level=self._level,
            slot=SLOTS["base"],
            on_log=self._callbacks.on_log,
            cancellation=self._cancellation,
        )

    def _progress(self, pairs_done: int) -> None:
        if self._callbacks.on_progress(self._stage, pairs_done, self._wanted):
            self._cancellation.cancel("the platform asked to stop")
        self._cancellation.check_between_pairs()
        if pairs_done > self._told:
            self._told = pairs_done
            self._callbacks.on_log(f"{pairs_done} pairs done; next decision at {self._wanted}\n")

    def _parts(self) -> dict[str, Any]:
        """The document's parts, as far as the run has come."""
        job, runner = self._job, self._runner
        return {
            "run": {"id": job.run_id, "kind": job.kind, "nonce": job.nonce},
            "suite": self._described_suite(),
            "plan": make_plan(looks=job.looks, confirmation_pairs=job.confirmation_pairs),
            "trees": {"base": job.base_tree, "candidate": job.candidate_tree},
            "harness": {"hash": harness_hash(), "version": package_version("gainshare")},
            "policy_hash": load_policy().hash,
            "environment": environment(
                measuring_core=self._cores.measuring,
                judge_core=self._cores.judge,
                clock="perf_counter_ns",
                slots=self._calibration.as_dict(),
            ),
            "sandbox": {
                "level": self._level.value,
                "award_eligible": self._is_award_eligible(),
                "counted_by": counted_by(),
            },
            "commitment": commit(self._secret, job.nonce),
            "secrets": self._secret.hex(),
            "pairs": runner.pairs,
            "checks": {
                "outputs_checked": runner.outputs_checked,
                "oracle_checked": runner.oracle_checked,
                "outputs_differing": runner.outputs_differing,
                "failures": [
                    event["detail"]
                    for event in runner.events
                    if event["kind"] == "wrong_output" and event["side"] != "old"
                ],
            },
            "phases_ns": self._phases.as_dict(),
            "events": runner.events,
            "trials": self._trials.rows,
            "continues": list(job.continues),
            "old": job.old,
            "base_checks": self._base_checks,
            "earlier_confirmations": job.earlier_confirmations,
            "started_at": self._started_at,
            "finished_at": _now(),
        }

    def _described_suite(self) -> dict[str, Any]:
        described = self._suite.describe()
        if self._job.kind in BUG_KINDS:
            described["reproduction"] = sha256_hex(self._job.reproduction.encode())
        return described

    def _undecided(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **self._parts()}

    def _is_award_eligible(self) -> bool:
        job = self._job
        return (
            not job.is_local
            and self._level.value in load_policy().award_sandbox_levels
            and job.preset in SUITES[job.suite].presets
            and is_counted_for_awards(job.suite, counted_by())
            and make_plan(looks=job.looks, confirmation_pairs=job.confirmation_pairs) == make_plan()
        )


def planned_pairs(measured: Mapping[str, int], wanted: Mapping[str, int]) -> int:
    """Count the pairs that all cases will have: a case that has enough already keeps what it has."""
    return sum(max(measured.get(case, 0), pairs) for case, pairs in wanted.items())


def suite_of(job: Job) -> Suite:
    """Return the suite that the job's pairs measure. Raises UnknownSuite."""
    if job.kind in BUG_KINDS:
        return bug_suite(job.preset)
    return (get_guard_suite if job.kind == "guard" else get_suite)(job.suite, job.preset)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


__all__ = ["Cancelled", "JudgeOptions", "judge", "planned_pairs", "suite_of"]
