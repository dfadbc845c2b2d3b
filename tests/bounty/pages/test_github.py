"""Pages about GitHub: connecting a lineage, the state of its installation, and a bounty's pull requests."""

from uuid import uuid4

import pytest
from django.test import Client
from rest_framework.test import APIClient

from bounty.errors import BadRequest, NotAllowed, NotFound, WrongState
from bounty.github.repositories.bindings import bind
from bounty.github.repositories.connections import connect
from bounty.models import (
    Delivery,
    GitHubRepository,
    Installation,
    InstallationState,
    RepositoryBinding,
    StateChange,
)
from gainshare.accounts.services import create_api_key
from tests.bounty.bounty_world import World, diff_of_line
from tests.bounty.pages.github_rows import a_pull_request, a_repository

pytestmark = pytest.mark.django_db

FORM = {"github-github_id": "910", "github-branch": "main", "github-folder": "model", "github-daily": "12.5"}


def page_of(world: World) -> str:
    return f"/lineages/{world.lineage.name}/"


def shown(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def signed_in(user: object) -> Client:
    client = Client()
    client.force_login(user)  # type: ignore[arg-type]  # a user
    return client


# -- The service -------------------------------------------------------------------------------------


def test_connecting_binds_and_says_what_comments_can_spend(world: World) -> None:
    repository = a_repository()
    terms = {"actor": world.mira, "name": world.lineage.name, "github_id": 910, "branch": "main"}
    binding = connect(**terms, daily_microcredits=5)  # type: ignore[arg-type]  # a dict of keywords
    assert (binding.url, binding.branch, binding.folder) == (
        "https://github.com/gain/share.git",
        "main",
        "model",
    )
    assert (binding.github, binding.daily_microcredits) == (repository, 5)
    changes = StateChange.objects.filter(subject="lineage").count()
    assert connect(**terms, daily_microcredits=5).pk == binding.pk  # type: ignore[arg-type]
    assert StateChange.objects.filter(subject="lineage").count() == changes
    assert connect(**terms, daily_microcredits=0).daily_microcredits == 0  # type: ignore[arg-type]
    assert StateChange.objects.filter(subject="lineage").count() == changes + 1


def test_binding_to_another_place_ends_the_connection(world: World) -> None:
    a_repository()
    connect(actor=world.mira, name=world.lineage.name, github_id=910, branch="main", daily_microcredits=5)
    bind(actor=world.mira, name=world.lineage.name, repository="gain/other", branch="main")
    binding = RepositoryBinding.objects.get()
    assert binding.github is None and binding.daily_microcredits == 0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"github_id": 911}, NotFound),
        ({"daily_microcredits": -1}, BadRequest),
        ({"daily_microcredits": 2**63}, BadRequest),
        ({"branch": "--upload-pack=x"}, BadRequest),
        ({"name": "nothing"}, NotFound),
    ],
)
def test_what_cannot_be_connected(world: World, change: dict[str, object], error: type[Exception]) -> None:
    a_repository()
    terms = {"actor": world.mira, "name": world.lineage.name, "github_id": 910, "branch": "main", **change}
    with pytest.raises(error):
        connect(**terms)  # type: ignore[arg-type]  # a dict of keywords
    assert not RepositoryBinding.objects.exists()


def test_only_maintainers_connect(world: World) -> None:
    a_repository()
    with pytest.raises(NotAllowed):
        connect(actor=world.ann, name=world.lineage.name, github_id=910, branch="main")


@pytest.mark.parametrize("state", [InstallationState.SUSPENDED, InstallationState.REMOVED, None])
def test_a_repository_that_the_app_does_not_see_is_refused(
    world: World, state: InstallationState | None
) -> None:
    repository = a_repository()
    if state is None:
        GitHubRepository.objects.update(installation=None)
    else:
        Installation.objects.update(state=state)
    with pytest.raises(WrongState, match="gain/share"):
        connect(actor=world.mira, name=world.lineage.name, github_id=repository.pk, branch="main")
    assert not RepositoryBinding.objects.exists()


# -- The lineage's page ------------------------------------------------------------------------------


def test_a_maintainer_chooses_among_what_the_app_sees(world: World) -> None:
    path, mira = page_of(world), signed_in(world.mira)
    assert "sees no repository" in shown(mira, path)
    a_repository()
    a_repository("gain/other", 911)
    GitHubRepository.objects.create(github_id=912, full_name="gain/gone")
    text = shown(mira, path)
    assert "gain/share" in text and "gain/other" in text and "gain/gone" not in text
    assert "Connect it" not in shown(signed_in(world.ann), path) and "Connect it" not in shown(Client(), path)
    assert mira.post(f"{path}repository/connect/", FORM)["Location"] == path
    binding = RepositoryBinding.objects.get()
    assert (binding.github_id, binding.daily_microcredits) == (910, 12_500_000)
    text = shown(mira, path)
    assert "at most 12.5 credits a day" in text and 'value="12.5"' in text
    assert mira.post(f"{path}repository/connect/", {**FORM, "github-daily": ""})["Location"] == path
    assert RepositoryBinding.objects.get().daily_microcredits == 0


@pytest.mark.parametrize(
    "change",
    [{"github-github_id": "912"}, {"github-branch": ""}, {"github-daily": "-1"}, {"github-branch": "a..b"}],
)
def test_a_form_with_something_wrong_is_shown_again(world: World, change: dict[str, str]) -> None:
    a_repository()
    GitHubRepository.objects.create(github_id=912, full_name="gain/gone")
    answer = signed_in(world.mira).post(f"{page_of(world)}repository/connect/", {**FORM, **change})
    assert answer.status_code == 400 and not RepositoryBinding.objects.exists()
    text = answer.content.decode()
    assert "<details open>" in text and ("errorlist" in text or "notice-error" in text)


