"""Takes one patch through the judge as a submission is taken: text, policy, application, gate, confirmation, guard rails.

Nothing here decides a verdict. Knows the judge only by `judge`, its jobs and the intake of patches.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evidence.signing import generate_key
from benchmarks.judging.job import Job, JobKind
from benchmarks.judging.judge import JudgeOptions, judge
from benchmarks.judging.verdicts import VerdictKind
from benchmarks.patch.patches import PatchError, apply_patch, parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, load_policy
from benchmarks.patch.tree_folders import tree_folders
from benchmarks.patch.trees import BlobStore, Tree, shipped_tree
from benchmarks.redteam.patch_file import REFUSALS, ROOT, RedTeamPatch
from benchmarks.sandbox import SandboxLevel, best_level
from benchmarks.statistics.gate import LOOKS

NONCE = "0" * 64  # as a platform's job has one: the evidence is what an award would be made of
RUNS_AFTER_GATE: tuple[JobKind, ...] = ("confirmation", "guard")
QUIET_LOG: Callable[[str], None] = lambda _: None  # noqa: E731 - a default that says nothing


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a patch. `is_awarded`: the gate passed, the confirmation found a bound above zero, the guard rails held."""

    verdict: str
    reason: str
    is_awarded: bool
    pairs: int
    seconds: float
    log_ppm_estimate: int | None = None

    @property
    def is_refused(self) -> bool:
        """Refused as a cheat or as wrong, not merely found to be no gain."""
        return self.verdict in REFUSALS


@dataclass
class Callbacks:
    """The judge's callbacks: its log goes to `say`."""

    say: Callable[[str], None] = QUIET_LOG
    commitments: list[str] = field(default_factory=list)

    def on_commitment(self, commitment: str) -> None:
        self.commitments.append(commitment)

    def on_progress(self, stage: str, pairs_done: int, pairs_max: int) -> bool:
        return False

    def on_pair(self, sealed: dict[str, Any]) -> None:
        """Each run is judged once here, so no pair is needed again."""

    def on_log(self, text: str) -> None:
        self.say(text)


class Bench:
    """Trees, blobs and the judge's options for any number of patches. `folder` must be readable by everybody.

    With fewer `runs_after_gate` what passes the last of them counts as awarded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        level: SandboxLevel | None = None,
        looks: int = len(LOOKS),
        runs_after_gate: tuple[JobKind, ...] = RUNS_AFTER_GATE,
    ) -> None:
        self.folder = folder
        self.level = level or best_level()
        self.store = BlobStore(folder / "blobs")
        self.shipped = shipped_tree(self.store)
        self._looks = looks
        self._runs_after_gate = runs_after_gate
        self._key = generate_key()

    def base(self, patch: RedTeamPatch) -> Tree:
        """Raises PatchError where the diff that makes the base no longer applies."""
        if not patch.base:
            return self.shipped
        return apply_patch(self.shipped, parse_patch((ROOT / patch.base).read_bytes()), self.store)

    def old(self, patch: RedTeamPatch) -> Tree:
        """The tree that a paid base was measured against. Raises PatchError as `base`."""
        if not patch.old:
            return self.shipped
        return apply_patch(self.shipped, parse_patch((ROOT / patch.old).read_bytes()), self.store)

    def take_in(self, patch: RedTeamPatch) -> Tree:
        """The candidate's tree. Raises PatchError or PolicyViolation, as for any submission."""
        parsed = parse_patch(patch.diff)
        check_patch(load_policy(), parsed)
        return apply_patch(self.base(patch), parsed, self.store)

    @contextmanager
    def written(self, *trees: Tree) -> Iterator[dict[str, Path]]:
        """Tree hash -> folder."""
        with tree_folders(trees, self.store, self.folder / "trees") as folders:
            yield folders

    def judge(self, patch: RedTeamPatch, *, say: Callable[[str], None] = QUIET_LOG) -> Outcome:
        """Judge every run up to an award, as far as each passes. Raises what the judge raises where nothing can be measured."""
        started = time.monotonic()
        try:
            candidate = self.take_in(patch)
        except PatchError as error:
            reason = f"{error.code}: {error.message}"
            return Outcome(VerdictKind.PATCH_REJECTED, reason, False, 0, _since(started))
        except PolicyViolation as error:
            reason = f"{error.code}: {error.message}"
            return Outcome(VerdictKind.POLICY_VIOLATION, reason, False, 0, _since(started))
        verdict = gate = self._run("gate", patch, candidate, say)
        for kind in self._runs_after_gate:
            if verdict["kind"] != VerdictKind.GAIN:
                break
            verdict = self._run(kind, patch, candidate, say)
        is_awarded = verdict["kind"] == VerdictKind.GAIN
        if is_awarded:
            verdict = gate
        return Outcome(
            verdict["kind"],
            verdict["reason"],
            is_awarded,
            verdict["pairs"],
            _since(started),
            verdict["log_ppm_estimate"],
        )

    def job(self, kind: JobKind, patch: RedTeamPatch, candidate: Tree) -> Job:
        """The judge's job. A confirmation against a base that was paid for names the tree before it."""
        has_old = kind == "confirmation" and patch.paid_log_ppm > 0
        return Job(
            run_id=f"redteam-{patch.name}",
            kind=kind,
            suite=patch.suite,
            preset=patch.preset,
            base_tree=self.base(patch).hash,
            candidate_tree=candidate.hash,
            nonce=NONCE,
            looks=self._looks,
            old_tree=self.old(patch).hash if has_old else "",
            old_paid_log_ppm=patch.paid_log_ppm if has_old else 0,
        )

    def _run(
        self, kind: JobKind, patch: RedTeamPatch, candidate: Tree, say: Callable[[str], None]
    ) -> dict[str, Any]:
        job = self.job(kind, patch, candidate)
        trees = [self.base(patch), candidate, *([self.old(patch)] if job.old_tree else [])]
        with self.written(*trees) as folders:
            sealed = judge(
                job,
                tree_dirs=folders,
                key=self._key,
                callbacks=Callbacks(say),
                options=JudgeOptions(level=self.level),
            )
        verdict: dict[str, Any] = sealed["document"]["verdict"]
        return verdict


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)
