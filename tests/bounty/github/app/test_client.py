"""The client says what GitHub says, and does what it is told, once."""

from datetime import timedelta

import pytest
from django.utils import timezone

from bounty.github.app.client import client_for
from bounty.github.app.facts import (
    AccountFacts,
    CheckRunFields,
    GitHubBusy,
    GitHubError,
    GitHubGone,
    GitHubRefused,
)
from bounty.models import Installation, InstallationState
from tests.bounty.github.app.conftest import Connected

QUEUED = CheckRunFields("Gainshare: moe_forward", "queued", "Waits", "Place 1")
DONE = CheckRunFields(
    "Gainshare: moe_forward", "completed", "A gain", "3 %", "text", "success", "http://127.0.0.1/"
)


def _left(connected: Connected) -> int:
    state = connected.standin.hub.state
    return (
        state.limits.per_hour
        - state.limits.window(f"installation {connected.opened.github_id}", state.now()).used
    )


def test_a_pull_request_is_read_as_facts(connected: Connected) -> None:
    pull = connected.pull(title="Faster", body="Gainshare-Bounty: B1", is_draft=True)
    read = connected.client.pull_request("octo/model", 1)
    assert read.repository_id == connected.repository.github_id
    assert read.author == AccountFacts(connected.cora.github_id, "cora")
    assert (read.title, read.body, read.branch) == ("Faster", "Gainshare-Bounty: B1", "main")
    assert (read.head_sha, read.state, read.is_draft, read.is_merged) == (pull.head_sha, "open", True, False)
    assert read.merge_sha == ""  # GitHub names its trial merge there, which is no merge
    assert read.created_at == pull.created_at


def test_a_merged_pull_request_names_its_commit_and_who_merged(connected: Connected) -> None:
    pull = connected.pull()
    commit = connected.standin.merge(pull, connected.mira, "squash")
    read = connected.client.pull_request("octo/model", 1)
    assert (read.state, read.is_merged, read.merge_sha) == ("closed", True, commit)
    assert read.merged_by == AccountFacts(connected.mira.github_id, "mira")


def test_a_list_that_did_not_change_costs_nothing_of_the_limit(connected: Connected) -> None:
    connected.pull()
    client = connected.client
    listed = client.open_pull_requests("octo/model", etag="")
    assert listed is not None
    found, etag = listed
    assert [row.number for row in found] == [1]
    left = _left(connected)
    assert client.open_pull_requests("octo/model", etag=etag) is None
    assert _left(connected) == left
    connected.standin.comment(connected.repository.pulls[1], connected.cora, "hello")
    connected.standin.edit(connected.repository.pulls[1], title="Other")
    again = client.open_pull_requests("octo/model", etag=etag)
    assert again is not None
    assert again[0][0].title == "Other"


def test_lists_lead_over_several_pages(connected: Connected) -> None:
    pull = connected.pull()
    for number in range(230):
        connected.standin.comment(pull, connected.cora, f"text {number}")
    bodies = [row.body for row in connected.client.comments("octo/model", 1, since=None)]
    assert bodies == [f"text {number}" for number in range(230)]
    assert len(connected.standin.asked("GET", "/issues/1/comments")) == 3


def test_pull_requests_are_listed_as_far_back_as_asked(connected: Connected) -> None:
    first = connected.pull(branch="one", from_fork=False)
    template = first.__dict__ | {"comments": [], "reviews": []}
    for number in range(2, 131):  # as rows: each with a commit of its own would take a minute
        made = type(first)(**{**template, "number": number, "github_id": first.github_id + number})
        connected.repository.pulls[number] = made
    listed = connected.client.open_pull_requests("octo/model", etag="")
    assert listed is not None
    assert len(listed[0]) == 100
    all_of_them = connected.client.open_pull_requests("octo/model", etag="", since=first.created_at)
    assert all_of_them is not None
    assert len(all_of_them[0]) == 130


def test_comments_say_who_wrote_them_and_whether_they_were_edited(connected: Connected) -> None:
    pull = connected.pull()
    comment = connected.standin.comment(pull, connected.cora, "/judge")
    connected.standin.pass_time(seconds=5)
    connected.standin.edit_comment(pull, comment, "/accept", by=connected.mira)
    ours = connected.client.create_comment("octo/model", 1, "ours")
    read, own = connected.client.comments("octo/model", 1, since=None)
    assert (read.comment_id, read.author.login, read.body, read.is_edited) == (
        comment.github_id,
        "cora",
        "/accept",
        True,
    )
    assert (own.comment_id, own.is_by_app, own.author.is_bot, own.is_edited) == (ours, True, True, False)


def test_comments_since_a_time_leave_out_older_ones(connected: Connected) -> None:
    pull = connected.pull()
    connected.standin.comment(pull, connected.cora, "old")
    connected.standin.pass_time(minutes=5)
    later = connected.standin.comment(pull, connected.cora, "new")
    found = connected.client.comments("octo/model", 1, since=later.created_at)
    assert [row.body for row in found] == ["new"]


