"""The runner's side of the runner API: settings, leases, blobs, reporting, and one leased run from lease to evidence."""

import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from benchmarks.evidence.signing import generate_key, public_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.cancellation import Cancellation, Cancelled
from benchmarks.pairs.quiet import Quiet
from benchmarks.patch.tree_folders import tree_folders
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry, shipped_tree
from benchmarks.runner.client import LeasedRun, LeaseLost, NotLeasable, PlatformError, RunnerClient
from benchmarks.runner.device_lock import device_lock
from benchmarks.runner.device_wait import DeviceWait
from benchmarks.runner.lease import carry_out, fetch_blobs
from benchmarks.runner.reporter import MAX_LOG_CHARACTERS, Reporter
from benchmarks.runner.settings import BadRunnerSetting, RunnerSettings
from tests.benchmarks.runner.runner_platform import (
    TOKEN,
    Platform,
    client,
    platform,
    settings_env,
    wait_until,
)

pytestmark = pytest.mark.slow

__all__ = ["client", "platform"]  # fixtures


def test_settings_are_read_and_hide_their_secrets(tmp_path: Path) -> None:
    settings = RunnerSettings.from_env(settings_env(tmp_path))
    assert (settings.platform_url, settings.queue) == ("http://127.0.0.1:1", "runner.cpu")
    assert TOKEN not in repr(settings) and "secret-word" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GAINSHARE_URL", ""),
        ("GAINSHARE_URL", "ftp://somewhere"),
        ("GAINSHARE_RUNNER_BROKER_URL", " "),
        ("GAINSHARE_RUNNER_TOKEN_FILE", "/nowhere/token"),
        ("GAINSHARE_RUNNER_KEY_FILE", "/nowhere/key"),
        ("GAINSHARE_RUNNER_HARDWARE", "GPU 1"),
        ("GAINSHARE_RUNNER_HOME", ""),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadRunnerSetting, match=name):
        RunnerSettings.from_env(settings_env(tmp_path, **{name: value}))


def test_a_token_file_with_something_else_is_refused_without_echoing_it(tmp_path: Path) -> None:
    env = settings_env(tmp_path)
    Path(env["GAINSHARE_RUNNER_TOKEN_FILE"]).write_text("hunter2")
    with pytest.raises(BadRunnerSetting) as refused:
        RunnerSettings.from_env(env)
    assert "hunter2" not in str(refused.value)


# -- client ------------------------------------------------------------------------------------------


def test_a_lease_brings_the_run_and_its_verified_trees(platform: Platform, client: RunnerClient) -> None:
    run = client.lease(platform.run["id"])
    assert (run.run_id, run.attempt, run.lease) == (platform.run["id"], 1, platform.lease)
    assert run.trees[run.base_tree].hash == platform.run["base_tree"]
    with pytest.raises(NotLeasable):
        client.lease(platform.run["id"])


def test_manifests_that_do_not_have_their_hash_are_refused(platform: Platform, client: RunnerClient) -> None:
    platform.run["candidate_tree"] = "0" * 64
    with pytest.raises(PlatformError, match="manifest"):
        client.lease(platform.run["id"])


def test_blobs_with_other_content_are_refused(open_folder: Path) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=b"other"))
    client = RunnerClient("http://platform", TOKEN, transport=transport)
    entry = TreeEntry("model/a.py", 0o644, hashlib.sha256(b"right").hexdigest())
    store = BlobStore(open_folder / "blobs")
    with pytest.raises(PlatformError, match="damaged_blob"):
        fetch_blobs(Tree((entry,)), store, client, Cancellation())
    assert not store.has(entry.blob)


def test_a_platform_that_is_away_for_a_moment_is_asked_again(
    platform: Platform, client: RunnerClient
) -> None:
    platform.broken = 2
    run = client.lease(platform.run["id"])
    platform.broken = 2
    client.commitment(run, "c" * 64)
    assert platform.commitments == [(1, "c" * 64)]
    platform.broken = 1
    with pytest.raises(
        PlatformError, match="unreachable"
    ):  # a heartbeat has no patience: the next one follows soon
        client.heartbeat(run, stage="preparing", pairs_done=0, pairs_max=0)


def test_no_connection_is_an_error_that_names_no_secret() -> None:
    client = RunnerClient("http://127.0.0.1:9", TOKEN, timeout_s=1)
    with pytest.raises(PlatformError) as error:
        client._json("GET", "me/", patience_s=0)
    assert error.value.code == "unreachable" and TOKEN not in str(error.value)


