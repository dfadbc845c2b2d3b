"""A small world for the bounty app's tests: people, a tree, a lineage, a funded bounty and a runner with its key."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.evidence.commitment import commit
from benchmarks.evidence.signing import generate_key, public_key
from benchmarks.patch.layout import SAMPLE_MODULES
from benchmarks.patch.trees import Tree, TreeEntry
from bounty.models import Bounty, Lineage, Run, Runner, StoredTree, Submission
from bounty.services.awards.advance import advance_submission
from bounty.services.bounties import open_bounty
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.runners import calls as runner_calls
from bounty.services.runners.registration import register_runner
from bounty.services.runs.verdicts import record_evidence
from bounty.services.submissions import submit
from bounty.services.trees import blob_store, create_lineage, store_tree
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from tests.bounty.synthetic import SECRET, invented_evidence

_numbers = count(1)

EXPERTS = "".join(f"step_{number} = {number}\n" for number in range(1, 13))
ROUTER = "gate = 'softmax'\n"


def make_user(name: str, role: str = "contributor") -> User:
    """A user with an unusable password: hashing one would be the slowest part of a test."""
    user = User(username=f"{name}{next(_numbers)}-{uuid4().hex[:6]}", role=role)
    user.set_unusable_password()
    user.save()
    return user


def small_tree(modules: Iterable[str] = SAMPLE_MODULES) -> StoredTree:
    """A tree of two little files, and one for each module of its layout; bounty tests never run it."""
    store = blob_store()
    files = {f"{name.replace('.', '/')}.py": f"NAME = '{name}'\n" for name in modules}
    files |= {"model/layers/moe/experts.py": EXPERTS, "model/layers/moe/router.py": ROUTER}
    entries = sorted(TreeEntry(path, 0o644, store.put(text.encode())) for path, text in files.items())
    return store_tree(tree=Tree(tuple(entries)))


def diff_of_line(number: int, text: str, *, old: str | None = None) -> str:
    """A diff that replaces line `number` of experts.py (12 lines `step_N = N`) by `text`."""
    return (
        "diff --git a/model/layers/moe/experts.py b/model/layers/moe/experts.py\n"
        "--- a/model/layers/moe/experts.py\n+++ b/model/layers/moe/experts.py\n"
        f"@@ -{number},1 +{number},1 @@\n-{old or f'step_{number} = {number}'}\n+{text}\n"
    )


def job_of(run: Run) -> dict[str, Any]:
    """The leased run as the runner API names it."""
    return {
        "id": str(run.pk),
        "kind": run.judged_as,
        "suite": run.suite,
        "preset": run.preset,
        "base_tree": run.base_tree_id,
        "candidate_tree": run.candidate_tree_id,
        "old": run.old,
        "earlier_confirmations": run.earlier_confirmations,
        "nonce": run.nonce,
    }


@dataclass
class World:
    """Mira posts and merges, Ruth reviews, Ann and Bob submit; the bounty has 100 credits of escrow."""

    escrow: int = 100_000_000
    rate: int = 20_000_000
    terms: dict[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = SAMPLE_MODULES
    mira: User = field(init=False)
    ruth: User = field(init=False)
    ann: User = field(init=False)
    bob: User = field(init=False)
    tree: StoredTree = field(init=False)
    lineage: Lineage = field(init=False)
    bounty: Bounty = field(init=False)
    key: Ed25519PrivateKey = field(init=False)
    runner: Runner = field(init=False)
    token: str = field(init=False)
    keys: dict[str, Ed25519PrivateKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mira, self.ruth = make_user("mira", "maintainer"), make_user("ruth", "maintainer")
        self.ann, self.bob = make_user("ann"), make_user("bob")
        ledger.fund_treasury(
            transfer_id=uuid4(), amount_microcredits=10 * self.escrow, memo="test", actor=self.mira
        )
        self.tree = small_tree(self.modules)
        self.lineage = create_lineage(
            actor=self.mira, name=f"line-{uuid4().hex[:8]}", base_tree=self.tree.pk, is_demo=True
        )
        self.bounty = self.open(**self.terms)
        self.key = generate_key()
        self.runner, self.token = self.add_runner(self.key)

    def open(self, **terms: Any) -> Bounty:
        asked = {
            "title": "Faster experts",
            "lineage": self.lineage.name,
            "suite": "moe_forward",
            "preset": "demo",
            "hardware": "cpu",
            "escrow_microcredits": self.escrow,
            "rate_microcredits_per_nat": self.rate,
            "accept_no_runner": True,
        }
        return open_bounty(actor=self.mira, **{**asked, **terms})

    def add_runner(self, key: Ed25519PrivateKey, *, host: str = "one") -> tuple[Runner, str]:
        made = register_runner(
            actor=self.mira,
            name=f"runner-{uuid4().hex[:8]}",
            hardware="cpu",
            public_key=public_key(key),
            host=host,
        )
        self.keys[made[0].key_id] = key
        return made

    def submit(self, who: User, diff: str, bounty: Bounty | None = None, **more: Any) -> Submission:
        return submit(actor=who, bounty_id=(bounty or self.bounty).pk, diff=diff, **more)

    def lease(self, runner: Runner | None = None) -> Run:
        return runner_calls.lease_run(runner=runner or self.runner, run_id=uuid4())

    def commit(self, run: Run, secret: bytes = SECRET) -> None:
        assert run.lease is not None and run.runner is not None
        runner_calls.commit(
            runner=run.runner, run_id=run.pk, lease=run.lease, commitment=commit(secret, run.nonce)
        )

    def record(self, run: Run, sealed: dict[str, Any]) -> Any:
        assert run.lease is not None and run.runner is not None
        return record_evidence(runner=run.runner, run_id=run.pk, lease=run.lease, sealed=sealed)

    def judge(self, speed_up_log: float, **how: Any) -> Run:
        """Lease the next run, commit, and post evidence of this speed-up. The submission is not advanced."""
        run = self.lease()
        self.commit(run)
        self.finish(run, speed_up_log, **how)
        return run

    def finish(self, run: Run, speed_up_log: float, **how: Any) -> None:
        """Post evidence of this speed-up for a leased run."""
        assert run.runner is not None
        key = self.keys.get(run.runner.key_id, self.key)
        self.record(run, invented_evidence(key=key, run=job_of(run), speed_up_log=speed_up_log, **how))

    def advance(self, submission: Submission) -> Submission:
        return advance_submission(submission_id=submission.pk)

    def gate(self, submission: Submission, speed_up_log: float, **how: Any) -> Submission:
        """Judge the submission's next run and advance it."""
        self.judge(speed_up_log, **how)
        return advance_submission(submission_id=submission.pk)

    def gate_all(self, speed_up_log: float, *submissions: Submission) -> list[Submission]:
        """Measure the waiting gates of all of them at once, each on a runner of its own; advance them in this order."""
        runs = {run.submission_id: run for run in (self._on_a_new_runner() for _ in submissions)}
        for submission in submissions:
            self.commit(runs[submission.pk])
            self.finish(runs[submission.pk], speed_up_log)
        return [self.advance(submission) for submission in submissions]

    def _on_a_new_runner(self) -> Run:
        return self.lease(self.add_runner(generate_key())[0])

    def confirmed(
        self, who: User, diff: str, speed_up_log: float = 0.3, bounty: Bounty | None = None
    ) -> Submission:
        """Submit, pass the gate, pass the confirmation, hold the guard rails."""
        submission = self.submit(who, diff, bounty)
        self.gate(submission, speed_up_log)
        return self.price(submission, speed_up_log)

    def price(self, submission: Submission, speed_up_log: float) -> Submission:
        """Pass the waiting confirmation or re-measurement, and hold the guard rails."""
        self.gate(submission, speed_up_log)
        return self.guard(submission)

    def guard(self, submission: Submission, speed_up_log: float = 0.0, **how: Any) -> Submission:
        """Judge the submission's guard rails, which hold unless told otherwise."""
        return self.gate(submission, speed_up_log, **how)

    def vested(self, who: User, diff: str, speed_up_log: float = 0.3) -> Submission:
        submission = self.confirmed(who, diff, speed_up_log)
        review(actor=self.ruth, submission_id=submission.pk, decision="accept")
        return merge(actor=self.mira, submission_id=submission.pk)
