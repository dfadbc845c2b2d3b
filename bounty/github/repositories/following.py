"""Follows a bound branch: fetches it, reads its folder, and moves the lineage's tip to what was pushed.

Fetching and reading are outside of any transaction, and each can be repeated. The tip moves by one conditional update,
together with the binding and the record of the push. A push is not measured: `bounty.services.series.pushes` has gains beat
what it replaced as well. A push of what was measured is a merge (`bounty.github.merging.recognition`), and one that takes a
merge back is a question (`bounty.github.merging.reversals`).
"""

import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.patch.layout import missing_modules
from benchmarks.patch.patches import parse_patch
from benchmarks.patch.paths import Refusal
from benchmarks.patch.policy import check_touched, load_policy
from benchmarks.patch.staged_blobs import StagedBlobs
from benchmarks.patch.trees import Tree, shipped_tree
from bounty.errors import BountyError, NotFound
from bounty.github.merging.claims import claim_of, wait_of
from bounty.github.merging.containment import contains
from bounty.github.merging.landings import end_others as end_landings
from bounty.github.merging.recognition import walk
from bounty.github.merging.reversals import ask
from bounty.github.merging.reversals import end_others as end_reversals
from bounty.github.merging.unmeasured import plan
from bounty.github.repositories import mirrors
from bounty.github.repositories.addresses import Place
from bounty.github.repositories.folder_trees import FolderRefused, read_folder
from bounty.github.repositories.git import GitError
from bounty.github.repositories.histories import Step, steps_since
from bounty.models import (
    Lineage,
    Push,
    RepositoryBinding,
    RepositoryStop,
    StoredTree,
    Submission,
    Switch,
)
from bounty.services.awards.advance import advance_submission
from bounty.services.emergency import is_stopped
from bounty.services.runs.old_trees import stops_merges
from bounty.services.series.best import wake_left_behind
from bounty.services.transitions import note
from bounty.services.trees import blob_store, load_tree, store_tree

logger = logging.getLogger(__name__)

RETRY_AFTER = timedelta(minutes=10)
MAX_PUSHES = 3  # one after the other, in one fetch
MAX_MERGES = 10


class NotFollowed(BountyError):
    """The newest state of the branch does not become the tip. The message is shown with the lineage."""

    code = "not_followed"


@dataclass(frozen=True, slots=True)
class Found:
    """What a fetch found: the branch's commit, the tree of its folder, or why that is none, and the trees up to it."""

    commit: str
    tree: StoredTree | None
    refusal: str = ""
    is_lost: bool = False
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of it: submissions that were merged, and the trees that are not followed yet or wait."""

    merged: tuple[UUID, ...] = ()
    rest: tuple[Step, ...] = ()
    waits: str = ""


def mirror_of(binding: RepositoryBinding) -> Path:
    """Folder of the binding's bare repository."""
    return Path(settings.REPOSITORY_ROOT) / f"{binding.pk}.git"


def pulls_mirror_of(binding: RepositoryBinding) -> Path:
    """Folder of the bare repository that the binding's pull requests are fetched into."""
    return Path(settings.REPOSITORY_ROOT) / f"{binding.pk}-pulls.git"


def due_lineages() -> list[str]:
    """Names of the lineages whose repository has to be fetched. After a failure that is later than otherwise."""
    due = Q(problem="") | Q(checked_at__lt=timezone.now() - RETRY_AFTER)
    return list(RepositoryBinding.objects.filter(due).values_list("lineage__name", flat=True))


def follow(*, lineage: str) -> RepositoryBinding:
    """Fetch the lineage's repository and follow its branch. Raises NotFound for a lineage without a repository.

    What cannot be followed leaves the tip as it is and is written down as the binding's problem.
    """
    binding = RepositoryBinding.objects.select_related("lineage").filter(lineage__name=lineage).first()
    if binding is None:
        raise NotFound(
            "This lineage is not bound to a repository. Bind it with `gainshare lineages bind`, or on its page."
        )
    try:
        problem = _follow(binding)
    except mirrors.Busy:
        return binding  # the process that fetches it now says what was found
    except (GitError, NotFollowed) as error:
        problem = str(error)
    row = RepositoryBinding.objects.select_related("lineage").filter(pk=binding.pk)
    if not row.update(problem=problem, checked_at=timezone.now()):
        mirrors.remove(mirror_of(binding))  # the binding ended meanwhile
        return binding
    fault_point("repository.followed")
    return row.get()


def _follow(binding: RepositoryBinding) -> str:
    """Fetch, merge what was accepted, and follow the rest as pushes, one after the other; why the branch waits, or empty.

    Raises GitError, NotFollowed.
    """
    found = _find(binding)
    waits = ""
    for _ in range(MAX_PUSHES):
        settled = _settle(binding, found)
        fault_point("repository.merged")
        for submission_id in settled.merged:
            advance_submission(submission_id=submission_id)
        if settled.waits or not settled.rest:
            return settled.waits or waits
        waits = _push(binding, found, settled.rest)
        if not waits:
            return ""
    return waits


