"""A real Ray cluster of several raylets carries out wanted counts: real actors, agents and nodes."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings
from django.utils import timezone
from pytest_django import Settings

from gainshare.capacity.models import EngineHost, Host, NodeState, ScalingState, ServedModel
from gainshare.capacity.scaling import loop
from gainshare.capacity.scaling.actuators.ray_cluster import talk
from tests.gainshare.capacity.scaling.actuators.ray_world import RayCluster, ray_cluster
from tests.gainshare.capacity.scaling.scaling_world import live, make_class, serve
from tests.gainshare.ledger.test_kill import ROOT, environment

pytestmark = [
    pytest.mark.long,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="expected: ray is not installed (the extra `ray`)"
    ),
]
PATIENCE_S = 600.0
NOTHING: dict[str, Any] = {"namespace": "gainshare", "start": [], "stop": []}


@pytest.fixture
def cluster(short_folder: Path, live_server: Any, settings: Settings) -> Iterator[RayCluster]:
    """A head and two raylets with one unit of cpu-small each."""
    with ray_cluster(short_folder) as cluster:
        cluster.add("cpu-small")
        cluster.add("cpu-small")
        settings.RAY_ADDRESS = cluster.address
        settings.PUBLIC_URL = live_server.url
        kernels = ["--kernels", os.environ["GAINSHARE_KERNELS"]] if "GAINSHARE_KERNELS" in os.environ else []
        settings.RAY_AGENT_COMMAND = ["python", "-m", "gainshare.capacity.agent", "--stop-s", "5", *kernels]
        yield cluster


def until(served: ServedModel, condition: Callable[[], Any], what: str) -> Any:
    """Pass and settle, as beat does, until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        loop.scale(served.pk, timezone.now())
        loop.settle(served.pk, timezone.now())
        if value := condition():
            return value
        time.sleep(1)
    failure = ScalingState.objects.get(served=served)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}; {failure.problem}; {failure.engine_failure}")


def actors(cluster: RayCluster) -> dict[str, str]:
    """State of each actor, as the cluster itself has it."""
    return {name: said["state"] for name, said in talk({**NOTHING, "address": cluster.address}).items()}


def ready(count: int) -> Callable[[], bool]:
    return lambda: len(live(NodeState.READY)) == count


def wanted(count: int) -> None:
    ServedModel.objects.update(fixed_nodes=count, updated_at=timezone.now())


