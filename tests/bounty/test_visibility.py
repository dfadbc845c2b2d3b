"""Who sees what of a submission: the table, the table in the documents, and every route in every phase as every viewer."""

import json
import re
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from benchmarks.statistics.gate import LOOKS
from bounty.errors import AlreadyJudged, AlreadySubmitted, NotAllowed, Sealed, WrongState
from bounty.models import Look, Run, Submission, SubmissionState
from bounty.pages.actions import allowed_actions
from bounty.services.access import phase_of, sees, viewer_of
from bounty.services.course import hidden_course, looks_done
from bounty.services.disputes import answer_dispute
from bounty.services.reviews import rejudge, review
from bounty.services.runners.maintenance import calibrate
from bounty.services.runs.lifecycle import lose_run, order_aa_run
from bounty.services.submissions import find_submission, withdraw
from bounty.services.trees import create_lineage
from bounty.visibility import SEEN_BY, Part, Phase, Viewer, is_logged, may_see, without_figures
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line, make_user
from tests.bounty.visibility_states import (
    DIFF,
    MARK,
    PRINTED,
    STATES,
    awaiting_escrow,
    confirmed,
    confirming,
    printed,
    queued,
    suspicious,
)

DOCUMENT = Path(__file__).parents[2] / "docs/concepts/judging.md"
AS_CONFIRMED = ("accepted", "vested", "reversed")  # all is public: a visitor walks for everyone


def people(world: World) -> dict[str, tuple[User | None, Viewer]]:
    """One person for each line of the table, and a visitor. The competing maintainer has an open submission."""
    rival = make_user("rita", "maintainer")
    world.submit(rival, diff_of_line(5, "step_5 = 55"), world.open(title="Another bounty"))
    return {
        "author": (world.ann, Viewer.AUTHOR),
        "contributor": (world.bob, Viewer.OTHER),
        "uninvolved maintainer": (world.ruth, Viewer.UNINVOLVED),
        "competing maintainer": (rival, Viewer.COMPETING),
        "visitor": (None, Viewer.OTHER),
    }


def get_routes() -> list[str]:
    """Every address of the bounty app, pages and REST, with its parameters in angle brackets."""

    def walk(patterns: list[Any], prefix: str) -> list[str]:
        found = []
        for entry in patterns:
            path = prefix + str(entry.pattern)
            if isinstance(entry, URLResolver):
                found += walk(entry.url_patterns, path)
            elif isinstance(entry, URLPattern) and entry.callback.__module__.startswith("bounty."):
                view = getattr(entry.callback, "cls", None)  # of REST; pages are functions
                found += [path] if view is None or hasattr(view, "get") else []
        return found

    return sorted({"/" + route for route in walk(get_resolver().url_patterns, "")})


def addresses(submission: Submission, world: World) -> list[str]:
    """Every route that can be filled in with what this submission has, and the lists with their filters."""
    runs = [str(pk) for pk in submission.runs.values_list("pk", flat=True)]
    values = {
        "submission_id": [str(submission.pk)],
        "bounty_id": [str(submission.bounty_id)],
        "hash": [submission.candidate_tree_id or submission.base_tree_id, submission.base_tree_id],
        "name": [world.runner.name, world.lineage.name],
        "action": ["withdraw"],
    }
    found = []
    for route in get_routes():
        if "runner/" in route.replace("runners/", "") or "reproduction" in route:
            continue
        names = re.findall(r"<(?:\w+:)?(\w+)>", route)
        filled = [route]
        for name in names:
            choices = values.get(name)
            if name == "pk":
                choices = (
                    runs
                    if "/runs/" in route
                    else [str(submission.bounty_id if "/bounties/" in route else submission.pk)]
                )
            filled = [
                re.sub(rf"<(?:\w+:)?{name}>", choice, path, count=1)
                for path in filled
                for choice in choices or []
            ]
        found += filled
    return [
        *found,
        f"/api/v1/submissions/?bounty={submission.bounty_id}",
        f"/api/v1/submissions/?state={submission.state}",
        "/api/v1/submissions/?state=being_judged",
        *(f"/api/v1/runs/?kind={kind}" for kind in ("gate", "confirmation", "guard")),
        *(f"/submissions/{submission.pk}/live/?offset={offset}" for offset in (0, 10)),
    ]


