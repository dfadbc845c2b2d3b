"""The parts of a pull request's comment that are always shown. Each is Markdown, or empty where it has nothing to say."""

from datetime import timedelta

from django.contrib.auth.models import AnonymousUser

from bounty.github.reports.escaping import code, prose
from bounty.github.reports.figures import table
from bounty.github.reports.links import bounty_link, bounty_url, how_url, site, submission_url
from bounty.github.reports.outcomes import booked_award, is_public, lacks_acceptance, outcome_of
from bounty.github.reports.words import MOST_REASON, figure_rows, next_step, unmeasured_text
from bounty.models import (
    AwardState,
    DisputeState,
    Head,
    HeadState,
    PullRequest,
    PullRequestState,
    Submission,
    SubmissionState,
)
from bounty.services.awards.lifecycle import acceptances
from bounty.services.course import shown_state
from bounty.visibility import BEING_JUDGED
from gainshare.web.formatting import in_credits

UNCLAIMED = timedelta(days=90)
ICONS = {"success": "✅", "failure": "❌", "neutral": "⚪", "cancelled": "⚪", "action_required": "❗"}
S = SubmissionState


def headline(pull_request: PullRequest, head: Head | None) -> str:
    """One line: what the shown head has come to."""
    if head is None:
        return "Its first commit is being read."
    commit, outcome = code(head.sha[:12]), outcome_of(head)
    if outcome is not None:
        return f"{ICONS[outcome.conclusion]} **{prose(outcome.title)}** ({commit})"
    submission = head.submission
    if submission is None:
        return f"⏳ **{_before_judging(head)}** ({commit})"
    if submission.disputes.filter(state=DisputeState.OPEN).exists():
        return f"⏳ **Disputed: a maintainer other than its author answers** ({commit})"
    again = " again" if any(row.is_final for row in head.reports.all()) else ""
    return (
        f"⏳ **Being judged{again}** ({commit}). The check run shows its progress, [its page]({submission_url(submission)}) "
        "too. Results stay hidden until the verdict."
    )


def _before_judging(head: Head) -> str:
    if head.state == HeadState.SEEN:
        return "Its diff is being read"
    if head.state == HeadState.SEALED:
        draft = (
            ", not judged while it is a draft" if head.pull_request.is_draft else "; `/judge` has it judged"
        )
        return f"Sealed{draft}"
    return "Waiting to be judged"


def newest(head: Head | None, heads: list[Head]) -> str:
    """What the newest head has come to, where another one is shown."""
    last = heads[-1] if heads else None
    if head is None or last is None or last.pk == head.pk:
        return ""
    outcome = outcome_of(last)
    state = f"{_before_judging(last)}." if outcome is None else f"{prose(outcome.title)}."
    return f"The newest head is {code(last.sha[:12])}: {state}"


def problems(pull_request: PullRequest, head: Head | None, heads: list[Head]) -> str:
    """Why it is not judged, and what to do: the tree or the pull request to rebase on, a missing bounty, a new account."""
    parts = []
    is_judged = head is not None and head.submission is not None
    if pull_request.problem:
        parts.append(prose(pull_request.problem, most=MOST_REASON))
    said = {one.problem: one for one in (head, *heads[-1:]) if one is not None and one.problem}
    parts += [prose(words, most=MOST_REASON) for words in said if words != pull_request.problem]
    if pull_request.needs_judge_command and not is_judged and pull_request.state == PullRequestState.OPEN:
        parts.append(
            "Its author is new here, so it is judged after a comment `/judge` by somebody else who may write to this "
            "repository."
        )
    if head is not None and lacks_acceptance(head):
        parts.append(unmeasured_text(head))
    return "\n\n".join(f"❗ {part}" for part in parts)


def verdict(head: Head | None) -> str:
    """The verdict's reason and figures, and what to do next."""
    outcome = None if head is None else outcome_of(head)
    if head is None or outcome is None:
        return ""
    submission, parts = head.submission, []
    if outcome.reason and outcome.reason != head.problem:
        parts.append(prose(in_credits(outcome.reason), most=MOST_REASON))
    if submission is not None:
        parts.append(table(figure_rows(submission)))
    if step := next_step(head, outcome):
        parts.append(f"**What to do next:** {step}")
    if submission is not None:
        parts.append(f"[Samples, evidence, log and history]({submission_url(submission)})")
    return "\n\n".join(part for part in parts if part)


