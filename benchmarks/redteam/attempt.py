"""One patch from positive control to verdict, and whether all of it came out as it must."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pairs.builds.memory import REMEMBERED
from benchmarks.pairs.side import SideFailed
from benchmarks.patch.patches import PatchError, apply_patch, parse_patch
from benchmarks.redteam.judging import QUIET_LOG, Bench, Outcome
from benchmarks.redteam.naive import SLOT, Control, run_control
from benchmarks.redteam.patch_file import ROOT, RedTeamPatch

CHECKOUT_PARTS = ("benchmarks", "tests/model")


@dataclass(frozen=True, slots=True)
class Attempt:
    """`control` is None for honest patches, which have nothing to prove, and where it was left out."""

    patch: RedTeamPatch
    control: Control | None
    outcome: Outcome

    @property
    def is_as_expected(self) -> bool:
        """A verdict that the header names; a cheat that works where it should, and no award for it."""
        if self.outcome.verdict not in self.patch.expect:
            return False
        if not self.patch.is_cheat:
            return True
        return not self.outcome.is_awarded and (self.control is None or self.control.is_won)


def attempt(
    bench: Bench, patch: RedTeamPatch, *, with_control: bool = True, say: Callable[[str], None] = QUIET_LOG
) -> Attempt:
    """Raises what the judge raises where nothing can be measured."""
    control = control_of(bench, patch) if patch.is_cheat and with_control else None
    return Attempt(patch, control, bench.judge(patch, say=say))


def control_of(bench: Bench, patch: RedTeamPatch, *, arguments: tuple[str, ...] = ()) -> Control:
    """Run the cheat in its naive harness. A diff that its harness cannot apply wins nothing."""
    base = bench.base(patch)
    if needs_checkout(patch):
        with bench.written(base) as folders:
            mounts = {
                "/base/model": folders[base.hash] / "model",
                **_checkout(bench, folders[base.hash], patch),
            }
            return run_control(patch.naive, mounts, arguments=arguments, level=bench.level)
    try:
        candidate = apply_patch(base, parse_patch(patch.diff), bench.store)
    except PatchError as error:
        return Control(patch.naive, 0.0, f"it does not apply: {error.message}")
    with bench.written(base, candidate) as folders:
        mounts = {
            "/base/model": folders[base.hash] / "model",
            "/candidate/model": folders[candidate.hash] / "model",
        }
        for name, tree in (("base", base), ("candidate", candidate)):
            with suppress(SideFailed):  # then the harness finds no library, and sees what it makes of that
                REMEMBERED.build(name, folders[tree.hash], level=bench.level, slot=SLOT)
        return run_control(patch.naive, mounts, arguments=arguments, level=bench.level)


def needs_checkout(patch: RedTeamPatch) -> bool:
    """True if its naive harness applies the diff itself."""
    return patch.naive.startswith("checkout")


def _checkout(bench: Bench, base: Path, patch: RedTeamPatch) -> dict[str, Path]:
    """A copy of what a careless scorer keeps next to the model, and the diff, readable for the sandbox's user."""
    folder = bench.folder / "checkout"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base / "model", folder / "model")
    for part in CHECKOUT_PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    diff = bench.folder / "cheat.diff"
    diff.write_bytes(patch.diff)
    diff.chmod(0o644)
    return {"/original": folder, "/cheat.diff": diff}