def bodies(person: User | None, submission: Submission, world: World) -> dict[str, str]:
    """What the person reads at every address; archives are unpacked."""
    client = Client()
    if person is not None:
        client.force_login(person)
    read = {}
    for path in addresses(submission, world):
        response = client.get(path)
        assert response.status_code < 500, path
        data = response.content if not response.streaming else b"".join(response)
        if response.get("Content-Type") == "application/x-tar":
            with tarfile.open(fileobj=BytesIO(data)) as archive:
                members = [archive.extractfile(member) for member in archive.getmembers()]
                data = b"\n".join(member.read() for member in members if member is not None)
        read[path] = data.decode("utf-8", "replace")
    return read


def figures_of(submission: Submission) -> set[str]:
    """Texts that tell what was measured: bounds and estimates of all runs, digests of evidence, sizes of awards.

    While a booked gain is priced again, only those of the new price: the old ones were public.
    """
    found: set[str] = {PRINTED}
    runs, awards = submission.runs.filter(verdict__isnull=False), submission.awards.all()
    if submission.state == SubmissionState.CONFIRMING and submission.confirmed_at is not None:
        runs, awards = runs.filter(queued_at__gt=submission.confirmed_at), awards.none()
        assert runs.exists()
    for run in runs.select_related("verdict__evidence"):
        verdict = run.verdict
        found |= {str(value) for value in (verdict.log_ppm_bound, verdict.log_ppm_estimate) if value}
        if verdict.evidence is not None:
            found |= {verdict.evidence.digest, str(verdict.evidence.samples[0]["log_ratio_ppb"])}
    for award in awards:
        found |= {str(award.amount_microcredits)} if award.amount_microcredits else set()
    return found


@pytest.mark.parametrize("state", STATES)
def test_every_route_shows_each_viewer_what_the_table_says(world: World, state: str) -> None:
    make, phase = STATES[state]
    submission = make(world)
    assert phase_of(submission) is phase
    figures = figures_of(submission)
    for name, (person, viewer) in people(world).items():
        if person is not None:
            assert viewer_of(person, submission) is viewer, name
        if state in AS_CONFIRMED and person is not None:
            continue
        read = bodies(person, submission, world)
        assert len(read) > 40
        leaks_source = {path for path, text in read.items() if MARK in text}
        if Run.objects.filter(base_tree=submission.candidate_tree_id).exists():
            leaks_source -= {
                path for path in leaks_source if "/trees/" in path
            }  # others are measured against it
        leaks_figures = {path for path, text in read.items() if any(figure in text for figure in figures)}
        sees_source = may_see(viewer, Part.SOURCE, phase)
        assert bool(leaks_source) is sees_source, (name, sorted(leaks_source))
        if not may_see(viewer, Part.FIGURES, phase):
            assert not leaks_figures, (name, sorted(leaks_figures))
        elif submission.runs.filter(verdict__evidence__isnull=False).exists():
            assert leaks_figures, name
        verdict = json.loads(read[f"/api/v1/submissions/{submission.pk}/"])["verdict"]
        assert (verdict is not None) is (submission.has_verdict and may_see(viewer, Part.VERDICT, phase)), (
            name
        )
        shows_course(name, read, submission, is_shown=may_see(viewer, Part.COURSE, phase))
        looks = Look.objects.filter(viewer=person) if person is not None else Look.objects.none()
        assert looks.filter(submission=submission).exists() is (
            person is not None and is_logged(viewer, Part.SOURCE, phase)
        ), name


COURSE_WORDS = (
    "confirmation run",
    "guard run",
    "guard rails",
    "comparison run",
    "re-measurement",
    "confirming",
    "confirmed",
    "judged",
    "await",
)