def test_reviews_name_the_commit_that_was_reviewed(connected: Connected) -> None:
    pull = connected.pull()
    reviewed = pull.head_sha
    review = connected.standin.review(pull, connected.mira)
    connected.standin.push_to(pull, {"model/router.py": "gate = 3\n"})
    (read,) = connected.client.reviews("octo/model", 1)
    assert (read.commit_sha, read.state, read.author.login) == (reviewed, "approved", "mira")
    connected.standin.dismiss(pull, review, by=connected.mira)
    assert connected.client.reviews("octo/model", 1)[0].state == "dismissed"


@pytest.mark.parametrize(
    ("role", "level"),
    [("admin", "admin"), ("maintain", "write"), ("write", "write"), ("triage", "read"), ("none", "read")],
)
def test_roles_are_read_as_levels(connected: Connected, role: str, level: str) -> None:
    connected.standin.set_role(connected.repository, "cora", role)
    assert connected.client.permission("octo/model", "cora") == level


def test_who_is_not_there_may_do_nothing(connected: Connected) -> None:
    assert connected.client.permission("octo/model", "nobody-has-this-name") == "none"


def test_a_repository_that_cannot_be_asked_says_nothing_of_a_user(connected: Connected) -> None:
    client = connected.client
    assert client.permission("octo/model", "mira") == "write"
    connected.standin.suspend(connected.opened)
    with pytest.raises(GitHubGone, match="suspended"):
        client.permission("octo/model", "mira")
    connected.standin.unsuspend(connected.opened)
    connected.repository.is_private = True
    connected.standin.close_to_app(connected.opened, connected.repository)
    with pytest.raises(GitHubGone):
        client.permission("octo/model", "mira")


def test_a_name_that_moved_to_another_account_gives_it_no_permission(connected: Connected) -> None:
    mira = connected.mira
    connected.standin.rename_user(mira, "mira-k")
    other = connected.standin.add_user("mira")
    connected.standin.set_role(connected.repository, "mira", "write")
    client = connected.client
    assert client.permission("octo/model", "mira", github_id=other.github_id) == "write"
    assert client.permission("octo/model", "mira", github_id=mira.github_id) == "none"
    assert client.permission("octo/model", "mira-k", github_id=mira.github_id) == "write"


def test_our_comment_is_found_by_its_marker_and_nobody_elses_is(connected: Connected) -> None:
    pull = connected.pull()
    marker = "<!-- gainshare:pull-request:7 -->"
    connected.standin.comment(pull, connected.cora, f"mine now {marker}")
    client = connected.client
    assert client.find_comment("octo/model", 1, marker=marker) is None
    made = client.create_comment("octo/model", 1, f"text {marker}")
    assert client.find_comment("octo/model", 1, marker=marker) == made
    client.edit_comment("octo/model", made, f"other {marker}")
    assert connected.standin.app_comments(pull)[0].body == f"other {marker}"


def test_a_reaction_twice_is_one(connected: Connected) -> None:
    pull = connected.pull()
    comment = connected.standin.comment(pull, connected.cora, "/judge")
    for _ in range(2):
        connected.client.react("octo/model", comment.github_id, "+1")
    assert [content for _, content in comment.reactions] == ["+1"]


def test_a_check_run_is_made_found_and_changed(connected: Connected) -> None:
    pull = connected.pull()
    client = connected.client
    made = client.create_check("octo/model", pull.head_sha, external_id="gainshare:1:verdict", fields=QUEUED)
    client.create_check("octo/model", pull.head_sha, external_id="gainshare:1:reversal", fields=QUEUED)
    assert client.find_check("octo/model", pull.head_sha, external_id="gainshare:1:verdict") == made
    assert client.find_check("octo/model", pull.head_sha, external_id="gainshare:2:verdict") is None
    client.update_check("octo/model", made, DONE)
    check = connected.standin.checks_of(pull)[0]
    assert (check.status, check.conclusion, check.output["title"]) == ("completed", "success", "A gain")


def test_a_check_run_for_a_commit_that_is_not_there_is_refused(connected: Connected) -> None:
    with pytest.raises(GitHubRefused, match="No commit found for SHA"):
        connected.client.create_check("octo/model", "0" * 40, external_id="x", fields=QUEUED)


def test_a_comment_that_is_too_long_is_refused(connected: Connected) -> None:
    connected.pull()
    with pytest.raises(GitHubRefused, match="too long"):
        connected.client.create_comment("octo/model", 1, "x" * 65_537)


def test_what_is_not_there_is_gone(connected: Connected) -> None:
    with pytest.raises(GitHubGone):
        connected.client.pull_request("octo/model", 99)
    with pytest.raises(GitHubGone):
        connected.client.pull_request("octo/nothing", 1)