def payment(pull_request: PullRequest, head: Head | None) -> str:
    """Review, merge and award: what it waits for, and how its author claims it."""
    submission = None if head is None else head.submission
    if head is None or submission is None or not is_public(submission):
        return _merged_without_verdict(pull_request, submission)
    award = booked_award(submission)
    if award is None:
        return _merged_without_verdict(pull_request, submission)
    parts = []
    if submission.state == S.VESTED or award.state == AwardState.VESTED:
        parts.append("**Paid:** the award has vested.")
    else:
        parts.append(_waits(pull_request, head, submission))
    parts.append(_claim(pull_request))
    return "\n\n".join(part for part in parts if part)


def _waits(pull_request: PullRequest, head: Head, submission: Submission) -> str:
    """What a booked award still waits for."""
    given, needed = acceptances(submission)
    how = (
        "A maintainer accepts with a comment `/accept`, or with an approving review of the measured head; not its author, "
        "and not who is paid."
    )
    is_merged = pull_request.state == PullRequestState.MERGED
    if submission.state == S.CONFIRMED:
        merged = "**Merged, but not accepted yet:** a merge is not a review. " if is_merged else ""
        return f"{merged}The award waits for acceptances by platform maintainers: {given} of {needed} so far. {how}"
    if lacks_acceptance(head):
        return f"Accepted. The award still waits for an acceptance that names the code that nobody measured. {how}"
    if is_merged:
        return "Accepted and merged. The award vests when the merged folder is the measured one; another one is measured again."
    return "Accepted. The award vests when this is merged and the merged folder is the measured one."


def _merged_without_verdict(pull_request: PullRequest, submission: Submission | None) -> str:
    if pull_request.state != PullRequestState.MERGED or submission is None:
        return ""
    if shown_state(submission, AnonymousUser()) != BEING_JUDGED:
        return ""
    return "**Merged before its verdict.** A merge is not a review, so it is still judged, and an award waits for both."


def _claim(pull_request: PullRequest) -> str:
    """How somebody who has never signed in gets the credits."""
    author = pull_request.author
    if not author.is_dormant:
        return ""
    return (
        f"**{code(author.login)}, to claim it** sign in with GitHub at <{site()}> once. What is not claimed within "
        f"{UNCLAIMED.days} days goes back to the bounty's escrow."
    )


def bounty(pull_request: PullRequest) -> str:
    """Which bounty it is for, and what is judged."""
    asked = pull_request.bounty
    if asked is None:
        return ""
    binding = pull_request.repository.bindings.filter(lineage=asked.lineage_id).first()
    folder = "the bound folder" if binding is None else f"{code(binding.folder)}"
    return (
        f"**Bounty** {bounty_link(asked)}\n\n"
        f"Judged is what this pull request changes in {folder}: suite {code(asked.suite)}, preset {code(asked.preset)}, "
        f"hardware {code(asked.hardware)}, against the best tree of the series. [How a patch is judged]({how_url()})"
    )


def sealing(pull_request: PullRequest, head: Head | None) -> str:
    """That a public diff is public, and how to submit privately first."""
    if pull_request.state != PullRequestState.OPEN or (head is not None and outcome_of(head) is not None):
        return ""
    asked = pull_request.bounty
    where = (
        f"[its bounty's page]({bounty_url(asked)})"
        if asked is not None
        else f"[the site]({site('/bounties/')})"
    )
    return (
        "**A public diff is public.** Everyone can read and copy this one from now on; each head is sealed when it is seen, "
        "and of two equal patches only the one sealed first earns. To keep a patch to yourself until it is decided, submit "
        f"it on {where} first and open the pull request afterwards: the same diff is then the same submission."
    )


def sign_off(head: Head | None) -> str:
    """Whether each commit is signed off."""
    if head is None or head.state == HeadState.SEEN:
        return ""
    if head.is_signed_off:
        return "Sign-off (DCO): each commit has it."
    return "Sign-off (DCO): not every commit has it. Add it with `git commit --signoff` or `git rebase --signoff`, and push."


def help_text() -> str:
    """The commands, in one line."""
    return (
        "<sub>Commands, each on a line of its own in a new comment: `/judge [B12]`, `/cancel`, `/bounty`, `/status`, "
        "`/dispute TEXT`. This comment is edited in place.</sub>"
    )