def shows_course(name: str, read: dict[str, str], submission: Submission, *, is_shown: bool) -> None:
    """Pages, REST and filters tell the state, the runs and the history, or nothing but one state."""
    seen = json.loads(read[f"/api/v1/submissions/{submission.pk}/"])
    pk = str(submission.pk)
    runs = {str(run.pk): run.kind for run in submission.runs.all()}
    assert seen["state"] == (submission.state if is_shown else "being_judged"), name
    assert {run["id"] for run in seen["runs"]} == (set(runs) if is_shown else set()), name
    assert (seen["judged_at"] is not None) is (is_shown and submission.judged_at is not None), name
    for kind in ("gate", "confirmation", "guard"):
        found = json.loads(read[f"/api/v1/runs/?kind={kind}"])["results"]
        of_this = {run["id"] for run in found} & set(runs)
        assert of_this == ({run for run, its in runs.items() if its == kind} if is_shown else set()), name
    by_state = {
        state: {row["id"] for row in json.loads(read[f"/api/v1/submissions/?state={state}"])["results"]}
        for state in (submission.state, "being_judged")
    }
    assert (pk in by_state[submission.state], pk in by_state["being_judged"]) == (is_shown, not is_shown), (
        name
    )
    if is_shown:
        return
    about = {
        path: re.sub("being.judged|(judged|confirmed)_at", "", text.lower())
        for path, text in read.items()
        if pk in path or "/runners/" in path
    }
    told = {path: [word for word in COURSE_WORDS if word in text] for path, text in about.items()}
    assert not {path: words for path, words in told.items() if words}, name
    ids = {path for path, text in read.items() if path not in about and any(run in text for run in runs)}
    ids |= {path for path, text in about.items() if any(run in text for run in runs)}
    assert not {path for path in ids if "/runs/" not in path}, name
    logs = [text for path, text in about.items() if path.split("?")[0].endswith("/log/")]
    assert max(text.count("leased by") for text in logs) <= 1, name
    page = read[f"/submissions/{submission.pk}/"]
    live = read[f"/submissions/{submission.pk}/live/?offset=0"]
    assert json.loads(live)["state"] == "being_judged" and "Being judged" in page
    assert seen["looks"] <= len(LOOKS), name
    assert not [change for change in seen["changes"] if change["new"] not in ("received", "checked")], name


@pytest.mark.parametrize("state", STATES)
def test_lists_hide_the_course_of_the_same_submissions_as_the_table(world: World, state: str) -> None:
    submission = STATES[state][0](world)
    for name, (person, _viewer) in people(world).items():
        who = person if person is not None else AnonymousUser()
        hidden = Submission.objects.filter(hidden_course(who), pk=submission.pk).exists()
        assert hidden is not sees(who, Part.COURSE, submission), name


@pytest.mark.parametrize("state", STATES)
def test_the_page_offers_to_withdraw_exactly_where_the_service_allows_it(world: World, state: str) -> None:
    submission = STATES[state][0](world)
    offered = []
    for person in (world.ann, world.bob, world.ruth):
        client = Client()
        client.force_login(person)
        html = client.get(f"/submissions/{submission.pk}/").content.decode()
        offered.append(f"/submissions/{submission.pk}/withdraw/" in html)
    for person in (world.bob, world.ruth):
        with pytest.raises(NotAllowed):
            withdraw(actor=person, submission_id=submission.pk)
    try:
        is_allowed = withdraw(actor=world.ann, submission_id=submission.pk).state != submission.state
    except WrongState as refusal:
        is_allowed = False
        is_sealed = STATES[state][1] is Phase.BEING_JUDGED
        assert refusal.message.endswith(f"this one is {'being judged' if is_sealed else submission.state}.")
    assert offered == [is_allowed, False, False]


@pytest.mark.parametrize("state", ["suspicious", "disputed", "failed"])
def test_a_maintainer_with_an_open_submission_decides_nothing_about_an_undecided_one(
    world: World, state: str
) -> None:
    submission = STATES[state][0](world)
    rival = people(world)["competing maintainer"][0]
    assert rival is not None and allowed_actions(submission, rival) == set()
    assert allowed_actions(submission, world.ruth)
    with pytest.raises(NotAllowed, match="open submission in this lineage"):
        rejudge(actor=rival, submission_id=submission.pk)
    with pytest.raises(NotAllowed, match="open submission in this lineage"):
        review(actor=rival, submission_id=submission.pk, decision="decline")
    for dispute in submission.disputes.all():
        with pytest.raises(NotAllowed, match="open submission in this lineage"):
            answer_dispute(actor=rival, dispute_id=dispute.pk, answer="uphold", text="It is slow.")


