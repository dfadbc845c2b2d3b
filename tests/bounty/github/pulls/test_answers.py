"""What commands do, for whom, once, and within the lineage's daily sum. Against the stand-in for GitHub."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from bounty.github.app.client import client_for
from bounty.github.pulls.answers import answer_commands
from bounty.github.standin import records
from bounty.models import (
    Bounty,
    Command,
    Dispute,
    Head,
    Installation,
    PullRequest,
    RepositoryBinding,
    Review,
    Submission,
)
from bounty.services.bounties import available_escrow
from gainshare.ledger.audit import audit
from tests.bounty.github.pulls.hub_world import HubWorld
from tests.bounty.github.pulls.pull_world import EXPERTS_PATH, experts


@pytest.fixture
def pull(hub: HubWorld) -> records.PullRequest:
    """A pull request of Cora, who is Ann here, submitted."""
    hub.link(hub.cora, hub.world.ann)
    made = hub.opens()
    hub.deliver()
    return made


def judged(hub: HubWorld, speed_up_log: float) -> Submission:
    """The submission after its gate, and after its price where the gate passed."""
    submission = hub.world.gate(Submission.objects.get(), speed_up_log)
    return hub.world.price(submission, speed_up_log) if submission.state == "confirming" else submission


def test_the_author_cancels(hub: HubWorld, pull: records.PullRequest) -> None:
    assert hub.says(pull, hub.cora, "/cancel").state == "done"
    assert Submission.objects.get().state == "withdrawn"
    hub.work()
    assert Submission.objects.count() == 1
    assert hub.says(pull, hub.cora, "/cancel").state == "refused"
    assert hub.says(pull, hub.cora, "/judge").state == "done"
    assert Submission.objects.filter(state="queued").count() == 1


def test_a_writer_cancels_and_a_stranger_does_not(hub: HubWorld, pull: records.PullRequest) -> None:
    assert hub.says(pull, hub.standin.add_user("eve"), "/cancel").state == "refused"
    assert Submission.objects.get().state == "queued"
    assert hub.says(pull, hub.will, "/cancel").state == "done"
    assert Submission.objects.get().state == "withdrawn"


def test_nothing_is_cancelled_after_a_passed_gate(hub: HubWorld, pull: records.PullRequest) -> None:
    hub.world.gate(Submission.objects.get(), 0.3)
    command = hub.says(pull, hub.cora, "/cancel")
    assert command.state == "refused" and "none whose gate has passed" in command.answer


def test_bounties_and_status_are_told(hub: HubWorld, pull: records.PullRequest) -> None:
    listed = hub.says(pull, hub.standin.add_user("eve"), "/bounty").answer
    assert f"{hub.world.bounty.short_name}: Faster experts" in listed and "100 credits free" in listed
    assert "being judged and has no verdict yet" in hub.says(pull, hub.cora, "/status").answer
    judged(hub, -0.1)
    assert "regression" in hub.says(pull, hub.cora, "/status").answer


def test_the_status_tells_nothing_of_a_passed_gate(hub: HubWorld, pull: records.PullRequest) -> None:
    before = hub.says(pull, hub.cora, "/status").answer
    hub.world.gate(Submission.objects.get(), 0.3)
    assert hub.says(pull, hub.cora, "/status").answer == before
    free = hub.says(pull, hub.cora, "/bounty").answer
    assert "100 credits free" in free  # the reservation would tell what the gate found


def test_what_is_not_understood_gets_help_and_a_confused_reaction(
    hub: HubWorld, pull: records.PullRequest
) -> None:
    command = hub.says(pull, hub.cora, "/jugde")
    assert command.state == "refused" and "/judge [B12]" in command.answer
    assert [reaction for _, reaction in pull.comments[-1].reactions] == ["confused"]


def test_only_the_author_disputes(hub: HubWorld, pull: records.PullRequest) -> None:
    judged(hub, -0.1)
    assert hub.says(pull, hub.will, "/dispute no").state == "refused"
    assert hub.says(pull, hub.cora, "/dispute The noise was\nhigh.").state == "done"
    assert Dispute.objects.get().text == "The noise was\nhigh."


def test_a_linked_maintainer_accepts_and_another_declines(hub: HubWorld, pull: records.PullRequest) -> None:
    judged(hub, 0.3)
    assert hub.says(pull, hub.mira, "/accept").state == "done"
    assert (Review.objects.get().reviewer, Submission.objects.get().state) == (hub.world.mira, "accepted")
    ruth = hub.standin.add_user("ruth")
    hub.link(ruth, hub.world.ruth)
    assert hub.says(pull, ruth, "/decline It cannot be read.").state == "done"
    assert Submission.objects.get().state == "declined"


MONEY = ["/accept", "/decline no", "/rejudge", "/fund 5", "/bounty open moe_forward 20 10"]


@pytest.mark.parametrize("text", MONEY)
def test_repository_rights_alone_move_neither_money_nor_verdicts(
    hub: HubWorld, pull: records.PullRequest, text: str
) -> None:
    judged(hub, 0.3)
    before = (Bounty.objects.count(), available_escrow(hub.world.bounty))
    owner = hub.repository.owner
    unlinked = hub.says(pull, owner, text)
    assert unlinked.state == "refused" and "linked" in unlinked.answer
    hub.link(owner, hub.world.bob)  # linked, and no maintainer
    assert "Only maintainers" in hub.says(pull, owner, text).answer
    assert hub.says(pull, hub.cora, text).state == "refused"
    assert (Bounty.objects.count(), available_escrow(hub.world.bounty)) == before
    assert Submission.objects.get().state == "confirmed" and not Review.objects.exists()


def test_a_maintainer_whose_account_is_disabled_moves_nothing(
    hub: HubWorld, pull: records.PullRequest
) -> None:
    hub.world.mira.is_active = False
    hub.world.mira.save()
    assert hub.says(pull, hub.mira, "/fund 5").state == "refused"


def test_a_maintainer_cannot_accept_his_own(hub: HubWorld) -> None:
    hub.standin.open_pull_request(hub.repository, hub.mira, {EXPERTS_PATH: experts(step_3="step_3 = 33")})
    hub.deliver()
    judged(hub, 0.3)
    own = hub.repository.pulls[1]
    assert "cannot review your own" in hub.says(own, hub.mira, "/accept").answer
    assert Submission.objects.get().state == "confirmed"


def test_what_nobody_measured_has_to_be_named(hub: HubWorld) -> None:
    hub.link(hub.cora, hub.world.ann)
    files = {EXPERTS_PATH: experts(step_3="step_3 = 33"), "setup.py": "x = 1\n", "tests/t.py": "y = 2\n"}
    pull = hub.standin.open_pull_request(hub.repository, hub.cora, files)
    hub.deliver()
    judged(hub, 0.3)
    refused = hub.says(pull, hub.mira, "/accept")
    assert refused.state == "refused" and "nobody measured: setup.py" in refused.answer
    assert hub.says(pull, hub.mira, "/accept tests/t.py setup.py").state == "refused"
    assert Submission.objects.get().state == "confirmed"
    assert hub.says(pull, hub.mira, "/accept setup.py").state == "done"
    assert Submission.objects.get().state == "accepted"
    assert Head.objects.get().unmeasured_accepted_at is not None


def test_an_accept_means_the_newest_commit(hub: HubWorld, pull: records.PullRequest) -> None:
    judged(hub, 0.3)
    hub.standin.pass_time(seconds=5)
    hub.standin.push_to(pull, {EXPERTS_PATH: experts(step_4="step_4 = 44")})
    hub.deliver()
    assert "newest commit" in hub.says(pull, hub.mira, "/accept").answer
    assert Submission.objects.get().state == "confirmed"


def test_a_maintainer_opens_and_funds_within_the_daily_sum(hub: HubWorld, pull: records.PullRequest) -> None:
    opened = hub.says(pull, hub.mira, "/bounty open decode 20 30")
    made = Bounty.objects.order_by("number").last()
    assert made is not None and (opened.state, opened.spent_microcredits) == ("done", 30_000_000)
    assert (made.suite, made.preset, made.hardware) == ("decode", "tour", "cpu")  # of a demo lineage
    assert (made.escrow_microcredits, made.rate_microcredits_per_nat) == (30_000_000, 20_000_000)
    too_much = hub.says(pull, hub.mira, f"/fund {hub.world.bounty.short_name} 20.5")
    assert too_much.state == "refused" and "50 credits a day" in too_much.answer
    assert hub.says(pull, hub.mira, f"/fund {hub.world.bounty.short_name} 20").state == "done"
    assert available_escrow(hub.world.bounty) == 120_000_000
    Command.objects.update(done_at=timezone.now() - timedelta(days=1))
    assert hub.says(pull, hub.mira, "/fund B" + str(hub.world.bounty.number) + " 1").state == "done"
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


def test_without_a_daily_sum_comments_spend_nothing(hub: HubWorld, pull: records.PullRequest) -> None:
    RepositoryBinding.objects.update(daily_microcredits=0)
    assert "0 credits a day" in hub.says(pull, hub.mira, "/fund 1").answer
    assert available_escrow(hub.world.bounty) == 100_000_000


@pytest.mark.parametrize(
    "text", ["/fund -5", "/fund 0", "/fund 1e3", "/bounty open nothing 1 1", "/fund B9999 1"]
)
def test_amounts_and_names_that_are_none_are_refused(
    hub: HubWorld, pull: records.PullRequest, text: str
) -> None:
    assert hub.says(pull, hub.mira, text).state == "refused"
    assert available_escrow(hub.world.bounty) == 100_000_000


def test_a_command_is_done_once_however_often_it_is_looked_at(
    hub: HubWorld, pull: records.PullRequest
) -> None:
    command = hub.says(pull, hub.mira, "/fund 5")
    for _ in range(2):
        answer_commands(PullRequest.objects.get())
    hub.deliver(list(hub.standin.deliveries.all))
    assert available_escrow(hub.world.bounty) == 105_000_000
    assert Command.objects.get() == command


def test_a_comment_edited_by_somebody_else_is_what_its_author_wrote(
    hub: HubWorld, pull: records.PullRequest
) -> None:
    """Olga, who owns the repository, turns Mira's harmless comment into an acceptance."""
    judged(hub, 0.3)
    comment = hub.standin.comment(pull, hub.mira, "Nice work")
    hub.deliver()
    hub.standin.pass_time(seconds=5)
    hub.standin.edit_comment(pull, comment, "/accept", by=hub.repository.owner)
    hub.deliver()
    assert not Command.objects.exists() and Submission.objects.get().state == "confirmed"


