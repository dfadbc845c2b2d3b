"""The wanted text of a pull request's one comment: what it says in each state, and that nothing breaks out of it."""

import html
import re
from datetime import timedelta

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bounty.github.pulls.sealing import NOTHING_CHANGED
from bounty.github.reports.checks import wanted_checks
from bounty.github.reports.comments import LIMIT, marker, units, wanted_comment
from bounty.github.reports.outcomes import outcome_of
from bounty.github.unclaimed import return_unclaimed
from bounty.limits import UNCLAIMED_AFTER
from bounty.models import (
    Approval,
    ApprovalState,
    Award,
    CommandState,
    Head,
    HeadState,
    Landing,
    LandingState,
    PullRequestState,
    Reversal,
    ReversalKind,
    ReversalState,
)
from bounty.services.awards.lifecycle import reverse
from bounty.services.disputes import file_dispute
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from bounty.tasks import reconcile_pull_requests
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.github.reports.room import Room
from tests.bounty.github.reports.test_checks import tell
from tests.bounty.github.reports.test_escaping import GFM, TEXTS, assert_without_effect, flat

pytestmark = pytest.mark.django_db


def text_of(room: Room) -> str:
    return wanted_comment(room.read())


def visible(text: str) -> str:
    """The text without what is folded."""
    return re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)


def test_the_first_comment_says_that_a_public_diff_is_public(room: Room) -> None:
    room.submitted()
    text = text_of(room)
    assert text.startswith(marker(room.pull_request))
    assert "A public diff is public" in text and "submit it on [its bounty's page]" in text
    assert f"[{room.world.bounty.short_name}](" in text and "Faster experts" in text
    assert "`model`" in text and "`moe_forward`" in text
    assert "Being judged" in text and "Results stay hidden until the verdict" in text


def test_a_pull_request_that_is_none_of_ours_gets_no_comment(room: Room) -> None:
    room.head(diff_blob="", state=HeadState.SEALED, problem=f"{NOTHING_CHANGED}model/, so.")
    assert text_of(room) == ""


def test_a_draft_is_told_that_it_is_public(room: Room) -> None:
    room.changed(bounty=None, is_draft=True)
    room.head()
    text = text_of(room)
    assert "A public diff is public" in text and "not judged while it is a draft" in text


def test_progress_does_not_edit_the_comment(room: Room) -> None:
    """Comments that change with each look would flood: what changes by itself stands in the check run."""
    head = room.submitted()
    assert head.submission is not None
    before = text_of(room)
    for speed_up in (0.3, 0.3, 0.0):
        run = room.world.lease()
        assert text_of(room) == before
        room.world.commit(run)
        room.world.finish(run, speed_up)
        assert text_of(room) == before
        room.world.advance(head.submission)
    assert text_of(room) != before


def test_the_verdict_is_told_with_figures_and_rank(room: Room) -> None:
    head = room.confirmed()
    text = visible(text_of(room))
    for words in (
        "Gain confirmed: at least +3",
        "| Estimate |",
        "| Lower bound",
        "| Pairs |",
        "| Noise |",
        "| Rank | 1 of 1",
    ):
        assert words in text, words
    assert f"/submissions/{head.submission_id}/" in text and "What to do next" in text
    assert "A public diff is public" not in text


@pytest.mark.parametrize("is_signed_off", [True, False])
def test_sign_off_is_said(room: Room, is_signed_off: bool) -> None:
    room.submitted(is_signed_off=is_signed_off)
    assert ("not every commit has it" in text_of(room)) is not is_signed_off


def test_where_it_does_not_apply_the_comment_names_what_to_rebase_on(room: Room) -> None:
    room.confirmed()
    room.head(
        state=HeadState.REFUSED, problem="It does not apply to tree 0123abcd: rebase on pull request #7."
    )
    text = visible(text_of(room))
    assert "It does not apply to tree 0123abcd" in text
    assert "The newest head is" in text and "pull request #7" not in text


def test_a_new_author_waits_for_a_judge_command(room: Room) -> None:
    room.changed(needs_judge_command=True)
    room.head(state=HeadState.WAITING)
    assert "judged after a comment `/judge` by somebody else" in text_of(room)


def test_a_merge_is_not_a_review(room: Room) -> None:
    room.confirmed()
    room.changed(state=PullRequestState.MERGED)
    text = text_of(room)
    assert "Merged, but not accepted yet" in text and "0 of 1 so far" in text and "`/accept`" in text


def test_an_accepted_one_waits_for_its_merge_and_then_is_paid(room: Room) -> None:
    head = room.confirmed()
    assert head.submission is not None
    review(actor=room.world.ruth, submission_id=head.submission.pk, decision="accept")
    assert "vests when this is merged" in text_of(room)
    merge(actor=room.world.mira, submission_id=head.submission.pk)
    assert "the award has vested" in text_of(room)


