"""Pages of bugs: open a bug bounty, submit a reproduction, decline one."""

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from bounty.models import Bounty, Reproduction, ReproductionState, StateChange
from bounty.services.bounties import close_bounty
from bounty.services.reproductions import settle
from bounty.services.trees import blob_store
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from tests.bounty.bounty_world import make_user
from tests.bounty.bug_world import AWARD, TEXT, BugWorld

OTHER_TEXT = TEXT + "\n# another one\n"


@pytest.fixture
def world(db: None) -> BugWorld:
    return BugWorld()


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def page(path: str, user: User, status: int = 200) -> str:
    response = client_of(user).get(path)
    assert response.status_code == status, response.content.decode()[:500]
    return response.content.decode()


def terms(world: BugWorld, **changes: Any) -> dict[str, Any]:
    return {
        "title": "Wrong in batches",
        "description": "Only the first sequence is right.",
        "lineage": world.lineage.name,
        "hardware": "cpu",
        "severity": "critical",
        "award": "12.5",
        "escrow": "",
        "share": "40",
        "reproduction": "",
        "min_reviewers": "1",
        "max_attempts": "5",
        "deadline_at": "",
        **changes,
    }


# -- opening ------------------------------------------------------------------------------------------


def test_a_maintainer_opens_a_bounty_for_a_bug(world: BugWorld) -> None:
    before = ledger.totals().treasury
    response = client_of(world.mira).post("/bounties/new/bug/", terms(world), follow=True)
    bug = Bounty.objects.get(title="Wrong in batches")
    assert response.redirect_chain == [(f"/bounties/{bug.pk}/", 302)]
    assert (bug.suite, bug.severity, bug.award_microcredits) == ("bug", "critical", 12_500_000)
    assert (bug.reproduction_ppm, bug.escrow_microcredits) == (400_000, 12_500_000)
    assert before - ledger.totals().treasury == 12_500_000
    html = response.content.decode()
    assert "5 credits for the reproduction" in html and "No one has reproduced this bug yet" in html


def test_a_bug_bounty_may_come_with_a_reproduction(world: BugWorld) -> None:
    pasted = terms(world, reproduction=TEXT.replace("\n", "\r\n"), escrow="20")
    assert client_of(world.mira).post("/bounties/new/bug/", pasted).status_code == 302
    bug = Bounty.objects.get(title="Wrong in batches")
    own = Reproduction.objects.get(bounty=bug)
    assert (own.author, own.earns, own.state) == (world.mira, False, ReproductionState.QUEUED)
    assert blob_store().get(own.blob).decode() == TEXT
    assert bug.escrow_microcredits == 20_000_000


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"award": ""}, "required"),
        ({"award": "0"}, "more than 0"),
        ({"escrow": "12"}, "below the award"),
        ({"escrow": "1000000"}, "Fund the treasury first"),
        ({"share": "100"}, "less than 100 %"),
        ({"share": "-1"}, "greater than or equal to 0"),
        ({"severity": "dreadful"}, "valid choice"),
        ({"reproduction": "x" * 17_000}, "allowed are 16384"),
        ({"reproduction": TEXT, "file": b"def observe(): ..."}, "not both"),
        ({"file": b"\xff\xfe"}, "not UTF-8 text"),
        ({"file": b"#" * 17_000}, "at most 16384 bytes"),
    ],
)
def test_impossible_terms_are_refused_and_stay_in_the_form(
    world: BugWorld, changes: dict[str, Any], complaint: str
) -> None:
    if "file" in changes:
        changes = changes | {"file": SimpleUploadedFile("bug.py", changes["file"])}
    response = client_of(world.mira).post("/bounties/new/bug/", terms(world, **changes))
    html = response.content.decode()
    assert response.status_code == 400 and complaint in html
    assert 'value="Wrong in batches"' in html and "Only the first sequence is right." in html
    assert Bounty.objects.filter(title="Wrong in batches").count() == 0


def test_an_error_in_the_escrow_is_shown_at_its_field(world: BugWorld) -> None:
    html = client_of(world.mira).post("/bounties/new/bug/", terms(world, escrow="1000000")).content.decode()
    field = html[html.index('name="escrow"') :]
    assert 'aria-invalid="true"' in field[: field.index(">")]
    assert "id_escrow_error" in field[: field.index(">")]


def test_opening_one_is_for_maintainers_and_both_forms_lead_to_each_other(world: BugWorld) -> None:
    assert "Only maintainers can open a bounty" in page("/bounties/new/bug/", world.ann, 403)
    assert client_of(world.ann).post("/bounties/new/bug/", terms(world)).status_code == 403
    assert 'href="/bounties/new/bug/"' in page("/bounties/new/", world.mira)
    assert 'href="/bounties/new/"' in page("/bounties/new/bug/", world.mira)
    assert 'href="/bounties/new/bug/"' in page("/bounties/", world.mira)
    assert 'href="/bounties/new/bug/"' not in page("/bounties/", world.ann)


# -- sending in ---------------------------------------------------------------------------------------


