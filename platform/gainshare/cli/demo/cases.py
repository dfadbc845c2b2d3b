"""The six diffs that the demo submits, and the verdict that each must get."""

from dataclasses import dataclass

from gainshare.cli.demo.bounties import ENGINE, EXPERTS, DemoBounty


@dataclass(frozen=True)
class Case:
    """One submission of the demo. ``verdicts`` are the expected ones."""

    author: str
    diff: str
    verdicts: frozenset[str]
    shows: str
    bounty: DemoBounty = EXPERTS


CASES = (
    Case(
        "grace",
        "engine/compiled_executor.diff",
        frozenset({"gain"}),
        "an honest speed-up earns an award, is served, and makes tokens cheaper",
        ENGINE,
    ),
    Case("carol", "patches/comment_only.diff", frozenset({"no_gain"}), "a changed comment earns nothing"),
    Case(
        "walter",
        "patches/faster_but_wrong.diff",
        frozenset({"wrong_output"}),
        "a faster patch with wrong outputs earns nothing",
    ),
    Case("sam", "patches/slower.diff", frozenset({"regression"}), "a slower patch earns nothing"),
    Case(
        "mallory",
        "patches/clock_cheat.diff",
        frozenset({"policy_violation"}),
        "a patch of the clock that writes its own verdict earns nothing",
    ),
    Case(
        "oscar",
        "patches/outside_policy.diff",
        frozenset({"patch_rejected", "policy_violation"}),
        "a diff outside the policy is refused before it runs",
    ),
)
HONEST_AUTHOR = CASES[0].author
