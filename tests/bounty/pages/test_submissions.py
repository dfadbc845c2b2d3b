"""Pages of submissions: submit a diff, follow it, read the verdict, and decide about it."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from bounty.models import Evidence, Submission, SubmissionState
from bounty.pages.actions import allowed_actions
from bounty.pages.counting import counted_by
from bounty.services.trees import blob_store
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line

DIFF = diff_of_line(1, "fast = 1")


def client_of(user: User | None = None) -> Client:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


def page(path: str, user: User | None = None, status: int = 200) -> str:
    response = client_of(user).get(path)
    assert response.status_code == status
    return response.content.decode()


def url(submission: Submission, rest: str = "") -> str:
    return f"/submissions/{submission.pk}/{rest}"


def press(user: User, submission: Submission, action: str, text: str = "") -> str:
    """Press a button; returns the page that follows. The submission is read again."""
    response = client_of(user).post(url(submission, f"{action}/"), {"text": text}, follow=True)
    submission.refresh_from_db()
    return response.content.decode()


def test_a_pasted_diff_with_a_browsers_line_ends_is_queued(world: World) -> None:
    response = client_of(world.ann).post(
        f"/bounties/{world.bounty.pk}/submit/", {"diff": DIFF.replace("\n", "\r\n")}
    )
    submission = Submission.objects.get()
    assert response.headers["Location"] == url(submission)
    assert submission.state == SubmissionState.QUEUED
    html = page(url(submission))
    assert "Being judged" in html and "It waits for a runner. It is next." in html
    assert "Gate run: waiting for a runner" in page(url(submission), world.ruth)


def test_an_uploaded_diff_is_queued(world: World) -> None:
    upload = SimpleUploadedFile("fast.diff", DIFF.encode())
    client_of(world.ann).post(f"/bounties/{world.bounty.pk}/submit/", {"file": upload})
    assert Submission.objects.get().state == SubmissionState.QUEUED


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({}, "Paste a diff or choose a file."),
        ({"diff": "   "}, "Paste a diff or choose a file."),
        ({"diff": DIFF, "file": b"x"}, "not both"),
        ({"file": b"\xff\xfe\x00"}, "not UTF-8 text"),
    ],
)
def test_a_form_without_one_diff_is_refused(
    world: World, data: dict[str, str | bytes], complaint: str
) -> None:
    fields = {
        name: SimpleUploadedFile("a.diff", value) if isinstance(value, bytes) else value
        for name, value in data.items()
    }
    response = client_of(world.ann).post(f"/bounties/{world.bounty.pk}/submit/", fields)
    assert response.status_code == 400 and complaint in response.content.decode()
    assert not Submission.objects.exists()


def test_a_diff_that_cannot_be_applied_is_a_verdict_with_its_reason(world: World) -> None:
    client_of(world.ann).post(
        f"/bounties/{world.bounty.pk}/submit/", {"diff": diff_of_line(1, "x", old="not there")}
    )
    html = page(url(Submission.objects.get()), world.ann)
    assert "Verdict: patch rejected" in html
    assert "does_not_apply" in html
    assert "Nothing was run, so there is no log." in html


def test_visitors_are_sent_to_the_login_page_and_back(world: World) -> None:
    path = f"/bounties/{world.bounty.pk}/submit/"
    assert client_of().get(path).headers["Location"] == f"/login/?next={path}"


def test_a_submission_shows_its_diff_escaped(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(1, "x = '<script>alert(1)</script>'"))
    html = page(url(submission), world.ann)
    assert "<script>alert" not in html
    assert '<span class="add">+x = ' in html


def test_progress_and_log_are_followed_without_results(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    ann = client_of(world.ann)
    assert json.loads(client_of().get(url(submission, "live/")).content)["log"] is None
    live = json.loads(ann.get(url(submission, "live/")).content)
    assert (live["state"], live["is_settled"], live["pairs_max"]) == ("being_judged", False, 0)
    assert "queued" in live["log"]["text"]
    rest = json.loads(ann.get(url(submission, f"live/?offset={live['log']['next_offset']}")).content)
    assert rest["log"]["text"] == ""
    assert client_of().get(url(submission, "live/?offset=-1")).status_code == 400
    run = world.lease()
    run.state, run.pairs_done, run.pairs_max = "gating", 13, 48
    run.save()
    submission.refresh_from_db()
    assert "Interim checks so far: 2" in page(url(submission))
    html = page(url(submission), world.ruth)
    assert "Gate run: measuring pairs" in html
    assert "13 pairs; the next interim check is at 48" in html
    assert "Results stay hidden" in html
    assert '<svg class="plot"' not in html


def test_a_confirmed_gain_shows_plot_bound_evidence_and_award(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF, 0.3)
    html = page(url(submission))
    assert "Verdict: gain" in html
    assert html.count('<svg class="plot"') == 3  # gate, confirmation and guard rails
    assert "one-sided lower bound" in html
    award = submission.awards.get()
    assert award.amount_microcredits is not None
    assert f"{award.amount_microcredits / 1e6:g}"[:5] in html
    for run in submission.runs.all():
        assert f"/api/v1/runs/{run.pk}/evidence/" in html
        assert f"gainshare verify {run.pk}.json" in html
        assert run.verdict.evidence.digest in html
    assert html.count("CPU time by cgroup-v1, memory by cgroup-v1") == submission.runs.count()
    for run in submission.runs.all():  # evidence from before it was said, and evidence that is lost
        older = json.loads(blob_store().get(run.verdict.evidence.blob))
        del older["document"]["sandbox"]["counted_by"]
        for content in (json.dumps(older).encode(), None):
            blob = blob_store().put(content) if content else "0" * 64
            assert counted_by(Evidence(blob=blob)) == {}


def test_no_one_but_the_author_withdraws(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    assert "withdraw" not in allowed_actions(submission, world.bob)
    assert "Only the author" in press(world.bob, submission, "withdraw")
    assert submission.state == SubmissionState.QUEUED
    assert "The submission was withdrawn." in press(world.ann, submission, "withdraw")
    assert submission.state == SubmissionState.WITHDRAWN


def test_another_maintainer_accepts_and_merges(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    assert {"accept", "decline"} <= allowed_actions(submission, world.ruth)
    assert "Your review" in page(url(submission), world.ruth)
    assert "Your review" not in page(url(submission), world.ann)
    html = press(world.ruth, submission, "accept", "Clean.")
    assert "You accepted the submission." in html and "Clean." in html
    assert "accept" not in allowed_actions(submission, world.ruth)
    assert "merge" in allowed_actions(submission, world.mira)
    assert "the award has vested" in press(world.mira, submission, "merge")
    assert submission.state == SubmissionState.VESTED
    assert submission.merged_at is not None


def test_a_contributors_review_is_refused_by_the_service(world: World) -> None:
    submission = world.confirmed(world.ann, DIFF)
    assert "notice-error" in press(world.ann, submission, "accept")
    assert "notice-error" in press(world.bob, submission, "accept")
    assert submission.state == SubmissionState.CONFIRMED


def test_a_vested_award_is_reversed_with_a_reason(world: World) -> None:
    submission = world.vested(world.ann, DIFF)
    assert "Give a reason" in press(world.ruth, submission, "reverse")
    assert "The award was taken back." in press(world.ruth, submission, "reverse", "It cheated.")
    assert submission.state == SubmissionState.REVERSED
    assert "It cheated." in page(url(submission))


def test_unknown_actions_and_submissions_are_not_found(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    assert client_of(world.ann).post(url(submission, "explode/")).status_code == 404
    assert client_of(world.ann).get(url(submission, "withdraw/")).headers["Location"] == url(submission)
    submission.refresh_from_db()
    assert submission.state == "queued"
    page("/submissions/6a9f1b1e-0000-4000-8000-000000000000/", status=404)


def test_buttons_need_the_forms_token(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(world.ann)
    assert strict.post(url(submission, "withdraw/")).status_code == 403


def test_own_submissions_are_listed(world: World) -> None:
    assert "No submissions yet" in page("/submissions/", world.ann)
    submission = world.submit(world.ann, DIFF)
    assert str(submission.pk) in page("/submissions/", world.ann)
    assert str(submission.pk) not in page("/submissions/", world.bob)
