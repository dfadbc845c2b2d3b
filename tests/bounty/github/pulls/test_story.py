"""From an event to a submission, against the stand-in for GitHub: the webhook's door, fetches and commands are real."""

from bounty.github.reports.outcomes import outcome_of
from bounty.github.standin import git
from bounty.models import Delivery, Head, PullRequest, Submission
from gainshare.accounts.models import GitHubAccount
from tests.bounty.github.pulls.hub_world import HubWorld
from tests.bounty.github.pulls.pull_world import EXPERTS_PATH, experts


def test_a_new_authors_pull_request_is_judged_after_a_writers_word(hub: HubWorld) -> None:
    pull = hub.opens()
    hub.deliver()
    row = PullRequest.objects.get()
    assert row.needs_judge_command and "first pull request" in row.problem
    assert GitHubAccount.objects.get(pk=hub.cora.github_id).is_dormant
    assert hub.says(pull, hub.cora, "/judge").state == "refused"
    command = hub.says(
        pull, hub.will, "Looks good.\n\n/judge B1\n".replace("B1", hub.world.bounty.short_name)
    )
    assert (command.state, command.is_acknowledged) == ("done", True)
    submission = Submission.objects.get()
    assert submission.state == "queued" and submission.submitter.github.github_id == hub.cora.github_id
    assert Head.objects.get().sealed_at == row.opened_at == pull.created_at
    reactions = [reaction for comment in pull.comments for _, reaction in comment.reactions]
    assert reactions == ["confused", "+1"]


def test_a_stranger_may_not_have_it_judged(hub: HubWorld) -> None:
    pull = hub.opens()
    hub.deliver()
    eve = hub.standin.add_user("eve")
    command = hub.says(pull, eve, "/judge")
    assert command.state == "refused" and "may write to the repository" in command.answer
    assert not Submission.objects.exists()


def test_a_name_that_changed_hands_gives_nobody_its_rights(hub: HubWorld) -> None:
    """Eve writes /judge as `eve`; before it is read, Will takes that name and she another."""
    pull = hub.opens()
    hub.deliver()
    eve = hub.standin.add_user("eve")
    hub.standin.comment(pull, eve, "/judge")
    hub.standin.rename_user(eve, "eve2")
    hub.standin.rename_user(hub.will, "eve")
    hub.deliver()
    assert not Submission.objects.exists()


def test_a_force_push_is_a_head_of_its_own_and_counts_from_its_receipt(hub: HubWorld) -> None:
    hub.link(hub.cora, hub.world.ann)
    pull = hub.opens()
    hub.deliver()
    first = pull.head_sha
    hub.standin.pass_time(minutes=5)
    second = hub.standin.push_to(
        pull, {EXPERTS_PATH: experts(step_4="step_4 = 44")}, start=Head.objects.get().merge_base
    )
    hub.deliver()
    rows = {head.sha: head for head in Head.objects.all()}
    assert rows[first].sealed_at == pull.created_at
    assert rows[second].sealed_at > rows[first].sealed_at
    assert (rows[first].state, rows[second].state) == ("replaced", "submitted")


def test_a_merge_queues_head_is_neither_sealed_nor_judged(hub: HubWorld) -> None:
    hub.link(hub.cora, hub.world.ann)
    pull = hub.opens(is_draft=False)
    hub.deliver()
    queued = hub.standin.enqueue(pull, hub.will)
    hub.deliver()
    head = Head.objects.get(sha=queued)
    assert head.is_of_queue and (head.state, head.diff_blob, head.submission) == ("sealed", "", None)
    told = outcome_of(head)
    assert told is not None and (told.key, told.conclusion) == ("queue", "neutral")
    assert Submission.objects.count() == 1


def test_a_pull_request_to_another_branch_is_judged_once_it_is_to_the_bound_one(hub: HubWorld) -> None:
    hub.link(hub.cora, hub.world.ann)
    tip = git.ref(hub.repository.folder, "refs/heads/main")
    hub.standin.push(hub.repository, {"NOTES.md": "x"}, branch="other", start=tip)
    pull = hub.opens(base="other", start=tip)
    hub.deliver()
    assert not PullRequest.objects.exists()
    hub.standin.pass_time(minutes=5)
    hub.standin.edit(pull, base="main")
    hub.deliver()
    assert Head.objects.get().sealed_at == Delivery.objects.get(action="edited").received_at
    assert Submission.objects.get().state == "queued"
    hub.standin.pass_time(minutes=5)
    hub.standin.edit(pull, base="other")
    hub.deliver()
    assert Submission.objects.get().state == "withdrawn"
    assert "not to a branch" in PullRequest.objects.get().problem


def test_the_text_names_the_bounty(hub: HubWorld) -> None:
    other = hub.world.open(title="Other", suite="decode")
    hub.link(hub.cora, hub.world.ann)
    pull = hub.opens(body="Faster.\n\n<!-- Gainshare-Bounty: B999 -->\nGainshare-Bounty: B999\n")
    hub.deliver()
    assert "B999 is no bounty" in PullRequest.objects.get().problem
    hub.standin.pass_time(seconds=2)
    hub.standin.edit(pull, body=f"Gainshare-Bounty: {other.short_name.lower()}")
    hub.deliver()
    assert Submission.objects.get().bounty == other


def test_several_open_bounties_need_a_name(hub: HubWorld) -> None:
    other = hub.world.open(title="Other", suite="decode")
    hub.link(hub.cora, hub.world.ann)
    pull = hub.opens()
    hub.deliver()
    assert "Several bounties are open" in PullRequest.objects.get().problem
    assert hub.says(pull, hub.cora, f"/judge {other.short_name}").state == "done"
    assert Submission.objects.get().bounty == other
