"""Talks to a Ray cluster: starts, stops and lists the actors that run node agents. Reads one document, prints one.

`python -m gainshare.capacity.scaling.actuators.ray_program < told.json`. Standard input is ``{"address", "namespace",
"start": [{"name", "resource", "command", "environment"}], "stop": [name]}``, standard output ``{"actors": {name: {"state",
"said", "address"}}}`` with the states pending, alive and ended (its agent has ended; ``said`` is the end of its output).

A start replaces an actor of that name, and a stop of an actor that is not there does nothing, so both can be repeated. The
actors need Ray and this package on the cluster's machines, for the agent's own command.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray
from ray.util import list_named_actors

LOOK_S = 5.0  # most seconds for an actor's word about its agent; one that has no machine yet gives none
STOP_S = 30.0  # seconds that an agent has to end after SIGTERM
GONE_S = 10.0


class AgentActor:
    """Runs one node agent as a child process for as long as the actor lives."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        import os
        import subprocess
        import tempfile

        self.output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the actor
        self.agent = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def status(self) -> dict[str, str]:
        """Whether the agent runs, and the end of what it printed."""
        self.output.flush()
        end = self.output.seek(0, 2)
        self.output.seek(max(end - 500, 0))
        said = self.output.read().decode(errors="replace")
        self.output.seek(0, 2)
        state = "alive" if self.agent.poll() is None else "ended"
        return {"state": state, "said": said, "address": ray.util.get_node_ip_address()}

    def stop(self, within_s: float) -> None:
        """End the agent with SIGTERM, after ``within_s`` seconds with SIGKILL."""
        import subprocess

        self.agent.terminate()
        try:
            self.agent.wait(within_s)
        except subprocess.TimeoutExpired:
            self.agent.kill()
            self.agent.wait()


def main() -> None:
    """Do what standard input says."""
    told = json.load(sys.stdin)
    ray.init(
        address=told["address"], namespace=told["namespace"], log_to_driver=False, configure_logging=False
    )
    names = set(list_named_actors())
    for name in told["stop"]:
        if name in names:
            stop(name)
    for one in told["start"]:
        if one["name"] in names:
            stop(one["name"])
        start(one)
    states = look(sorted(list_named_actors()))
    sys.stdout.write(json.dumps({"actors": states}) + "\n")


def start(one: dict[str, Any]) -> None:
    """Create the actor. It is there at once, and alive when Ray has found a machine with the resource."""
    actor = ray.remote(AgentActor).options(
        name=one["name"],
        lifetime="detached",
        num_cpus=0,
        resources={one["resource"]: 1},
        max_restarts=0,
    )
    actor.remote(one["command"], one["environment"])


def stop(name: str) -> None:
    """End the agent, then its actor."""
    try:
        actor = ray.get_actor(name)
    except ValueError:
        return  # it has ended meanwhile
    done = actor.stop.remote(STOP_S)
    if look([name])[name]["state"] != "pending":
        ray.wait([done], timeout=STOP_S + GONE_S)
    ray.kill(actor)


def look(names: list[str]) -> dict[str, dict[str, str]]:
    """The state of each of these actors."""
    asked: dict[Any, str] = {}
    states = {}
    for name in names:
        try:
            asked[ray.get_actor(name).status.remote()] = name
        except ValueError:
            continue  # it has ended meanwhile
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_S) if asked else ([], [])
    for reference in answered:
        try:
            states[asked[reference]] = ray.get(reference)
        except ray.exceptions.RayError as error:
            states[asked[reference]] = {"state": "ended", "said": str(error)[-500:], "address": ""}
    for reference in silent:
        states[asked[reference]] = {"state": "pending", "said": "", "address": ""}
    return states


if __name__ == "__main__":
    main()