def test_a_contributor_shows_the_bug_on_a_page(world: BugWorld) -> None:
    path = f"/bounties/{world.bug.pk}/reproduce/"
    assert f'href="{path}"' in page(f"/bounties/{world.bug.pk}/", world.ann)
    sent = {"reproduction": "", "file": SimpleUploadedFile("bug.py", TEXT.encode())}
    response = client_of(world.ann).post(path, sent)
    assert response.headers["Location"] == f"/bounties/{world.bug.pk}/#reproduction"
    made = Reproduction.objects.get()
    assert (made.author, made.earns) == (world.ann, True)
    again = client_of(world.bob).post(path, {"reproduction": TEXT})
    assert again.status_code == 400 and "submitted before" in again.content.decode()
    assert "def check(seen)" in again.content.decode()
    world.try_out()
    settle(reproduction_id=made.pk)
    assert "already reproduced" in page(path, world.bob)
    assert f'href="{path}"' not in page(f"/bounties/{world.bug.pk}/", world.bob)


def test_only_bugs_that_are_open_take_reproductions(world: BugWorld) -> None:
    page(f"/bounties/{world.bounty.pk}/reproduce/", world.ann, 404)
    empty = client_of(world.ann).post(f"/bounties/{world.bug.pk}/reproduce/", {"reproduction": " "})
    assert empty.status_code == 400 and "Paste the reproduction" in empty.content.decode()
    close_bounty(bounty_id=world.bug.pk, reason="done", actor=world.mira)
    late = client_of(world.ann).post(f"/bounties/{world.bug.pk}/reproduce/", {"reproduction": TEXT})
    assert late.status_code == 400 and "takes no reproductions" in late.content.decode()
    assert not Reproduction.objects.exists()


# -- declining ----------------------------------------------------------------------------------------


def declining(world: BugWorld, reproduction: Reproduction) -> str:
    return f"/bounties/{world.bug.pk}/reproductions/{reproduction.pk}/decline/"


def test_a_maintainer_declines_and_the_next_one_takes_its_place(world: BugWorld) -> None:
    first, second = world.reproduce(world.ann), world.reproduce(world.bob, OTHER_TEXT)
    for one in (first, second):
        world.try_out()
        settle(reproduction_id=one.pk)
    path, bounty = declining(world, first), f"/bounties/{world.bug.pk}/"
    assert path in page(bounty, world.ruth) and path not in page(bounty, world.bob)
    response = client_of(world.ruth).post(path, {"text": "It fails on every tree."})
    assert response.headers["Location"] == f"{bounty}#reproduction"
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state) == ("declined", "adopted")
    html = page(bounty, world.ann)
    assert "Declined: It fails on every tree." in html
    assert path not in page(bounty, world.ruth)
    change = StateChange.objects.get(subject_id=str(first.pk), new="declined")
    assert change.actor == world.ruth


def test_declining_takes_a_reason_a_maintainer_and_not_its_author(world: BugWorld) -> None:
    reproduction = world.adopted()
    path = declining(world, reproduction)
    without = client_of(world.ruth).post(path, {"text": "  "})
    html = without.content.decode()
    assert without.status_code == 409 and "Write why it shows no bug" in html
    assert f'aria-describedby="decline-{reproduction.pk}_error"' in html
    for stranger in (world.bob, world.ann):
        refused = client_of(stranger).post(path, {"text": "no bug"})
        assert refused.status_code == 409
    reproduction.refresh_from_db()
    assert reproduction.state == "adopted"
    mine = world.adopted(make_user("mo", "maintainer"), bounty=world.open_bug(title="Another"))
    assert f"/{mine.pk}/decline/" not in page(f"/bounties/{mine.bounty_id}/", mine.author)
    crossed = f"/bounties/{world.bug.pk}/reproductions/{mine.pk}/decline/"
    assert client_of(world.ruth).post(crossed, {"text": "no bug"}).status_code == 404


def test_a_refused_decline_keeps_what_was_typed(world: BugWorld) -> None:
    reproduction = world.adopted()
    world.fix()
    typed = "Two lines\r\nwith <odd> characters\x00"
    response = client_of(world.ruth).post(declining(world, reproduction), {"text": typed})
    html = response.content.decode()
    assert response.status_code == 409 and "Decide about that fix first" in html
    assert "Two lines\nwith &lt;odd&gt; characters</textarea>" in html
    reproduction.refresh_from_db()
    assert reproduction.state == "adopted"


def test_the_address_of_an_action_leads_back_when_it_is_only_opened(world: BugWorld) -> None:
    reproduction = world.adopted()
    opened = client_of(world.ruth).get(declining(world, reproduction))
    assert opened.headers["Location"] == f"/bounties/{world.bug.pk}/#reproduction"
    opened = client_of(world.mira).get(f"/bounties/{world.bug.pk}/close/")
    assert opened.headers["Location"] == f"/bounties/{world.bug.pk}/"
    world.bug.refresh_from_db()
    assert world.bug.state == "open"


def test_closing_keeps_the_reason(world: BugWorld) -> None:
    assert f"/bounties/{world.bug.pk}/close/" not in page(f"/bounties/{world.bug.pk}/", world.ann)
    client_of(world.mira).post(f"/bounties/{world.bug.pk}/close/", {"text": "Fixed upstream."})
    change = StateChange.objects.get(subject_id=str(world.bug.pk), old="open", new="closed")
    assert (change.reason, change.actor) == ("Fixed upstream.", world.mira)
    assert world.bug.award_microcredits == AWARD