def _push(binding: RepositoryBinding, found: Found, rest: tuple[Step, ...]) -> str:
    """Follow trees that belong to no submission as a push; why what is left of them waits, or empty. Raises NotFollowed."""
    lineage = Lineage.objects.select_related("tip").get(pk=binding.lineage_id)
    planned = plan(mirror_of(binding), binding, lineage, rest)
    if planned.commit is None:
        raise NotFollowed(planned.waits)
    tree = found.tree
    if planned.commit != rest[-1].commit:
        tree = _stored(mirror_of(binding), planned.commit, binding)
    if tree is None:
        raise NotFollowed(found.refusal)
    _require_no_paid_loss(binding, lineage, tree, rest)
    commit = found.commit if planned.commit == rest[-1].commit else planned.commit
    _move(binding, commit, tree, replaced=lineage.tip)
    fault_point("repository.tip_moved")
    return planned.waits


def _find(binding: RepositoryBinding) -> Found:
    """Fetch the branch, and read its folder where that may have changed. Raises GitError."""
    folder = mirror_of(binding)
    place = Place(binding.url, binding.branch, binding.folder)
    commit = mirrors.fetch(folder, place, protocols=tuple(settings.REPOSITORY_PROTOCOLS))
    if commit == binding.commit and binding.tree_id is not None:
        return Found(commit, binding.tree)
    is_lost = bool(binding.commit) and not mirrors.descends(folder, old=binding.commit, new=commit)
    steps: tuple[Step, ...] = ()
    if not is_lost:
        steps = steps_since(folder, commit=commit, folder=binding.folder, since=binding.commit)
    try:
        tree = _stored(folder, commit, binding)
    except (FolderRefused, NotFollowed) as error:
        return Found(commit, None, str(error), is_lost, steps)
    if not steps or steps[-1].tree != tree.pk:
        steps = (*steps, Step(commit, tree.pk))
    return Found(commit, tree, is_lost=is_lost, steps=steps)


def _stored(folder: Path, commit: str, binding: RepositoryBinding) -> StoredTree:
    """The folder's tree, stored, if the lineage may have it as its tip. Raises FolderRefused, NotFollowed."""
    store = StagedBlobs(blob_store())
    tree = read_folder(folder, commit=commit, folder=binding.folder, store=store)
    if missing := missing_modules(entry.path for entry in tree.entries):
        raise NotFollowed(
            f"The folder has no {', '.join(missing[:3])}, which the judge imports. Bring the branch to the present "
            "layout of model/."
        )
    tip = Lineage.objects.select_related("tip").get(pk=binding.lineage_id).tip
    _require_allowed(tree, load_tree(tip))
    store.write()
    fault_point("repository.blobs_stored")
    return store_tree(tree=tree, parent=tip if tip.pk != tree.hash else None)


def _require_allowed(tree: Tree, tip: Tree) -> None:
    """Refuse a change of a protected file, and of a kind that no patch may touch, except to the installed stack's own.

    Raises NotFollowed.
    """
    changed = {entry.path for entry in set(tree.entries) ^ set(tip.entries)}
    if not changed:
        return
    installed = shipped_tree(blob_store())
    for path in sorted(changed):
        if tree.get(path) != installed.get(path):
            try:
                check_touched(load_policy(), path)
            except Refusal as error:
                raise NotFollowed(f"The push changes what no patch may change. {error.message}") from None


def _settle(binding: RepositoryBinding, found: Found) -> Settled:
    """Merge what was found and accepted, and write down what waits, under the lineage's lock. Repeating it changes nothing."""
    with transaction.atomic():
        lineage = (
            Lineage.objects.select_for_update(no_key=True).select_related("tip").get(pk=binding.lineage_id)
        )
        unchanged = {"pk": binding.pk, "commit": binding.commit, "tree": binding.tree_id}
        row = RepositoryBinding.objects.filter(**unchanged).first()
        if row is None:
            return Settled()  # another process has followed meanwhile, or it is bound to another one
        stop = lineage.standing_repository_stop
        if stop is not None:
            RepositoryStop.objects.filter(pk=stop.pk).update(found_commit=found.commit)
            return Settled()
        if found.is_lost and (found.tree is None or found.tree.pk not in (lineage.tip_id, row.tree_id)):
            _stop(lineage, row, found)
            return Settled()
        had_tip = lineage.tip_id in (row.tree_id, *(step.tree for step in found.steps))
        is_unchanged = found.tree is not None and found.tree.pk == row.tree_id and not had_tip
        if found.tree is not None and (is_unchanged or found.tree.pk == lineage.tip_id):
            end_landings(lineage, keep=set())
            end_reversals(lineage)
            RepositoryBinding.objects.filter(**unchanged).update(commit=found.commit, tree=found.tree)
            return Settled()
        walked = walk(lineage, row, found.steps)
        waits = walked.waits
        if not walked.rest:
            end_reversals(lineage)
        elif not waits:
            waits = ask(lineage, walked.rest, had_tip=had_tip)
        if waits or not walked.rest:
            end_landings(lineage, keep=walked.landings)
        if walked.last is not None:
            is_newest = not walked.rest and found.tree is not None
            commit = found.commit if is_newest else walked.last.commit
            RepositoryBinding.objects.filter(**unchanged).update(commit=commit, tree=walked.last.tree)
            binding.commit, binding.tree_id = commit, walked.last.tree
        fault_point("repository.before_merges_commit")
    if not walked.rest and found.tree is None and not waits:
        raise NotFollowed(found.refusal)
    return Settled(tuple(walked.merged), walked.rest, waits)