def test_repositories_of_the_installation_are_listed(connected: Connected) -> None:
    other = connected.standin.add_repository("octo/other")
    connected.standin.open_to_app(connected.opened, other)
    expected = [(connected.repository.github_id, "octo/model"), (other.github_id, "octo/other")]
    assert connected.client.repositories() == expected


# -- Names that move -------------------------------------------------------------------------------


def test_a_renamed_repository_is_reached_by_its_former_name(connected: Connected) -> None:
    connected.pull(title="Faster")
    connected.standin.rename_repository(connected.repository, "engine")
    assert connected.client.pull_request("octo/model", 1).title == "Faster"
    assert connected.client.create_comment("octo/model", 1, "still here")


def test_a_redirect_keeps_what_was_asked(connected: Connected) -> None:
    connected.pull()
    connected.standin.close_pull_request(connected.repository.pulls[1])
    connected.standin.rename_repository(connected.repository, "engine")
    client = connected.client
    reply = client._call("GET", "/repos/octo/model/pulls", parameters={"state": "closed"})
    assert [row["number"] for row in reply.data] == [1]


def test_a_former_name_that_somebody_else_took_leads_nowhere_else(connected: Connected) -> None:
    connected.pull(title="Faster")
    connected.standin.rename_repository(connected.repository, "engine")
    thief = connected.standin.add_repository("octo/model")
    connected.standin.open_pull_request(thief, connected.cora, {"a": "b"}, title="Stolen")
    assert connected.client.pull_request("octo/model", 1).title == "Faster"


# -- Limits ----------------------------------------------------------------------------------------


def test_a_secondary_limit_is_waited_for_and_nothing_is_sent_before(connected: Connected) -> None:
    connected.pull()
    connected.standin.slow_down(120)
    with pytest.raises(GitHubBusy) as busy:
        connected.client.pull_request("octo/model", 1)
    asked = len(connected.standin.requests)
    wait = (busy.value.until - timezone.now()).total_seconds()
    assert 60 < wait <= 120
    connected.standin.slow_down(0)
    with pytest.raises(GitHubBusy):
        client_for(connected.installation).pull_request("octo/model", 1)
    assert len(connected.standin.requests) == asked
    Installation.objects.update(quiet_until=timezone.now() - timedelta(seconds=1))
    assert connected.client.pull_request("octo/model", 1).number == 1


def test_a_used_up_limit_is_waited_for_until_it_begins_again(connected: Connected) -> None:
    connected.pull()
    connected.standin.use_up_limit(connected.opened.github_id)
    with pytest.raises(GitHubBusy) as busy:
        connected.client.pull_request("octo/model", 1)
    assert 3000 < (busy.value.until - timezone.now()).total_seconds() <= 3600


def test_the_last_request_of_an_hour_is_answered_and_no_further_one_sent(connected: Connected) -> None:
    connected.pull()
    connected.standin.hub.state.limits.per_hour = 1
    assert connected.client.pull_request("octo/model", 1).number == 1
    asked = len(connected.standin.requests)
    with pytest.raises(GitHubBusy):
        connected.client.pull_request("octo/model", 1)
    assert len(connected.standin.requests) == asked


def test_writing_too_fast_meets_the_secondary_limit(connected: Connected) -> None:
    connected.pull()
    connected.standin.hub.state.limits.writes_per_minute = 3
    client = connected.client
    with pytest.raises(GitHubBusy):
        for number in range(9):
            client.create_comment("octo/model", 1, f"text {number}")
    assert len(connected.standin.app_comments(connected.repository.pulls[1])) == 3


# -- Installations ---------------------------------------------------------------------------------


def test_a_suspended_installation_is_said_and_noted(connected: Connected) -> None:
    connected.pull()
    client = connected.client
    assert client.pull_request("octo/model", 1).number == 1
    connected.standin.suspend(connected.opened)
    with pytest.raises(GitHubGone, match="suspended"):
        client.pull_request("octo/model", 1)
    connected.installation.refresh_from_db()
    assert connected.installation.state == InstallationState.SUSPENDED
    assert "unsuspend it" in connected.installation.problem


def test_a_removed_installation_is_said_and_noted(connected: Connected) -> None:
    connected.pull()
    client = connected.client
    assert client.pull_request("octo/model", 1).number == 1
    connected.standin.remove(connected.opened)
    with pytest.raises(GitHubError, match="credentials"):
        client.pull_request("octo/model", 1)  # its token ended
    with pytest.raises(GitHubGone, match="removed"):
        client.pull_request("octo/model", 1)
    connected.installation.refresh_from_db()
    assert connected.installation.state == InstallationState.REMOVED


def test_a_missing_permission_is_named(connected: Connected) -> None:
    pull = connected.pull()
    connected.standin.set_permissions(connected.opened, {**connected.opened.permissions, "checks": "read"})
    with pytest.raises(GitHubError, match="checks=write"):
        connected.client.create_check("octo/model", pull.head_sha, external_id="x", fields=QUEUED)
