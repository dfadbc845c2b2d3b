"""Sealing of heads: each is fetched, and what it changes in the bound folder is read, checked and kept. No attempt is used.

A head's place in the sealed order was decided when it was seen; what takes time here does not change it.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.patch.paths import Refusal
from benchmarks.patch.policy import check_patch, load_policy
from benchmarks.patch.staged_blobs import StagedBlobs
from benchmarks.patch.trees import Tree
from bounty.code_digest import code_digest
from bounty.github.pulls.diffs import write_diff
from bounty.github.pulls.fetching import HeadGone, HeadRefused, fetch_head
from bounty.github.pulls.outside_files import TooMuchOutside, is_signed_off, unmeasured_paths
from bounty.github.repositories.folder_trees import read_folder
from bounty.github.repositories.git import Git, GitError
from bounty.limits import HEADS_PER_DAY
from bounty.models import Head, HeadState, PullRequest, RepositoryBinding
from bounty.services.series.copied_heads import end_later_copies, lock_lineages
from bounty.services.trees import blob_store, store_tree

DAY = timedelta(days=1)
NOTHING_CHANGED = "It changes nothing in "


class NotSealed(Exception):
    """A head that cannot be sealed. The message says why in words for its author, and what to do."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a head changes: the folder's diff from its merge base, empty where there is none, and the rest."""

    merge_base: str
    diff: str
    digest: str
    code: str
    tree: Tree
    blobs: StagedBlobs
    unmeasured: list[str]
    is_signed_off: bool


def seal_heads(pull: PullRequest, binding: RepositoryBinding) -> str:
    """Seal the heads of the pull request that were only seen so far; why the rest has to wait, or empty."""
    for head in pull.heads.filter(state=HeadState.SEEN, is_of_queue=False).order_by("sealed_at", "pk"):
        try:
            seal(head, binding)
        except GitError as error:
            return f"Commit {head.sha[:12]} could not be fetched yet; it is tried again. {error}"
    return ""


def seal(head: Head, binding: RepositoryBinding) -> None:
    """Fetch the head and keep what it changes, or why that is not taken. Raises GitError where it has to be repeated."""
    pull = head.pull_request
    row = Head.objects.filter(pk=head.pk, state=HeadState.SEEN)
    try:
        _require_few(pull, binding)
        copy, tip = fetch_head(binding, number=pull.number, sha=head.sha)
        fault_point("pulls.fetched")
        change = read_change(copy, head=head.sha, tip=tip, folder=binding.folder)
    except HeadGone as error:
        if head.sha == pull.head_sha:
            raise  # GitHub may be late itself
        row.update(state=HeadState.REPLACED, problem=str(error))
        return
    except (HeadRefused, TooMuchOutside, NotSealed) as error:
        row.update(state=HeadState.REFUSED, problem=str(error))
        return
    blob = change.blobs.put(change.diff.encode()) if change.diff else ""
    change.blobs.write()
    fault_point("pulls.blobs_stored")
    with transaction.atomic():
        lock_lineages(head)
        is_new = row.update(
            state=HeadState.SEALED,
            merge_base=change.merge_base,
            diff_blob=blob,
            patch_digest=change.digest,
            code_digest=change.code,
            tree=store_tree(tree=change.tree),
            unmeasured_paths=change.unmeasured,
            is_signed_off=change.is_signed_off,
            problem="" if blob else f"{NOTHING_CHANGED}{binding.folder}/, so there is nothing to measure.",
        )
        head.refresh_from_db()
        if is_new and blob:
            end_later_copies(head)
    fault_point("pulls.sealed")


def read_change(copy: Path, *, head: str, tip: str, folder: str) -> Change:
    """What the head changes since it left the branch. Raises NotSealed, TooMuchOutside, GitError."""
    base = _merge_base(copy, head, tip)
    unmeasured = unmeasured_paths(copy, base=base, head=head, folder=folder)
    store, policy = StagedBlobs(blob_store()), load_policy()
    try:
        before = read_folder(copy, commit=base, folder=folder, store=store)
        after = read_folder(copy, commit=head, folder=folder, store=store)
        patch, diff = None, write_diff(before, after, store, policy)
        if diff:
            patch = parse_patch(diff)
            check_patch(policy, patch)
            if apply_patch(before, patch, store).hash != after.hash:
                raise NotSealed("Its diff does not make its tree. Report this as a fault of the platform.")
    except Refusal as error:
        raise NotSealed(f"{error.code}: {error.message}") from None
    return Change(
        merge_base=base,
        diff=diff,
        digest=patch.digest if patch else "",
        code=code_digest(after, store) if patch else "",
        tree=after,
        blobs=store,
        unmeasured=unmeasured,
        is_signed_off=is_signed_off(copy, base=base, head=head),
    )


def _merge_base(copy: Path, head: str, tip: str) -> str:
    status, found = Git(copy).run("merge-base", "--end-of-options", tip, head, allowed=(0, 1))
    if status != 0:
        raise NotSealed(
            "It has no commit in common with the branch that it is to be merged into. Make it on top of that branch."
        )
    return found.decode("ascii").split()[0]


def _require_few(pull: PullRequest, binding: RepositoryBinding) -> None:
    """Bound what one author can have sealed, since it costs no attempt and keeps others from the same change."""
    recent = Head.objects.filter(
        pull_request__author=pull.author_id,
        pull_request__repository=pull.repository_id,
        seen_at__gt=timezone.now() - DAY,
    ).exclude(diff_blob="")
    if recent.count() >= HEADS_PER_DAY:
        raise NotSealed(
            f"{HEADS_PER_DAY} of your commits were sealed here within a day, which is the limit. Push again later."
        )