def test_others_cannot_connect_on_the_page(world: World) -> None:
    a_repository()
    path = f"{page_of(world)}repository/connect/"
    assert Client().post(path, FORM)["Location"].startswith("/login/")
    assert signed_in(world.ann).post(path, FORM).status_code == 400
    assert signed_in(world.mira).get(path)["Location"] == page_of(world)
    assert signed_in(world.mira).post("/lineages/nothing/repository/connect/", FORM).status_code == 404
    assert not RepositoryBinding.objects.exists()


def test_the_page_says_how_the_installation_is_and_what_it_lacks(world: World) -> None:
    repository = a_repository()
    connect(actor=world.mira, name=world.lineage.name, github_id=910, branch="main")
    for number, at_event in ((910, "pull_request"), (911, "push")):
        Delivery.objects.create(
            delivery_id=uuid4(), event=at_event, action="opened", payload={"repository": {"id": number}}
        )
    Installation.objects.update(
        state=InstallationState.SUSPENDED, problem="It needs write for checks (it has none)."
    )
    GitHubRepository.objects.filter(pk=repository.pk).update(polled_at="2026-11-30T01:02:03Z")
    text = shown(signed_in(world.mira), page_of(world))
    assert "Suspended" in text or "suspended" in text
    assert "pull_request opened" in text and "push opened" not in text
    assert "It needs write for checks" in text and "30 Nov 2026, 01:02 UTC" in text
    assert "does not see this repository now" in text
    public = shown(Client(), page_of(world))
    assert "does not see this repository now" in public
    assert "It needs write" not in public and "pull_request opened" not in public


# -- The bounty's page -------------------------------------------------------------------------------


def test_a_bounty_lists_its_pull_requests_with_links(world: World) -> None:
    path = f"/bounties/{world.bounty.pk}/"
    assert "Pull requests" not in shown(Client(), path)
    repository = a_repository()
    submission = world.submit(world.ann, diff_of_line(2, "slow = 1"))
    a_pull_request(repository, 7, submission=submission)
    a_pull_request(repository, 8, bounty=world.bounty, title="<script>alert(1)</script>", is_draft=True)
    a_pull_request(repository, 9, title="of no bounty")
    text = shown(Client(), path)
    assert 'href="https://github.com/gain/share/pull/7"' in text
    assert 'href="https://github.com/gain/share/pull/8"' in text and "gain/share#8" in text
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert "gain/share#9" not in text and f"/submissions/{submission.pk}/" in text
    assert "000000000000" in text and "sealed" in text and "draft" in text


def test_a_bounty_says_where_to_open_a_pull_request_once_its_lineage_is_connected(world: World) -> None:
    path = f"/bounties/{world.bounty.pk}/"
    assert "by-pull-request" not in shown(Client(), path)
    a_repository()
    connect(actor=world.mira, name=world.lineage.name, github_id=910, branch="main")
    page = shown(Client(), path)
    assert f"Gainshare-Bounty: {world.bounty.short_name}" in page
    assert 'href="https://github.com/gain/share"' in page


def test_an_undecided_verdict_is_not_on_it_and_a_decided_one_is(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    a_pull_request(a_repository(), submission=submission)
    path = f"/bounties/{world.bounty.pk}/"
    world.gate(submission, 0.3)

    def part(client: Client) -> str:
        text = shown(client, path)
        return text[text.index('id="pull-requests"') : text.index('id="submissions"')]

    assert "not yet" in part(Client()) and 'badge-good">gain' not in part(Client())
    assert "confirming" not in part(Client())
    world.price(submission, 0.3)
    assert 'badge-good">gain' in part(Client())


def test_a_pull_request_is_listed_once_however_many_heads_it_has(
    world: World, django_assert_max_num_queries: object
) -> None:
    repository = a_repository()
    for number in range(1, 6):
        submission = world.submit(world.ann, diff_of_line(number, f"step_{number} = 33"))
        a_pull_request(repository, number, submission=submission, bounty=world.bounty)
    text = shown(Client(), f"/bounties/{world.bounty.pk}/")
    assert [text.count(f">gain/share#{number}<") for number in range(1, 6)] == [1] * 5


# -- REST --------------------------------------------------------------------------------------------


def test_a_lineage_is_connected_over_rest(world: World) -> None:
    a_repository()
    path = f"/api/v1/lineages/{world.lineage.name}/repository/"
    client = APIClient()
    key = create_api_key(user=world.mira, name="a", scopes=["maintain", "read"])[1]
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    body = {"github_id": 910, "branch": "main", "daily_microcredits": 7}
    answer = client.post(f"{path}connect/", body, format="json")
    assert (answer.status_code, answer.json()["github"], answer.json()["daily_microcredits"]) == (
        200,
        "gain/share",
        7,
    )
    assert APIClient().get(path).json()["github"] == "gain/share"
    assert client.post(f"{path}connect/", {**body, "github_id": 1}, format="json").status_code == 404
    assert APIClient().post(f"{path}connect/", body, format="json").status_code == 401
    Installation.objects.update(state=InstallationState.REMOVED)
    assert client.post(f"{path}connect/", body, format="json").status_code == 409
    bind(actor=world.mira, name=world.lineage.name, repository="gain/other", branch="main")
    assert APIClient().get(path).json()["github"] is None