def test_everyone_sees_who_sent_it_when_and_its_digest(world: World) -> None:
    submission = queued(world)
    seen = json.loads(Client().get(f"/api/v1/submissions/{submission.pk}/").content)
    assert (seen["submitter"], seen["patch_digest"]) == (world.ann.username, submission.patch_digest)
    assert seen["sealed_at"] and seen["queue"]["position"] == 0 and seen["state"] == "being_judged"


def test_the_author_of_a_suspicious_gain_reads_its_reason_without_figures(world: World) -> None:
    submission = suspicious(world)
    assert re.search(r"\d", submission.verdict_reason) is not None or submission.verdict_reason
    client = Client()
    client.force_login(world.ann)
    verdict = json.loads(client.get(f"/api/v1/submissions/{submission.pk}/").content)["verdict"]
    assert verdict["kind"] == "suspicious" and verdict["log_ppm_estimate"] is None and verdict["pairs"] == 0
    assert re.search(r"\d", verdict["reason"]) is None


def test_no_tree_is_made_of_a_sealed_one(world: World) -> None:
    submission = queued(world)
    client = Client()
    client.force_login(world.bob)
    trick = {"base": submission.candidate_tree_id, "diff": diff_of_line(7, "step_7 = 77")}
    for body in (trick, {**trick, "diff": ""}):
        answer = client.post("/api/v1/trees/", json.dumps(body), content_type="application/json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "sealed")


def test_no_sealed_tree_becomes_a_base_which_would_make_it_public(world: World) -> None:
    submission = queued(world)
    tree = submission.candidate_tree_id
    assert tree is not None
    for maintainer in (world.ruth, make_user("rita", "maintainer")):
        with pytest.raises(Sealed):
            create_lineage(actor=maintainer, name="mine", base_tree=tree)
        with pytest.raises(Sealed):
            order_aa_run(actor=maintainer, suite="moe_forward", preset="demo", hardware="cpu", tree=tree)
        with pytest.raises(Sealed):
            calibrate(actor=maintainer, name=world.runner.name, suite="moe_forward", preset="demo", tree=tree)
    assert Client().get(f"/api/v1/trees/{tree}/archive/").status_code == 403


def test_a_tree_that_others_build_on_stays_public(world: World) -> None:
    submission = confirmed(world)
    file = f"/api/v1/trees/{submission.candidate_tree_id}/archive/"
    other = world.submit(world.bob, diff_of_line(5, "step_5 = 55"))
    assert other.runs.get().base_tree_id == submission.candidate_tree_id
    Submission.objects.filter(pk=submission.pk).update(state=SubmissionState.CONFIRMING)  # priced again
    assert Client().get(file).status_code == 200


def test_a_maintainer_who_reads_a_page_twice_leaves_one_record(world: World) -> None:
    submission = queued(world)
    client = Client()
    client.force_login(world.ruth)
    for _ in range(3):
        assert MARK in client.get(f"/submissions/{submission.pk}/").content.decode()
    assert Look.objects.filter(submission=submission, part=Part.SOURCE).count() == 1


def test_the_log_of_code_is_shown_from_the_verdict_on(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    run = world.lease()
    world.commit(run)
    printed(run)
    client = Client()
    client.force_login(world.ann)
    path = f"/api/v1/submissions/{submission.pk}/log/"
    before = client.get(path).json()
    assert "leased by" in before["text"] and PRINTED not in before["text"]
    rest = client.get(path, {"offset": before["next_offset"]}).json()
    assert rest["text"] == ""
    world.finish(run, 0.0)
    world.advance(submission)
    assert PRINTED in client.get(path).json()["text"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "Odd. The median is 45 times base's. A maintainer will check it.",
            "Odd. A maintainer will check it.",
        ),
        ("All of 3.", ""),
        ("", ""),
        ("No figure here", "No figure here"),
    ],
)
def test_reasons_lose_the_sentences_that_have_figures(reason: str, told: str) -> None:
    assert without_figures(reason) == told


def test_the_table_is_whole_and_no_one_sees_figures_while_it_is_judged() -> None:
    assert set(SEEN_BY) == set(Phase) and all(set(parts) == set(Part) for parts in SEEN_BY.values())
    assert not any(may_see(viewer, Part.FIGURES, Phase.BEING_JUDGED) for viewer in Viewer)