def settle_killed(served: ServedModel, fault: str, folder: Path) -> None:
    """A settling in a process of its own, killed at the fault point."""
    code = (
        "import sys, django; django.setup(); from django.conf import settings; settings.RAY_ADDRESS = sys.argv[2];"
        "from gainshare.capacity.scaling.loop import settle; from django.utils import timezone;"
        "settle(int(sys.argv[1]), timezone.now())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(served.pk), settings.RAY_ADDRESS],
        cwd=ROOT,
        env=environment(GAINSHARE_FAULT=fault, GAINSHARE_FAULT_DIR=str(folder)),
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def test_nodes_come_and_go_on_a_real_cluster(cluster: RayCluster, tmp_path: Path) -> None:
    served = serve(make_class("cpu-small"), actuator="ray", fixed_nodes=1)

    # Killed before and after the cluster was told, the host is started once.
    loop.scale(served.pk, timezone.now())
    settle_killed(served, "capacity.ray.told", tmp_path)
    settle_killed(served, "capacity.ray.answered", tmp_path)
    assert EngineHost.objects.get().started_at is None
    until(served, ready(1), "the first node is ready")
    assert EngineHost.objects.count() == 1 and set(actors(cluster).values()) == {"alive"}

    wanted(2)
    until(served, ready(2), "the second node is ready")
    assert sorted(actors(cluster)) == sorted(Host.objects.values_list("name", flat=True))

    # An actor that ends without our word is replaced by a new host.
    lost = EngineHost.objects.first()
    assert lost is not None
    talk({**NOTHING, "address": cluster.address, "stop": [lost.host.name]})
    assert lost.host.name not in actors(cluster)
    ScalingState.objects.update(settled_at=timezone.now() - timedelta(minutes=1))
    until(served, lambda: EngineHost.objects.count() == 3 and ready(2)(), "the lost host is replaced")
    lost.host.refresh_from_db()
    assert lost.host.revoked_at is not None

    # A third node has no machine: the cluster says so by leaving it pending, and nothing else happens.
    wanted(3)
    until(served, lambda: "pending" in actors(cluster).values(), "the third actor waits")
    assert "still to start 1 of the hosts" in ScalingState.objects.get().problem

    # An actor that no row stands for is stopped.
    stray = {"name": "ray-stray", "resource": "cpu-small", "gpus": 0, "url": "http://x", "token": "t"}
    talk({**NOTHING, "address": cluster.address, "start": [{**stray, "command": ["sleep", "1000"]}]})
    ScalingState.objects.update(settled_at=timezone.now() - timedelta(minutes=1))
    until(served, lambda: "ray-stray" not in actors(cluster), "the stray actor is stopped")

    wanted(0)
    until(served, lambda: not actors(cluster), "all actors are gone")
    until(served, lambda: not EngineHost.objects.filter(gone_at=None).exists(), "all hosts are given back")
    assert live() == []
    assert Host.objects.filter(revoked_at=None).count() == 0


def start(names: list[str], cluster: RayCluster, *command: str) -> None:
    """Actors whose agents are these commands."""
    one = {"resource": "cpu-small", "gpus": 0, "url": "http://site", "command": list(command)}
    talk(
        {
            **NOTHING,
            "address": cluster.address,
            "start": [{**one, "name": name, "token": name} for name in names],
        }
    )


def eventually(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.5)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


def agents_of(cluster: RayCluster) -> dict[str, psutil.Process]:
    """The agents that run, by the token that each was given."""
    found = {}
    for pid in cluster.processes():
        with suppress(psutil.Error):
            words = psutil.Process(pid).cmdline()
            if "--token-file" in words:
                found[Path(words[words.index("--token-file") + 1]).read_text()] = psutil.Process(pid)
    return found


# `sh` with a child: an agent that lives as long as it is not told to end. What Ray's actor adds are its arguments.
AGENT = ("sh", "-c", "trap 'kill $!; exit' TERM; sleep 1000 & wait", "agent")


def test_agents_that_start_at_once_have_folders_of_their_own_and_end_with_their_actors(
    cluster: RayCluster,
) -> None:
    start(["ray-a", "ray-b"], cluster, *AGENT)
    eventually(lambda: actors(cluster) == {"ray-a": "alive", "ray-b": "alive"}, "both actors are alive")
    agents = agents_of(cluster)
    assert sorted(agents) == ["ray-a", "ray-b"]  # each has its own token, so neither took the other's folder

    # The start is repeated, as after kill -9 of the worker: the agent of before has ended, and one has come.
    start(["ray-a"], cluster, *AGENT)
    eventually(lambda: actors(cluster) == {"ray-a": "alive", "ray-b": "alive"}, "both actors are alive again")
    assert not agents["ray-a"].is_running()
    assert agents["ray-b"].is_running()
    agents = agents_of(cluster)
    assert sorted(agents) == ["ray-a", "ray-b"]

    # An actor that is killed takes its agent with it.
    for agent in agents.values():
        parent = agent.parent()
        assert parent is not None
        parent.kill()
    eventually(lambda: not any(agent.is_running() for agent in agents.values()), "the agents have ended")
    eventually(lambda: actors(cluster) == {}, "Ray lists the killed actors no more")


def test_an_actor_is_gone_with_its_machine_and_another_one_waits_for_the_next(
    cluster: RayCluster,
) -> None:
    lost = cluster.add("cpu-big")
    one = {"resource": "cpu-big", "gpus": 0, "url": "http://site", "command": list(AGENT), "token": "t"}
    told = {**NOTHING, "address": cluster.address}
    talk({**told, "start": [{**one, "name": "ray-first"}]})
    eventually(lambda: actors(cluster) == {"ray-first": "alive"}, "the actor is alive")
    os.kill(lost, signal.SIGKILL)
    eventually(lambda: actors(cluster) == {}, "the actor is gone with its raylet")
    talk({**told, "start": [{**one, "name": "ray-next"}]})
    assert actors(cluster) == {"ray-next": "pending"}
    cluster.add("cpu-big")
    eventually(lambda: actors(cluster) == {"ray-next": "alive"}, "the next machine takes the actor")
    talk({**told, "stop": ["ray-next"]})
    assert actors(cluster) == {}


def test_a_cluster_that_cannot_be_reached_is_said(settings: Settings) -> None:
    settings.RAY_ADDRESS = "127.0.0.1:1"
    served = serve(make_class("cpu-small"), actuator="ray", fixed_nodes=1)
    loop.scale(served.pk, timezone.now())
    assert loop.settle_all(timezone.now()) == 0
    assert "127.0.0.1:1" in ScalingState.objects.get().engine_failure


def test_the_worker_itself_never_imports_ray() -> None:
    code = "import django; django.setup(); import sys, gainshare.capacity.tasks; print('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
    assert os.environ.get("RAY_ADDRESS") is None
