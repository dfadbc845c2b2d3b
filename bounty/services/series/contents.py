"""Which merged gains a tree of a lineage contains: found by going back from tree to tree over the moves of its tip."""

from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from bounty.models import Award, AwardRole, AwardState, Lineage, StateChange, Submission

BOOKED = (AwardState.UNVESTED, AwardState.VESTED, AwardState.RETURNED, AwardState.REVERSED)


@dataclass
class Contents:
    """The merged submissions of one lineage. Read once; trees are then looked up in memory."""

    lineage: Lineage
    _merged: dict[str, list[Submission]] = field(init=False)
    _before: dict[str, str] = field(init=False)
    _known: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._merged = defaultdict(list)
        merged = Submission.objects.filter(bounty__lineage=self.lineage, merged_at__isnull=False)
        merged = merged.select_related("bounty")
        for submission in merged.order_by("merged_at"):
            self._merged[str(submission.candidate_tree_id)].append(submission)
        moves = StateChange.objects.filter(subject="lineage", subject_id=str(self.lineage.pk)).order_by("pk")
        # The first move to a tree made it; a later one, after a reversal, only goes back to it.
        self._before = {}
        for old, new in moves.values_list("old", "new"):
            if old and new != old:
                self._before.setdefault(new, old)

    def of(self, tree: str) -> frozenset[str]:
        """Ids of the merged submissions whose change the tree contains. Empty for a tree that was never the tip."""
        if tree not in self._known:
            self._known[tree] = frozenset(self._walk(tree))
        return self._known[tree]

    def merges_between(self, *, tip: str, until: str) -> list[Submission] | None:
        """The submissions whose merges led from the tree ``until`` to ``tip``, the oldest first.

        None if there is another change between them, such as a push to the repository that no one measured.
        """
        found: list[Submission] = []
        tree, seen = tip, set[str]()
        while tree != until:
            merged = self._merged.get(tree, [])
            if not merged or tree in seen:
                return None
            seen.add(tree)
            found.append(merged[-1])
            tree = str(merged[-1].base_tree_id)
        return found[::-1]

    def _walk(self, tree: str) -> set[str]:
        found: set[str] = set()
        seen: set[str] = set()
        while tree and tree not in seen:
            seen.add(tree)
            merged = self._merged.get(tree, [])
            found |= {str(submission.pk) for submission in merged}
            if merged:
                tree = str(merged[-1].base_tree_id)
            elif tree == self.lineage.origin_id:
                break
            else:
                tree = self._before.get(tree, "")
        return found


@dataclass(frozen=True, slots=True)
class BookedGain:
    """A merged gain with its confirmed log; ``is_paid`` is False once its award was returned or reversed."""

    submission: Submission
    log_ppm: int
    is_paid: bool


def booked_gains(ids: frozenset[str]) -> list[BookedGain]:
    """Gains among these submissions, in the order in which they were booked.

    Reversed ones take part, unpaid: while their code is in the tree, its saving is not credited to others.
    """
    awards = (
        Award.objects.filter(role=AwardRole.GAIN, submission__in=map(UUID, ids), state__in=BOOKED)
        .select_related("submission__bounty__lineage", "submission__submitter")
        .order_by("series_at", "created_at", "pk")
    )
    found: dict[str, BookedGain] = {}
    for award in awards:
        assert award.log_ppm_bound is not None, "a booked gain is confirmed"
        is_paid = award.state in (AwardState.UNVESTED, AwardState.VESTED)
        found[str(award.submission_id)] = BookedGain(award.submission, award.log_ppm_bound, is_paid)
    return list(found.values())
