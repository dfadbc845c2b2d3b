"""Events are sent signed and in order, and by wish lost, doubled, shuffled and sent again."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from gainshare.local.errors import LocalModeError
from tests.bounty.github.standin.conftest import Place
from tests.http_servers import serving


@dataclass
class Door:
    """A receiver of events."""

    status: int = 202
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    @property
    def guids(self) -> list[str]:
        return [headers["X-GitHub-Delivery"] for headers, _ in self.got]


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append((dict(self.headers), body))
            self.send_response(made.status)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/hook/"
    with serving(server):
        yield made


def _is_signed(headers: dict[str, str], body: bytes, secret: str) -> bool:
    wanted = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(headers["X-Hub-Signature-256"], wanted)


def test_events_are_signed_and_come_in_order(place: Place, door: Door) -> None:
    place.standin.set_hook(door.url)
    pull = place.pull()
    comment = place.standin.comment(pull, place.cora, "/judge")
    place.standin.edit_comment(pull, comment, "/accept", by=place.mira)
    place.standin.review(pull, place.mira)
    place.standin.merge(pull, place.mira)
    place.standin.deliveries.settle()
    told = [(headers["X-GitHub-Event"], json.loads(body).get("action", "")) for headers, body in door.got]
    assert told == [
        ("pull_request", "opened"),
        ("issue_comment", "created"),
        ("issue_comment", "edited"),
        ("pull_request_review", "submitted"),
        ("pull_request", "closed"),
        ("push", ""),
    ]
    secret = place.standin.app.webhook_secret
    assert all(_is_signed(headers, body, secret) for headers, body in door.got)
    edited = json.loads(door.got[2][1])
    assert (edited["sender"]["login"], edited["comment"]["user"]["login"]) == ("mira", "cora")
    assert edited["changes"]["body"]["from"] == "/judge"
    assert json.loads(door.got[3][1])["review"]["state"] == "approved"
    assert all(json.loads(body)["installation"]["id"] == place.opened.github_id for _, body in door.got)


def test_a_new_secret_signs_what_comes_then(place: Place, door: Door) -> None:
    place.standin.set_hook(door.url)
    old = place.standin.app.webhook_secret
    pull = place.pull()
    new = place.standin.rotate_secret()
    place.standin.comment(pull, place.cora, "hello")
    place.standin.deliveries.settle()
    assert [_is_signed(*row, old) for row in door.got] == [True, False]
    assert [_is_signed(*row, new) for row in door.got] == [False, True]


def test_held_events_are_lost_doubled_and_shuffled_as_the_seed_says(place: Place, door: Door) -> None:
    place.standin.set_hook(door.url)
    pull = place.pull()
    place.standin.deliveries.settle()
    door.got.clear()

    def again(seed: int) -> tuple[list[str], int]:
        place.standin.deliveries.hold()
        for number in range(40):
            place.standin.comment(pull, place.cora, f"{seed} {number}")
        lost = place.standin.deliveries.release(seed=seed, is_shuffled=True, lost=0.1, doubled=0.2)
        place.standin.deliveries.settle()
        bodies = [json.loads(body)["comment"]["body"].split()[1] for _, body in door.got]
        door.got.clear()
        return bodies, len(lost)

    first, lost = again(7)
    assert again(7) == (first, lost)
    assert 0 < lost < 20
    assert len(set(first)) == 40 - lost < len(first)
    assert first != sorted(first, key=int)
    assert again(8)[0] != first


def test_a_failed_delivery_is_listed_and_sent_again_under_its_guid(place: Place, door: Door) -> None:
    place.standin.set_hook(door.url)
    door.status = 500
    place.pull()
    place.standin.deliveries.settle()
    listed = place.ask("GET", "/app/hook/deliveries", headers=place.app()).json()
    failed = next(row for row in listed if row["event"] == "pull_request")
    assert failed["status_code"] == 500
    door.status = 202
    path = f"/app/hook/deliveries/{failed['id']}/attempts"
    assert place.ask("POST", path, headers=place.app()).status_code == 202
    place.standin.deliveries.settle()
    assert door.guids == [failed["guid"], failed["guid"]]
    newest = place.ask("GET", "/app/hook/deliveries", headers=place.app()).json()[0]
    assert (newest["guid"], newest["redelivery"], newest["status_code"]) == (failed["guid"], True, 202)
    assert place.ask("POST", "/app/hook/deliveries/1/attempts", headers=place.app()).status_code == 404


def test_a_suspended_or_unsubscribed_app_hears_nothing_of_the_repository(place: Place) -> None:
    before = len(place.standin.deliveries.all)
    place.standin.suspend(place.opened)
    place.pull(branch="one")
    place.standin.unsuspend(place.opened)
    place.standin.app.events.remove("pull_request")
    place.pull(branch="two")
    place.standin.set_permissions(place.opened, {"metadata": "read"})
    place.standin.comment(place.repository.pulls[1], place.cora, "hello")
    told = ["installation.suspend", "installation.unsuspend", "installation.new_permissions_accepted"]
    assert place.events(after=before) == told


def test_installations_and_names_are_told(place: Place) -> None:
    before = len(place.standin.deliveries.all)
    other = place.standin.add_repository("octo/other")
    place.standin.open_to_app(place.opened, other)
    place.standin.close_to_app(place.opened, other)
    place.standin.rename_repository(place.repository, "engine")
    place.standin.remove(place.opened)
    assert place.events(after=before) == [
        "installation_repositories.added",
        "installation_repositories.removed",
        "repository.renamed",
        "installation.deleted",
    ]
    renamed = place.standin.deliveries.all[-2].payload
    assert (renamed["repository"]["full_name"], renamed["changes"]["repository"]["name"]["from"]) == (
        "octo/engine",
        "model",
    )


def test_events_are_sent_to_this_machine_only(place: Place) -> None:
    with pytest.raises(LocalModeError):
        place.standin.set_hook("https://gainshare.example.org/hook/")


def test_an_unreachable_receiver_is_survived(place: Place) -> None:
    place.standin.set_hook("http://127.0.0.1:9/hook/")
    place.pull()
    place.standin.deliveries.settle()
    assert place.standin.deliveries.all[-1].status == 502
    assert httpx.get(place.standin.url + "/octo/model/pull/1").status_code == 200