def test_a_wrong_token_and_a_lost_lease_are_told_apart(platform: Platform, client: RunnerClient) -> None:
    run = client.lease(platform.run["id"])
    platform.lease = "another"
    with pytest.raises(LeaseLost):
        client.heartbeat(run, stage="preparing", pairs_done=0, pairs_max=0)
    with pytest.raises(PlatformError, match="invalid_token"):
        RunnerClient(platform.url, "gsr_wrong").lease(platform.run["id"])


# -- reporter ----------------------------------------------------------------------------------------


@pytest.fixture
def leased(platform: Platform, client: RunnerClient) -> LeasedRun:
    platform.lease_s = 1
    return client.lease(platform.run["id"])


def test_the_lease_is_renewed_and_progress_and_log_arrive(
    platform: Platform, client: RunnerClient, leased: LeasedRun
) -> None:
    with Reporter(leased, client, Cancellation(), Quiet()) as reporter:
        reporter.on_log("first\n")
        reporter.on_progress("gating", 3, 6)
        wait_until(lambda: len(platform.beats) >= 3, timeout_s=20, what="three heartbeats")
        reporter.on_log("second \N{SNOWMAN}\n")
        reporter.flush(patience_s=5)
    assert platform.log == "first\nsecond \N{SNOWMAN}\n"
    assert {(beat["stage"], beat["pairs_done"], beat["pairs_max"]) for beat in platform.beats} == {
        ("gating", 3, 6)
    }


def test_a_platform_that_is_away_loses_no_log(
    platform: Platform, client: RunnerClient, leased: LeasedRun
) -> None:
    with Reporter(leased, client, Cancellation(), Quiet()) as reporter:
        platform.broken = 3
        reporter.on_log("kept\n")
        wait_until(lambda: platform.log == "kept\n", timeout_s=20, what="the log")
        assert platform.broken == 0


@pytest.mark.parametrize("why", ["lost", "cancelled"])
def test_a_lost_lease_and_a_withdrawal_stop_the_judge(
    platform: Platform, client: RunnerClient, leased: LeasedRun, why: str
) -> None:
    ended, cancellation = threading.Event(), Cancellation()
    with cancellation.ends(ended.set), Reporter(leased, client, cancellation, Quiet()) as reporter:
        if why == "lost":
            platform.lease = "another"
        else:
            platform.cancel = True
        assert ended.wait(20)
        assert reporter.on_progress("gating", 1, 6) is True


def test_a_recall_lets_the_pair_end_and_begins_no_other_one(
    platform: Platform, client: RunnerClient, leased: LeasedRun
) -> None:
    ended, cancellation = threading.Event(), Cancellation()
    platform.give_back_s = 25
    with cancellation.ends(ended.set), Reporter(leased, client, cancellation, Quiet()) as reporter:
        assert reporter.on_progress("gating", 1, 6) is False
        wait_until(lambda: _is_paused(cancellation), timeout_s=20, what="the recall")
        assert not cancellation.is_set and not ended.is_set()
        cancellation.check()  # within a pair


def _is_paused(cancellation: Cancellation) -> bool:
    try:
        cancellation.check_between_pairs()
    except Cancelled as error:
        assert "recalled" in str(error)
        return True
    return False


@pytest.mark.parametrize(("stage", "give_back_s"), [("preparing", 25.0), ("gating", 6.0)])
def test_where_no_pair_is_measured_or_it_takes_too_long_a_recall_stops_at_once(
    platform: Platform, client: RunnerClient, leased: LeasedRun, stage: str, give_back_s: float
) -> None:
    ended, cancellation = threading.Event(), Cancellation()
    platform.give_back_s = give_back_s
    with cancellation.ends(ended.set), Reporter(leased, client, cancellation, Quiet()) as reporter:
        reporter.on_progress(stage, 0, 6)
        assert ended.wait(20)


def test_a_runner_with_a_loan_asks_often_whether_it_is_recalled(
    platform: Platform, client: RunnerClient
) -> None:
    platform.lease_s, platform.is_lent = 600, True
    run = client.lease("anything")
    assert run.is_lent
    with Reporter(run, client, Cancellation(), Quiet()):
        wait_until(lambda: len(platform.beats) >= 3, timeout_s=30, what="three heartbeats")


