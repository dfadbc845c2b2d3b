"""The App, its installations and repositories are here what they are at GitHub, whatever happened meanwhile."""

from pytest_django import Settings

from bounty.github.app.installations import check_app
from bounty.github.app.permissions import NEEDED, missing_permissions, problem_of_app, problem_of_installation
from bounty.github.repositories.bindings import bind
from bounty.models import GitHubApp, GitHubRepository, Installation, InstallationState, RepositoryBinding
from bounty.tasks import check_github_app
from tests.bounty.bounty_world import World
from tests.bounty.github.app.conftest import Connected


def _fresh(connected: Connected) -> Installation:
    check_app()
    connected.installation.refresh_from_db()
    return connected.installation


def test_all_that_github_has_is_here_after_a_check(connected: Connected) -> None:
    Installation.objects.update(account="", permissions={})
    GitHubRepository.objects.all().delete()
    check_github_app()
    app = GitHubApp.objects.get()
    assert (app.app_id, app.slug, app.problem) == (
        str(connected.standin.app.github_id),
        "gainshare-local",
        "",
    )
    seen = _fresh(connected)
    assert (seen.account, seen.state, seen.problem) == ("octo", InstallationState.ACTIVE, "")
    assert seen.permissions == connected.opened.permissions
    row = GitHubRepository.objects.get()
    assert (row.pk, row.full_name, row.installation) == (connected.repository.github_id, "octo/model", seen)


def test_a_second_check_changes_nothing(connected: Connected) -> None:
    check_app()
    before = [list(model.objects.values()) for model in (Installation, GitHubRepository)]
    check_app()
    after = [list(model.objects.values()) for model in (Installation, GitHubRepository)]
    for rows in (*before, *after):
        for row in rows:
            row.pop("checked_at", None)
    assert before == after


def test_without_an_app_nothing_is_asked(connected: Connected, settings: Settings) -> None:
    settings.GITHUB_APP_ID = ""
    check_app()
    assert not GitHubApp.objects.exists()
    assert not connected.standin.requests


def test_a_suspension_is_survived_and_said_and_ends(connected: Connected) -> None:
    connected.standin.suspend(connected.opened)
    seen = _fresh(connected)
    assert seen.state == InstallationState.SUSPENDED
    assert "unsuspend" in seen.problem
    connected.standin.unsuspend(connected.opened)
    seen = _fresh(connected)
    assert (seen.state, seen.problem) == (InstallationState.ACTIVE, "")


def test_a_removal_is_survived_and_said_and_a_new_installation_takes_its_place(connected: Connected) -> None:
    check_app()
    connected.standin.remove(connected.opened)
    seen = _fresh(connected)
    assert seen.state == InstallationState.REMOVED
    assert "install it again" in seen.problem
    assert GitHubRepository.objects.get().installation is None
    assert "not installed anywhere" in GitHubApp.objects.get().problem
    again = connected.standin.install([connected.repository])
    check_app()
    assert GitHubRepository.objects.get().installation_id == again.github_id
    assert GitHubApp.objects.get().problem == ""
    connected.installation.refresh_from_db()
    assert connected.installation.state == InstallationState.REMOVED


def test_repositories_come_and_go(connected: Connected) -> None:
    other = connected.standin.add_repository("octo/other")
    connected.standin.open_to_app(connected.opened, other)
    check_app()
    assert set(GitHubRepository.objects.values_list("full_name", flat=True)) == {"octo/model", "octo/other"}
    connected.standin.close_to_app(connected.opened, other)
    check_app()
    row = GitHubRepository.objects.get(pk=other.github_id)
    assert row.installation is None  # it is kept, as pull requests may hang on it
    assert GitHubRepository.objects.get(full_name="octo/model").installation_id == connected.opened.github_id


def test_a_renamed_repository_is_the_same_one(connected: Connected) -> None:
    check_app()
    connected.standin.rename_repository(connected.repository, "engine")
    check_app()
    row = GitHubRepository.objects.get()
    assert (row.pk, row.full_name) == (connected.repository.github_id, "octo/engine")
    connected.standin.rename_user(connected.repository.owner, "octopus")
    seen = _fresh(connected)
    assert seen.account == "octopus"
    assert GitHubRepository.objects.get().full_name == "octopus/engine"


def test_a_binding_is_connected_by_its_address_and_follows_the_number(
    connected: Connected, world: World
) -> None:
    bind(actor=world.mira, name=world.lineage.name, repository="octo/model", branch="main")
    check_app()
    binding = RepositoryBinding.objects.get()
    assert binding.github_id == connected.repository.github_id
    connected.standin.rename_repository(connected.repository, "engine")
    thief = connected.standin.add_repository("octo/model")
    connected.standin.open_to_app(connected.opened, thief)
    check_app()
    binding.refresh_from_db()
    assert binding.github_id == connected.repository.github_id
    assert binding.url == f"{connected.standin.url}/octo/engine.git"


def test_a_missing_permission_is_said_with_who_can_give_it(connected: Connected) -> None:
    lesser = {**connected.opened.permissions, "checks": "read"}
    connected.standin.set_permissions(connected.opened, lesser)
    seen = _fresh(connected)
    assert "It needs write for checks (it has read)" in seen.problem
    assert "An owner of octo has to accept" in seen.problem
    connected.standin.set_permissions(connected.opened, {**lesser, "checks": "write"})
    assert _fresh(connected).problem == ""


def test_what_the_app_itself_lacks_is_said(connected: Connected, settings: Settings) -> None:
    settings.PUBLIC_URL = "https://gainshare.example.org"
    connected.standin.app.permissions.pop("contents")
    connected.standin.app.events.remove("push")
    check_app()
    problem = GitHubApp.objects.get().problem
    assert "It needs read for contents (it has none), to hear of pushes." in problem
    assert "It does not subscribe to the event push." in problem
    assert f"{connected.standin.url}/apps/gainshare-local" in problem


def test_one_installation_that_cannot_be_asked_hides_no_other(connected: Connected) -> None:
    other = connected.standin.install([connected.standin.add_repository("pia/model")])
    connected.standin.use_up_limit(connected.opened.github_id)
    check_app()
    seen = _fresh(connected)
    assert "takes no more requests until" in seen.problem
    assert GitHubRepository.objects.get(full_name="pia/model").installation_id == other.github_id


def test_an_unreachable_github_is_said_and_nothing_is_lost(connected: Connected) -> None:
    check_app()
    connected.standin.close()
    check_app()
    assert "could not be reached" in GitHubApp.objects.get().problem
    assert Installation.objects.get().state == InstallationState.ACTIVE
    assert GitHubRepository.objects.get().installation is not None


def test_a_github_that_answers_nonsense_is_said(connected: Connected) -> None:
    connected.standin.break_down(200)
    check_app()
    assert "GitHub's answer is not JSON" in GitHubApp.objects.get().problem
    connected.standin.break_down(502)
    check_app()
    assert "status 502" in GitHubApp.objects.get().problem
    connected.standin.break_down(0)
    check_app()
    assert GitHubApp.objects.get().problem == ""


def test_permissions_are_compared_by_level() -> None:
    assert missing_permissions(NEEDED) == {}
    assert missing_permissions(dict.fromkeys(NEEDED, "admin")) == {}
    assert missing_permissions({}) == NEEDED
    assert missing_permissions({**NEEDED, "issues": "read", "checks": "odd"}) == {
        "issues": "write",
        "checks": "write",
    }
    assert problem_of_installation(NEEDED, account="octo", page="https://x") == ""
    assert problem_of_app(NEEDED, [], page="https://x", has_webhook=False) == ""