def _require_no_paid_loss(
    binding: RepositoryBinding, lineage: Lineage, pushed: StoredTree, rest: tuple[Step, ...]
) -> None:
    """A tip that a merge made must have been on the branch: else the push would drop what was paid for.

    Raises NotFollowed.
    """
    last = lineage.pushes.last()
    is_merged = lineage.tip_id != lineage.origin_id and (last is None or last.tree_id != lineage.tip_id)
    if not is_merged or lineage.tip_id in (binding.tree_id, *(step.tree for step in rest)):
        return
    if _has_merged_change(lineage, pushed):
        return
    raise NotFollowed(
        f"The branch does not have the lineage's tip {lineage.tip_id[:12]}, which merged gains made. Commit that tree to "
        "the branch first (the lineage's page links its files), then your change."
    )


def _has_merged_change(lineage: Lineage, pushed: StoredTree) -> bool:
    """Whether the pushed tree has the changes of the merges that made the tip since the last push, in whatever form."""
    store, tree = blob_store(), load_tree(pushed)
    last = lineage.pushes.last()
    at, bottom = lineage.tip_id, lineage.origin_id if last is None else last.tree_id
    for _ in range(MAX_MERGES):
        if at == bottom:
            return True
        merges = Submission.objects.filter(
            bounty__lineage=lineage, candidate_tree=at, merged_at__isnull=False
        )
        merged = merges.order_by("-merged_at").first()
        if merged is None or not contains(tree, parse_patch(store.get(merged.diff_blob)), store):
            return False
        at = merged.base_tree_id
    return False


def _move(binding: RepositoryBinding, commit: str, tree: StoredTree, *, replaced: StoredTree) -> None:
    """Make the pushed tree the tip. Nothing happens if tip or binding have changed meanwhile. Raises NotFollowed."""
    with transaction.atomic():
        lineage = Lineage.objects.select_for_update(no_key=True).get(pk=binding.lineage_id)
        unchanged = {"pk": binding.pk, "commit": binding.commit, "tree": binding.tree_id}
        if lineage.tip_id != replaced.pk or not RepositoryBinding.objects.filter(**unchanged).exists():
            return
        _require_running(lineage)
        _require_unclaimed(lineage, tree)
        RepositoryBinding.objects.filter(**unchanged).update(commit=commit, tree=tree)
        binding.commit, binding.tree_id = commit, tree.pk
        Lineage.objects.filter(pk=lineage.pk, tip=replaced).update(tip=tree)
        Push.objects.create(lineage=lineage, replaced=replaced, tree=tree, commit=commit)
        note(
            lineage,
            old=replaced.pk,
            new=tree.pk,
            reason=f"push of {commit[:12]} to {binding.branch} of {binding.url}",
        )
        wake_left_behind(lineage_id=lineage.pk)
        fault_point("repository.before_commit")


def _require_running(lineage: Lineage) -> None:
    if is_stopped(Switch.MERGES):
        raise NotFollowed("Merges are stopped, so the tip stays. The push is followed when they continue.")
    if stops_merges(lineage_id=lineage.pk):
        raise NotFollowed(
            "A base of this lineage is in doubt, so the tip stays. The push is followed when a maintainer has decided."
        )


def _require_unclaimed(lineage: Lineage, tree: StoredTree) -> None:
    """The measured tree of an open submission becomes the tip by its merge, which pays it, and not by a push."""
    claim = claim_of(lineage, tree.pk)
    if claim is not None:
        raise NotFollowed(wait_of(claim.submission, "just now"))


def _stop(lineage: Lineage, binding: RepositoryBinding, found: Found) -> None:
    reason = (
        f"The history of {binding.branch} was rewritten: it no longer has the commit {binding.commit[:12]}, from which "
        f"the lineage's tip came. The branch is at {found.commit[:12]} now."
    )
    RepositoryStop.objects.create(
        lineage=lineage,
        tree=lineage.tip,
        lost_commit=binding.commit,
        found_commit=found.commit,
        reason=reason,
    )
    note(lineage, old=lineage.tip_id, new=lineage.tip_id, reason=f"merges stopped: {reason}")
