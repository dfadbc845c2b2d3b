"""Pages of runners and of the emergency stop: content, permissions and buttons."""

from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from bounty.models import NoiseSample, Run, Runner
from bounty.pages.noise_plot import NoisePoint, plot_noise
from bounty.services.emergency import stop
from bounty.services.reviews import review
from bounty.services.runners.maintenance import calibrate
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line

START = datetime(2026, 1, 1, tzinfo=UTC)


def client_of(user: User | None = None) -> Client:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


def page(path: str, user: User | None = None, status: int = 200) -> str:
    response = client_of(user).get(path)
    assert response.status_code == status
    return response.content.decode()


def press(user: User, path: str, **data: str) -> str:
    return client_of(user).post(path, data, follow=True).content.decode()


def points(*noise: int, fault: str = "") -> list[NoisePoint]:
    return [
        NoisePoint(START + timedelta(hours=6 * place), value, fault if place == len(noise) - 1 else "")
        for place, value in enumerate(noise)
    ]


def test_the_list_shows_state_hardware_work_and_noise(world: World) -> None:
    Runner.objects.filter(pk=world.runner.pk).update(fingerprint={"cpu": "Some CPU", "cores": 2})
    calibrate(actor=world.mira, name=world.runner.name)
    world.judge(0.0, units=12)
    world.submit(world.ann, diff_of_line(1, "step_1 = 0"))
    sample = NoiseSample.objects.get()
    html = page("/runners/")
    assert f"{sample.noise_log_ppm / 10_000:.2f}" in html
    assert "Some CPU, 2 cores" in html and "idle" in html
    world.lease()
    html = page("/runners/")
    assert "A submission is being judged" in html and world.bounty.title not in html
    seen = page("/runners/", world.ruth)
    assert "Gate run" not in html and "Gate run, leased" in seen and world.bounty.title in seen
    assert "/runners/" in page("/")  # the navigation leads there


def test_a_runners_page_shows_machine_noise_failures_doubts_and_history(world: World) -> None:
    Runner.objects.filter(pk=world.runner.pk).update(
        fingerprint={"cpu": "Some <CPU>", "memory_bytes": 2**34, "harness": "ab" * 32, "devices": []}
    )
    world.confirmed(world.ann, diff_of_line(1, "step_1 = 0"))
    calibrate(actor=world.mira, name=world.runner.name)
    world.judge(0.3, units=12)
    html = page(f"/runners/{world.runner.name}/")
    assert '<svg class="plot"' in html and 'class="fault"' in html
    assert "Quarantined: A/A run failed" in html and "Runs in doubt" in html and "Bad A/A runs" in html
    assert "Some &lt;CPU&gt;" in html and "16.0 GiB" in html and "ab" * 8 + "<" in html
    assert "Manage this runner" not in html
    assert page("/runners/nobody/", status=404)


def test_a_maintainers_buttons_do_what_they_say(world: World) -> None:
    path = f"/runners/{world.runner.name}/"
    html = page(path, world.mira)
    assert "Drain</button>" in html and "Quarantine</button>" in html and "Release</button>" not in html
    assert "The runner gets no new runs." in press(world.mira, f"{path}drain/", text="new fan")
    html = page(path, world.mira)
    assert "Resume</button>" in html and "new fan" in html and world.mira.username in html
    assert "Give a reason" in press(world.mira, f"{path}resume/")
    assert "The runner gets runs again." in press(world.mira, f"{path}resume/", text="mended")
    assert "gets only A/A runs" in press(world.mira, f"{path}quarantine/", text="clicks")
    assert "trusted again" in press(world.mira, f"{path}release/", text="quiet")
    assert "A/A runs were ordered" in press(world.mira, f"{path}calibrate/")
    assert Run.objects.filter(kind="aa").count() == 1
    assert client_of(world.mira).post(f"{path}explode/").status_code == 404
    assert client_of(world.mira).get(f"{path}drain/").headers["Location"] == path
    assert "Drain</button>" in page(path, world.mira)


def test_others_press_in_vain(world: World) -> None:
    path = f"/runners/{world.runner.name}/"
    assert "Only maintainers" in press(world.ann, f"{path}drain/", text="x")
    assert client_of().post(f"{path}drain/").headers["Location"].startswith("/login/")
    world.runner.refresh_from_db()
    assert world.runner.state == "active"


def test_every_page_says_what_is_stopped_and_why(world: World) -> None:
    assert 'role="alert"' not in page("/")
    stop(actor=world.mira, switch="awards", reason="a <wrong> rate")
    for path in ("/", "/bounties/", "/runners/", "/login/", "/stop/"):
        html = page(path)
        assert "Awards stopped: a &lt;wrong&gt; rate" in html and 'role="alert"' in html
    assert 'href="/stop/"' in page("/bounties/")


def test_the_stop_is_pressed_and_lifted_on_its_page(world: World) -> None:
    assert "Stop judging" not in page("/stop/", world.ann)
    assert "Stop judging" in page("/stop/", world.mira)
    assert "Give a reason" in press(world.mira, "/stop/judging/", action="stop")
    html = press(world.mira, "/stop/judging/", action="stop", text="a leak")
    assert "Judging is stopped." in html and "Judging stopped: a leak" in html
    assert "Only maintainers" in press(world.ann, "/stop/judging/", action="lift")
    html = press(world.ruth, "/stop/judging/", action="lift")
    assert "Judging continues." in html and 'role="alert"' not in html
    assert html.count("Judging stopped") == 1  # in the history
    assert "one of" in press(world.mira, "/stop/coffee/", action="stop", text="x")


def test_the_merge_button_says_that_the_merge_waits(world: World) -> None:
    submission = world.confirmed(world.ann, diff_of_line(1, "step_1 = 0"))
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    stop(actor=world.mira, switch="merges", reason="a bad tip")
    html = press(world.mira, f"/submissions/{submission.pk}/merge/")
    assert "this merge waits. It is done automatically" in html
    assert "Merges stopped: a bad tip" in html


def test_the_plot_has_a_dot_for_each_run_and_the_limit() -> None:
    svg = plot_noise(points(15_000, 16_000, 52_000, fault="too <noisy>"), limit_log_ppm=45_000, title="a/b")
    assert svg.count("<circle") == 3 and svg.count('class="fault"') == 1
    assert "4.5 % allowed" in svg and "5.20 %, too &lt;noisy&gt;" in svg
    assert "3 A/A runs, 1 of them bad" in svg and "2026-01-01 12:00" in svg


@pytest.mark.parametrize("noise", [0, 1, 900, 15_000, 400_000, 9_000_000])
def test_the_plot_fits_its_frame_whatever_the_noise(noise: int) -> None:
    svg = plot_noise(points(noise, 2 * noise), limit_log_ppm=None, title="a/b")
    heights = [float(part.split('"')[0]) for part in svg.split('cy="')[1:]]
    assert len(heights) == 2 and all(0 <= height <= 220 for height in heights)
    assert 1 <= svg.count('class="grid-line"') <= 7


def test_one_run_is_drawn_and_none_is_nothing() -> None:
    assert plot_noise([], limit_log_ppm=None, title="a/b") == ""
    assert plot_noise(points(15_000), limit_log_ppm=None, title="a/b").count("<circle") == 1