def test_the_document_shows_the_same_table() -> None:
    rows = re.findall(
        r"^\| (being judged|failed|in doubt|closed|decided) \| (.*) \|$", DOCUMENT.read_text(), re.M
    )
    assert [row[0] for row in rows] == [phase.value for phase in Phase]
    for name, cells in rows:
        shown = [cell.strip() for cell in cells.split("|")][-len(Part) :]
        for part, cell in zip(Part, shown, strict=True):
            viewers = SEEN_BY[Phase(name)][part]
            expected = (
                "everyone"
                if viewers == frozenset(Viewer)
                else "no one"
                if not viewers
                else ", ".join(viewer.value for viewer in Viewer if viewer in viewers)
            )
            assert cell == expected, (name, part)


def test_free_escrow_does_not_tell_what_a_gate_found(world: World) -> None:
    def shown() -> tuple[Any, ...]:
        rest = json.loads(Client().get(f"/api/v1/bounties/{world.bounty.pk}/").content)["escrow"]
        pages = [
            Client().get(path).content.decode()
            for path in ("/", "/bounties/", f"/bounties/{world.bounty.pk}/")
        ]
        return rest, [re.findall(r"[\d.]+ left in escrow|Left in escrow\D*[\d.,]+", html) for html in pages]

    submission = queued(world)
    before = shown()
    world.gate(submission, 0.3)
    assert submission.awards.get().reserved_microcredits > 0
    assert shown() == before
    world.gate(submission, 0.3)
    assert shown() == before  # confirmed, but guard rails are still measured
    world.guard(submission)
    booked = shown()[0]
    assert booked["reserved"] == submission.awards.get().amount_microcredits
    assert booked["available"] == before[0]["available"] - booked["reserved"]


def test_sending_a_suspicious_patch_again_tells_its_author_no_figure(world: World) -> None:
    submission = suspicious(world)
    with pytest.raises(AlreadyJudged) as refusal:
        world.submit(world.ann, DIFF)
    assert str(submission.pk) in refusal.value.message
    told = refusal.value.message.replace(str(submission.pk), "")
    assert submission.verdict_reason not in told and re.search(r"\d", told) is None


def test_looks_of_several_runs_are_those_of_one_gate_over_all_their_pairs(world: World) -> None:
    submission = confirming(world)
    gate = submission.runs.get(kind="gate")
    told = []
    for gated, confirmed_pairs in ((6, 0), (6, 5), (6, 6), (6, 30), (48, 30)):
        Run.objects.filter(pk=gate.pk).update(pairs_done=gated)
        submission.runs.exclude(pk=gate.pk).update(pairs_done=confirmed_pairs)
        told.append(looks_done(find_submission(submission.pk)))
    assert told == [1, 1, 2, 3, 4]


def test_only_who_may_see_its_course_is_told_which_run_a_runner_has(world: World) -> None:
    submission = confirming(world)
    run = world.lease()
    assert run.submission_id == submission.pk

    def told(person: User | None) -> set[str | None]:
        client = Client()
        if person is not None:
            client.force_login(person)
        one = client.get(f"/api/v1/runners/{world.runner.name}/").json()
        listed = client.get("/api/v1/runners/").json()["results"]
        return {one["current_run"], *(row["current_run"] for row in listed if row["id"] == one["id"])}

    assert [told(person) for person in (world.ann, world.bob, None)] == [{None}] * 3
    assert told(world.ruth) == {str(run.pk)}
    lose_run(run=run, reason="its lease ran out")
    path = f"/api/v1/runners/{world.runner.name}/"
    assert [failure["run"] for failure in Client().get(path).json()["failures"]] == [None]
    assert str(run.pk) not in Client().get(f"/runners/{world.runner.name}/").content.decode()


def test_sending_again_what_waits_for_escrow_tells_no_more_than_while_it_is_measured(world: World) -> None:
    submission = awaiting_escrow(world)
    with pytest.raises(AlreadySubmitted, match=f"already being judged: see submission {submission.pk}"):
        world.submit(world.ann, DIFF)  # to another bounty of the series