def test_a_merge_before_the_verdict_is_said(room: Room) -> None:
    room.submitted()
    room.changed(state=PullRequestState.MERGED)
    assert "Merged before its verdict" in text_of(room)


def test_who_never_signed_in_reads_how_to_claim(room: Room) -> None:
    room.confirmed()
    assert "sign in with GitHub" not in text_of(room)
    room.account("newcomer", is_dormant=True)
    text = text_of(room)
    assert "`newcomer`, to claim it** sign in with GitHub at <http" in text
    assert "90 days goes back to the bounty's escrow" in text


def test_an_award_that_nobody_claimed_is_said_to_be_back(room: Room) -> None:
    room.account(is_dormant=True)
    submission = room.submitted().submission
    assert submission is not None
    room.world.gate(submission, 0.3)
    room.world.price(submission, 0.3)
    review(actor=room.world.ruth, submission_id=submission.pk, decision="accept")
    merge(actor=room.world.mira, submission_id=submission.pk)
    outcome = outcome_of(room.read().heads.get())
    Award.objects.update(vested_at=timezone.now() - UNCLAIMED_AFTER)
    reconcile_pull_requests()
    text = visible(text_of(room))
    assert (
        "went back to the bounty's escrow" in text and "to claim it" not in text and "has vested" not in text
    )
    assert outcome_of(room.read().heads.get()) == outcome  # no second check run: the verdict stays


def test_unmeasured_code_is_named(room: Room) -> None:
    head = room.confirmed(unmeasured_paths=["setup.py"])
    assert "nobody measured: `setup.py`" in text_of(room)
    Head.objects.filter(pk=head.pk).update(unmeasured_accepted_at=timezone.now())
    assert "nobody measured" not in text_of(room)


def test_a_reversal_is_a_line_below_the_verdict(room: Room) -> None:
    head = room.confirmed()
    assert head.submission is not None
    tell(room)
    review(actor=room.world.ruth, submission_id=head.submission.pk, decision="accept")
    merge(actor=room.world.mira, submission_id=head.submission.pk)
    reverse(
        actor=room.world.ruth, submission=find_submission(head.submission.pk), reason="It caches answers."
    )
    tell(room)
    text = text_of(room)
    assert "Its award was taken back" in visible(text) and "It caches answers." in visible(text)
    history = text.partition("<summary>History")[2]
    assert history.index("Gain confirmed") < history.index(
        "Its award was taken back", history.index("Gain confirmed")
    )
    assert history.count("UTC: ") == 3  # the head, and one line for each check run


def test_a_dispute_hides_the_figures_again(room: Room) -> None:
    head = room.confirmed()
    assert head.submission is not None
    tell(room)
    file_dispute(actor=room.world.ann, submission_id=head.submission.pk, text="It is worth more.")
    text = text_of(room)
    assert "Disputed" in text and "%" not in text and "| Pairs" not in text


def test_commands_are_answered_and_older_answers_are_folded(room: Room) -> None:
    room.submitted()
    for number in range(6):
        room.command(f"/status {number}", answer=f"Answer {number}.")
    room.command("/judge B99", answer="There is no bounty B99.", state=CommandState.REFUSED)
    room.command("/bounty")
    text = text_of(room)
    assert "👎 `/judge B99` by `somebody`: There is no bounty B99." in visible(text)
    assert "⏳ `/bounty` by `somebody`: is being worked on." in visible(text)
    assert "Answer 5." in visible(text) and "Answer 2." not in visible(text) and "Answer 0." in text


def test_a_branch_that_went_back_is_said(room: Room) -> None:
    head = room.confirmed()
    assert head.submission is not None
    review(actor=room.world.ruth, submission_id=head.submission.pk, decision="accept")
    merge(actor=room.world.mira, submission_id=head.submission.pk)
    asked = {"lineage": room.world.lineage, "submission": head.submission, "tree": room.world.tree}
    row = Reversal.objects.create(kind=ReversalKind.REVERSAL, commit="c" * 40, **asked)
    assert "At `cccccccccccc` the branch went back" in text_of(room)
    Reversal.objects.filter(pk=row.pk).update(kind=ReversalKind.RESTORATION)
    assert "the branch has this code again" in text_of(room)
    Reversal.objects.filter(pk=row.pk).update(state=ReversalState.ENDED, ended_at=timezone.now())
    assert "the branch" not in visible(text_of(room)).partition("A maintainer accepts")[0]


