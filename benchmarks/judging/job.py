"""Job of a judge, and the callbacks by which it reports. Plain values; no processes, no HTTP."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from benchmarks.evidence.bugs import BUG_KINDS
from benchmarks.statistics.confirm import CONFIRMATION_PAIRS
from benchmarks.statistics.gate import LOOKS

CPU = "cpu"
JobKind = Literal["gate", "confirmation", "guard", "aa", "reproduction", "fix"]
LOCAL_NONCE = "local"  # of measurements at home: bound to no run, never award-eligible


@dataclass(frozen=True)
class Job:
    """One measurement. Trees are named by their hashes; `nonce` binds the evidence to a run of the platform."""

    run_id: str
    kind: JobKind
    suite: str
    preset: str
    base_tree: str
    candidate_tree: str
    device: str = CPU
    nonce: str = LOCAL_NONCE
    looks: int = len(LOOKS)  # fewer only for quick local runs
    confirmation_pairs: int = CONFIRMATION_PAIRS
    reproduction: str = ""  # the text of a bug's reproduction, for the kinds that try one
    continues: tuple[
        dict[str, Any], ...
    ] = ()  # signed records of earlier pairs of this candidate, oldest first
    old_tree: str = ""  # in a confirmation: the tree that base's own award was priced against
    old_paid_log_ppm: int = 0  # and the bound that was paid
    earlier_confirmations: dict[str, Any] | None = None  # as the evidence states them

    def __post_init__(self) -> None:
        if self.kind == "aa" and self.base_tree != self.candidate_tree:
            raise ValueError("an A/A control measures one tree against itself")
        if self.kind == "reproduction" and self.base_tree != self.candidate_tree:
            raise ValueError("a reproduction is tried on one tree")
        if bool(self.old_tree) != (self.old_paid_log_ppm > 0) or (
            self.old_tree and self.kind != "confirmation"
        ):
            raise ValueError(
                "a confirmation may name an old tree and what was paid for base; no other run does"
            )
        if self.earlier_confirmations is not None and self.kind != "confirmation":
            raise ValueError("earlier confirmations belong to a confirmation; no other run has any")
        if (self.kind in BUG_KINDS) != bool(self.reproduction):
            raise ValueError(
                f"a run of kind {self.kind} {'needs a' if self.kind in BUG_KINDS else 'has no'} reproduction"
            )

    @property
    def old(self) -> dict[str, Any] | None:
        """The old tree as the evidence names it; a run that times one takes direct pairs as well."""
        if not self.old_tree:
            return None
        return {"tree": self.old_tree, "paid_log_ppm": self.old_paid_log_ppm, "direct": True}

    @property
    def is_local(self) -> bool:
        return self.nonce == LOCAL_NONCE


class Callbacks(Protocol):
    """Calls by which a judge reports. All come from the judge's thread, never while a clock runs."""

    def on_commitment(self, commitment: str) -> None:
        """Called before the first sample; an exception stops the run."""

    def on_progress(self, stage: str, pairs_done: int, pairs_max: int) -> bool:
        """`stage` is preparing, gating or measuring. True stops the run."""

    def on_pair(self, sealed: dict[str, Any]) -> None:
        """The signed record of a complete pair of a gate or a confirmation, before the next pair begins.

        Only of runs of the platform; an exception stops the run.
        """

    def on_log(self, text: str) -> None:
        """Lines for people. They tell of pairs done, never of results."""
