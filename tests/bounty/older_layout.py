"""Simulates an older layout: within it the judge measures trees with `OLD_MODULES`."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.patch import layout
from bounty.models import Run, RunState
from bounty.models.runs import OPEN_RUN_STATES
from gainshare.ledger.audit import audit

OLD_MODULES = ("model.checkpoint", "model.layers.layer")


@contextmanager
def older_version() -> Iterator[None]:
    """Context in which the platform has the older layout; on exit the new version is installed."""
    present = layout.SAMPLE_MODULES
    layout.SAMPLE_MODULES = OLD_MODULES
    try:
        yield
    finally:
        layout.SAMPLE_MODULES = present


def unfinished_runs() -> int:
    return Run.objects.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]).count()


def broken_invariants() -> list[str]:
    return [invariant.name for invariant in audit() if not invariant.holds]


def new_file(name: str, text: str = "FAST = True") -> str:
    """A diff that adds one little file, which applies to every tree without it."""
    path = f"model/layers/moe/{name}.py"
    return f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{text}\n"