def test_a_merge_of_another_tree_says_what_it_waits_for(room: Room) -> None:
    head = room.confirmed()
    assert head.submission is not None
    room.changed(state=PullRequestState.MERGED)
    Landing.objects.create(
        lineage=room.world.lineage,
        submission=head.submission,
        commit="c" * 40,
        tree_hash="d" * 64,
        state=LandingState.AGAIN,
        problem="It was merged on another tree; it is measured again.",
    )
    assert "❗ It was merged on another tree; it is measured again." in text_of(room)


def test_a_review_that_does_not_count_says_why(room: Room) -> None:
    head = room.confirmed()
    Approval.objects.create(
        review_id=1,
        head=head,
        github_id=5,
        state=ApprovalState.APPROVED,
        submitted_at=timezone.now(),
        problem="Its account is not linked.",
    )
    assert "An approving review does not count: Its account is not linked." in text_of(room)


def test_an_award_that_nobody_claimed_went_back(room: Room) -> None:
    head = room.confirmed()
    assert head.submission is not None
    room.account("newcomer", is_dormant=True)
    tell(room)
    review(actor=room.world.ruth, submission_id=head.submission.pk, decision="accept")
    merge(actor=room.world.mira, submission_id=head.submission.pk)
    Award.objects.update(vested_at=timezone.now() - timedelta(days=91))
    assert return_unclaimed() == 1
    text = text_of(room)
    assert "Not claimed within 90 days" in text and "to claim it" not in text and "Gain confirmed" in text
    assert wanted_checks(room.read()) == []


def test_heads_of_a_merge_queue_are_not_in_the_comment(room: Room) -> None:
    room.submitted()
    before = text_of(room)
    room.head(is_of_queue=True, diff_blob="")
    assert text_of(room) == before


HOSTILE = (
    "</details> @octocat fixes #34 | <!-- gainshare:pull-request:1 --> ![x](https://evil.example) `` \u202e # x\n# y\n"
    * 40
)


def test_a_comment_stays_under_githubs_limit_whatever_was_written(room: Room) -> None:
    room.world.bounty.title = "\U0001f389" * 200
    room.world.bounty.save(update_fields=["title"])
    room.changed(problem=HOSTILE * 20)
    room.account("x" * 100)
    for number in range(60):
        room.head(
            state=HeadState.REFUSED,
            problem=HOSTILE,
            unmeasured_paths=[f"{HOSTILE}{path}" for path in range(300)],
            sealed_at=timezone.now() + timedelta(seconds=number),
        )
        room.command(f"/{HOSTILE}"[:2000], answer="\U0001f389" * 3000 + HOSTILE)
    text = text_of(room)
    assert len(text) < LIMIT and units(text) < LIMIT and len(text.encode()) < 4 * LIMIT
    rendered = GFM.render(text)  # code is escaped there
    assert rendered.count("<details>") == rendered.count("</details>") > 0
    assert "Commands, each on a line of its own" in text or "More is on the submission's page" in text


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(written=TEXTS, second=st.text(max_size=60))
def test_nothing_that_people_wrote_breaks_out_of_the_comment(room: Room, written: str, second: str) -> None:
    """The same comment with harmless words has the same structure, and no word of theirs has an effect."""
    structures = []
    for words, other in (
        (written.replace("\x00", "") or "x", second.replace("\x00", "") or "x"),
        ("word", "word"),
    ):
        room.command("/judge", answer="x").__class__.objects.all().delete()
        Head.objects.all().delete()
        room.world.bounty.title = words[:200]
        room.world.bounty.save(update_fields=["title"])
        room.account((other + "x")[:100])
        room.changed(problem=words)
        room.head(state=HeadState.REFUSED, problem=other, unmeasured_paths=[words, other])
        room.command(words[:2000], answer=other, login=words[:100] or "x")
        tokens = flat(GFM.parse(text_of(room)))
        structures.append([token.type for token in tokens if token.type in STRUCTURE])
        links = [str(token.attrs["href"]) for token in tokens if "href" in token.attrs]
        assert all(link.startswith(("http://127.0.0.1", "https://gains.example")) for link in links)
        for token in tokens:
            if token.type == "text":
                assert_without_effect(html.unescape(token.content))
    assert structures[0] == structures[1]


STRUCTURE = {
    "heading_open", "list_item_open", "bullet_list_open", "ordered_list_open", "blockquote_open", "fence", "code_block",
    "hr", "image", "link_open", "table_open", "html_block", "em_open", "strong_open", "s_open", "code_inline",
}  # fmt: skip


def test_other_peoples_diffs_do_not_matter(room: Room) -> None:
    room.submitted()
    before = text_of(room)
    room.world.submit(room.world.bob, diff_of_line(9, "step_9 = 99"))
    assert text_of(room) == before