def test_the_log_is_bounded(platform: Platform, client: RunnerClient, leased: LeasedRun) -> None:
    reporter = Reporter(leased, client, Cancellation(), Quiet())
    for _ in range(20):
        reporter.on_log("x" * (MAX_LOG_CHARACTERS // 10))
    reporter.flush(patience_s=5)
    assert MAX_LOG_CHARACTERS <= len(platform.log) < MAX_LOG_CHARACTERS + 200
    assert platform.log.count("was not kept") == 1


# -- trees and device --------------------------------------------------------------------------------


def test_tree_folders_are_readable_for_everybody_fresh_and_gone_afterwards(open_folder: Path) -> None:
    store = BlobStore(open_folder / "blobs")
    tree = shipped_tree(store)
    leftover = open_folder / "trees" / "of-a-killed-run"
    leftover.mkdir(parents=True)
    before = os.umask(0o077)
    try:
        with tree_folders((tree, tree), store, open_folder / "trees") as folders:
            assert not leftover.exists()
            inner = folders[tree.hash] / "model" / "layers"
            assert inner.stat().st_mode & 0o777 == 0o755
            assert all(path.stat().st_mode & 0o222 == 0 for path in inner.glob("*.py"))
    finally:
        os.umask(before)
    assert not (open_folder / "trees").exists()


def test_a_device_measures_one_thing_at_a_time() -> None:
    name = f"test-{uuid.uuid4().hex[:8]}"
    order: list[str] = []
    waiting = threading.Event()

    @contextmanager
    def told() -> Iterator[None]:
        order.append("waits")
        waiting.set()
        yield
        order.append("waited")

    def second() -> None:
        with device_lock(name, waiting=told):
            order.append("second")

    with device_lock(name):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(5)
        order.append("first")
    thread.join()
    assert order == ["waits", "first", "waited", "second"]
    with device_lock(name, waiting=lambda: pytest.fail("no one holds it")):
        pass


def test_a_runner_that_waits_for_its_device_says_so_until_it_has_it(
    platform: Platform, client: RunnerClient
) -> None:
    with DeviceWait(client, every_s=0.05):
        wait_until(lambda: platform.waits >= 3, timeout_s=10, what="three words of a waiting runner")
    said = platform.waits
    assert client.lease("anything").kind == "gate"
    assert platform.waits == said


def test_a_platform_that_is_away_does_not_end_the_wait(platform: Platform, client: RunnerClient) -> None:
    platform.broken = 2
    with DeviceWait(client, every_s=0.05):
        wait_until(lambda: platform.waits >= 1, timeout_s=10, what="a word after two that were lost")
    assert platform.broken == 0


# -- a leased run ------------------------------------------------------------------------------------


@pytest.mark.sandbox
def test_a_leased_run_ends_with_evidence_that_fits_its_commitment(
    platform: Platform, client: RunnerClient, open_folder: Path
) -> None:
    key = generate_key()
    platform.lease_s = 10
    carry_out(client.lease(platform.run["id"]), client, home=open_folder / "home", key=key)
    (sealed,) = platform.evidence
    ((attempt, commitment),) = platform.commitments
    trusted = {sealed["signature"]["key_id"]: public_key(key)}
    report = verify_evidence(sealed, trusted_keys=trusted, nonce=platform.nonce, commitment=commitment)
    assert report.ok, report.checks
    assert attempt == 1 and sealed["document"]["run"]["id"] == platform.run["id"]
    assert report.verdict.kind == "build_failed"
    assert "at import" in platform.log and "verdict: build_failed" in platform.log
    assert not (open_folder / "home" / "trees").exists()


@pytest.mark.sandbox
def test_evidence_states_the_earlier_confirmations_that_the_lease_names(
    platform: Platform, client: RunnerClient, open_folder: Path
) -> None:
    earlier = {"count": 2, "lowest_log_ppm": 12_345}
    platform.lease_s = 10
    platform.run |= {"kind": "confirmation", "earlier_confirmations": earlier}
    carry_out(client.lease(platform.run["id"]), client, home=open_folder / "home", key=generate_key())
    (sealed,) = platform.evidence
    assert sealed["document"]["earlier_confirmations"] == earlier
    assert verify_evidence(sealed).ok


@pytest.mark.sandbox
def test_a_run_that_cannot_be_measured_is_reported_as_the_runner_s_failure(
    platform: Platform, client: RunnerClient, open_folder: Path
) -> None:
    platform.run["preset"] = "gigantic"
    carry_out(client.lease(platform.run["id"]), client, home=open_folder / "home", key=generate_key())
    assert [failure["code"] for failure in platform.failures] == ["UnknownSuite"]
    assert platform.evidence == [] and platform.commitments == []


@pytest.mark.sandbox
def test_a_withdrawn_run_posts_nothing(platform: Platform, client: RunnerClient, open_folder: Path) -> None:
    platform.cancel = True
    platform.lease_s = 1
    shipped = shipped_tree(platform.store)
    platform.trees = {shipped.hash: shipped}
    platform.run |= {"base_tree": shipped.hash, "candidate_tree": shipped.hash, "kind": "aa"}
    carry_out(client.lease(platform.run["id"]), client, home=open_folder / "home", key=generate_key())
    assert platform.evidence == [] and platform.failures == []
