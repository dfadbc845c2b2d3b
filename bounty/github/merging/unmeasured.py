"""Unmeasured pushes: which of them is followed next, and which has the change of an open submission in it.

A push that simply moves the tip would leave such a submission without its award: its diff no longer applies. So the tree that
its merge was made on is followed first, and the submission is measured again on that. Where the branch has more than its
change, or another form of it, the branch waits for a maintainer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from django.db import transaction

from benchmarks.patch.patches import Patch, PatchError, apply_patch, parse_patch
from benchmarks.patch.staged_blobs import StagedBlobs
from benchmarks.patch.trees import Tree, TreeError
from bounty.code_digest import code_digest
from bounty.github.merging.claims import undecided
from bounty.github.merging.containment import contains
from bounty.github.merging.landings import end_others, record
from bounty.github.repositories.folder_trees import FolderRefused, read_folder
from bounty.github.repositories.git import GitError
from bounty.github.repositories.histories import Step
from bounty.models import (
    LandingState,
    Lineage,
    PullRequest,
    RepositoryBinding,
    Submission,
    SubmissionState,
)
from bounty.services.trees import blob_store, load_tree

MAX_SUBMISSIONS = 20
MAX_COPIES = 50
MAX_STEPS = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """The commit to follow as a push, None for none now; and why the branch waits, if it does."""

    commit: str | None
    waits: str = ""


@dataclass(frozen=True, slots=True)
class Brought:
    """A submission whose change the branch has, not as it was measured."""

    submission: Submission
    step: Step
    state: LandingState
    problem: str
    below: Step | None = None  # the tree that its merge was made on, if that is not the tip


def plan(mirror: Path, binding: RepositoryBinding, lineage: Lineage, rest: Sequence[Step]) -> Plan:
    """What to do with trees that belong to no submission. Reads the repository; writes down what waits."""
    found = _brought(mirror, binding, lineage, rest)
    with transaction.atomic():
        Lineage.objects.select_for_update(no_key=True).get(pk=lineage.pk)
        still = set(undecided(lineage).values_list("pk", flat=True))
        found = [each for each in found if each.submission.pk in still]
        rows = [
            record(
                lineage=lineage,
                submission=each.submission,
                commit=each.step.commit,
                tree_hash=each.step.tree,
                state=each.state,
                problem=each.problem,
            )
            for each in found
        ]
        end_others(lineage, {row.pk for row in rows})
    if not found:
        return Plan(rest[-1].commit)
    below = next((each.below for each in found if each.below is not None), None)
    return Plan(None if below is None else below.commit, found[0].problem)


def _brought(
    mirror: Path, binding: RepositoryBinding, lineage: Lineage, rest: Sequence[Step]
) -> list[Brought]:
    open_ones = undecided(lineage).exclude(state=SubmissionState.CHECKED)
    submissions = list(open_ones[:MAX_SUBMISSIONS])
    if not submissions:
        return []
    store = StagedBlobs(blob_store())
    patches = {each.pk: parse_patch(store.get(each.diff_blob)) for each in submissions}
    steps = rest[-MAX_STEPS:]
    trees = [_tree_at(mirror, binding, step, store) for step in steps]
    tip = load_tree(lineage.tip)
    copies = _copies(submissions, store)
    found: dict[UUID, Brought] = {}
    for index, step in enumerate(steps):
        is_first = index == 0 and len(steps) == len(rest)
        before = tip if is_first else trees[index - 1] if index else None
        for each in submissions:
            if each.pk not in found and before is not None and _makes(before, patches[each.pk], step, store):
                found[each.pk] = _again(each, step, None if is_first else steps[index - 1])
        for original, patch in copies:
            if original.pk not in found and before is not None and _makes(before, patch, step, store):
                found[original.pk] = _differs(original, step)
        tree = trees[index]
        same_code = "" if tree is None else code_digest(tree, store)
        for each in submissions:
            if each.pk not in found and same_code and each.code_digest == same_code:
                found[each.pk] = _differs(each, step)
    by_number = _merged_as_pull_requests(binding, rest)
    newest = trees[-1]
    for each in submissions:
        if each.pk in found:
            continue
        at = by_number.get(each.pk)
        if at is None and newest is not None:
            patch = patches[each.pk]
            if contains(newest, patch, store) and not contains(tip, patch, store):
                at = rest[-1]
        if at is not None:
            found[each.pk] = _differs(each, at)
    return list(found.values())


def _tree_at(mirror: Path, binding: RepositoryBinding, step: Step, store: StagedBlobs) -> Tree | None:
    try:
        return read_folder(mirror, commit=step.commit, folder=binding.folder, store=store)
    except (FolderRefused, GitError):
        return None


def _makes(before: Tree, patch: Patch, step: Step, store: StagedBlobs) -> bool:
    try:
        return apply_patch(before, patch, store).hash == step.tree
    except (PatchError, TreeError):
        return False


def _merged_as_pull_requests(binding: RepositoryBinding, rest: Sequence[Step]) -> dict[UUID, Step]:
    """Submission -> the commit of its pull request's merge, for merges that GitHub has told of."""
    if binding.github_id is None:
        return {}
    at = {step.commit: step for step in rest}
    rows = PullRequest.objects.filter(
        repository=binding.github_id, branch=binding.branch, merge_sha__in=list(at)
    )
    named = rows.filter(heads__submission__isnull=False).values_list("heads__submission", "merge_sha")
    return {submission: at[sha] for submission, sha in named}


def _copies(submissions: Sequence[Submission], store: StagedBlobs) -> list[tuple[Submission, Patch]]:
    """Copies of the submissions, which pay no one, each with its original. They have other comments or layout."""
    originals = {each.pk: each for each in submissions}
    rows = Submission.objects.filter(copy_of__in=list(originals)).order_by("sealed_at")[:MAX_COPIES]
    return [
        (originals[row.copy_of_id], parse_patch(store.get(row.diff_blob)))
        for row in rows
        if row.copy_of_id is not None
    ]


def _again(submission: Submission, step: Step, below: Step | None) -> Brought:
    problem = (
        f"Submission {submission.pk} was merged on GitHub at {step.commit[:12]}, on another tree than the one it was measured "
        "on. It is measured again on that tree, and its merge counts when the new price is accepted."
    )
    return Brought(submission, step, LandingState.AGAIN, problem, below)


def _differs(submission: Submission, step: Step) -> Brought:
    problem = (
        f"The branch has the change of submission {submission.pk} since {step.commit[:12]}, but not as it was measured: the "
        "folder there is a tree that nobody measured, so that nothing vests by it and the tip stays. Accept and merge the "
        "submission here, then the rest of the branch is followed as a push; or commit its measured tree "
        f"{str(submission.candidate_tree_id)[:12]} to the branch; or decline it."
    )
    return Brought(submission, step, LandingState.DIFFERS, problem)