def test_neither_the_own_comment_edited_nor_a_review_is_a_command(
    hub: HubWorld, pull: records.PullRequest
) -> None:
    comment = hub.standin.comment(pull, hub.mira, "/status later")
    hub.standin.edit_comment(pull, comment, "/fund 5")
    hub.standin.review(pull, hub.mira, body="/fund 5")
    hub.standin.edit(pull, body="/fund 5", by=hub.mira)
    hub.deliver()
    assert [command.text for command in Command.objects.all()] == ["/status later"]
    assert available_escrow(hub.world.bounty) == 100_000_000


def test_our_own_comments_and_bots_give_no_commands(hub: HubWorld, pull: records.PullRequest) -> None:

    client_for(Installation.objects.get()).create_comment("octo/model", 1, "/cancel")
    hub.standin.comment(pull, hub.standin.add_user("dependabot[bot]", kind="Bot"), "/cancel")
    hub.deliver()
    assert not Command.objects.exists()


@pytest.mark.parametrize(
    "at", [lambda hub: hub.standin.slow_down(60), lambda hub: hub.standin.revoke_tokens()]
)
def test_a_command_waits_while_github_cannot_be_asked(
    hub: HubWorld, pull: records.PullRequest, at: Callable[[HubWorld], None]
) -> None:
    at(hub)
    hub.says(pull, hub.will, "/cancel")
    hub.standin.slow_down(0)

    Installation.objects.update(quiet_until=None)
    hub.work()
    command = Command.objects.get()
    assert (command.state, command.is_acknowledged) == ("done", True)
