"""Candidates for the judge, made as real patches of the shipped stack."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evidence.signing import generate_key, public_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.job import Job
from benchmarks.judging.judge import judge
from benchmarks.patch.tree_folders import tree_folders
from benchmarks.patch.trees import BlobStore, Tree, shipped_tree
from tests.benchmarks.pairs.real_pairs import replaced

NONCE = "n" * 64
KEY = generate_key()
MOE = "model/layers/moe/layer.py"
EXPERTS = "model/layers/moe/experts.py"
REFERENCE = "model/layers/moe/experts_reference.py"

# Appended to the shipped layer: replaces its forward by one that does `{body}` around the honest answer.
WRAPPED = """

import os as _os, sys as _sys, threading as _threading, time as _time
_honest = MoELayer.forward


def _forward(self, x_TD):
    {body}


MoELayer.forward = _forward
"""

# Real work, done over and over: enough of it that no noise of a busy machine hides it.
EIGHTFOLD = """
for _ in range(8):
    y_TD = _honest(self, x_TD)
return y_TD
"""


@dataclass
class Bench:
    """Trees of the shipped stack and patches of it, in one store."""

    store: BlobStore
    folder: Path
    shipped: Tree = field(init=False)

    def __post_init__(self) -> None:
        self.shipped = shipped_tree(self.store)

    def text(self, path: str, tree: Tree | None = None) -> str:
        entry = (tree or self.shipped).get(path)
        assert entry is not None
        return self.store.get(entry.blob).decode()

    def patched(self, base: Tree, path: str, text: str) -> Tree:
        """`base` with one file replaced, by way of a real patch."""
        return replaced(base, path, text.encode(), self.store)

    def textbook(self) -> Tree:
        """Every expert computes every token."""
        return self.patched(self.shipped, EXPERTS, self.text(REFERENCE))

    def wrapped(self, body: str, base: Tree | None = None) -> Tree:
        tree = base or self.shipped
        indented = body.strip().replace("\n", "\n    ")
        return self.patched(tree, MOE, self.text(MOE, tree) + WRAPPED.format(body=indented))

    def judge(self, base: Tree, candidate: Tree, **options: Any) -> dict[str, Any]:
        """Gate with one look, so at most 6 pairs. Verified; returns the document."""
        callbacks = options.pop("callbacks", None) or Record()
        cancellation = options.pop("cancellation", None)
        fields = {
            "run_id": "run-1", "kind": "gate", "suite": "moe_forward", "preset": "tiny", "nonce": NONCE, "looks": 1,
        } | options  # fmt: skip
        job = Job(base_tree=base.hash, candidate_tree=candidate.hash, **fields)
        with tree_folders((base, candidate), self.store, self.folder / "trees") as folders:
            sealed = judge(job, tree_dirs=folders, key=KEY, callbacks=callbacks, cancellation=cancellation)
        report = verify_evidence(
            sealed,
            trusted_keys={sealed["signature"]["key_id"]: public_key(KEY)},
            nonce=fields["nonce"],
            commitment=callbacks.commitment,
        )
        assert report.ok, [check for check in report.checks if not check.holds]
        document: dict[str, Any] = sealed["document"]
        return document


class Record:
    """Callbacks that keep what they are told, in order."""

    def __init__(self, on_pair: Callable[[int], None] = lambda _: None) -> None:
        self.commitment = ""
        self.told: list[str] = []
        self.log = ""
        self.pairs: list[dict[str, Any]] = []
        self._on_progress = on_pair

    def on_commitment(self, commitment: str) -> None:
        self.commitment = commitment
        self.told.append("commitment")

    def on_pair(self, sealed: dict[str, Any]) -> None:
        self.pairs.append(sealed)

    def on_progress(self, stage: str, pairs_done: int, pairs_max: int) -> bool:
        self.told.append(f"{stage} {pairs_done}")
        self._on_progress(pairs_done)
        return False

    def on_log(self, text: str) -> None:
        self.log += text
