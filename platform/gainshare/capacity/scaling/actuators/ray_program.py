"""Talks to a Ray cluster: starts, stops and lists the actors that run node agents. Reads one document, prints one.

`python -m gainshare.capacity.scaling.actuators.ray_program < told.json`. Standard input is ``{"address", "namespace",
"start": [{"name", "resource", "gpus", "command", "url", "token"}], "stop": [name]}``, standard output ``{"actors": {name:
{"state", "said", "address"}}}`` with the states pending, alive and ended (its agent has ended; ``said`` is the end of its
output).

A start replaces an actor of that name, and a stop of an actor that is not there does nothing, so both can be repeated. The
cluster's machines need Ray and this package, for the agent's own command.
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
    """Runs one node agent as a child process for as long as the actor lives.

    Ray carries this class to its machines by value, so it imports what it needs itself. The agent's folder is the first
    free one of its class on the machine: an agent finds there what a killed one left, and ends it.
    """

    def __init__(self, resource: str, command: list[str], url: str, token: str) -> None:
        import subprocess
        import sys
        from pathlib import Path

        util: Any = ray.util  # with Ray its functions are untyped, and without it all of it is
        self.address: str = util.get_node_ip_address()
        folder = self.free_folder(resource)
        token_file = Path(folder) / "host-token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        program = [sys.executable, *command[1:]] if command[0] == "python" else command
        own = ["--url", url, "--token-file", str(token_file), "--folder", folder, "--listen", self.address]
        self.log = Path(folder) / "agent.log"
        with self.log.open("wb") as log:
            self.agent = subprocess.Popen(
                [*program, *own], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def free_folder(self, resource: str) -> str:
        """The first folder of the class whose agent does not run, created at need."""
        import fcntl
        import os
        import tempfile
        from itertools import count
        from pathlib import Path

        root = (
            Path(os.environ.get("GAINSHARE_AGENT_ROOT", tempfile.gettempdir()))
            / f"gainshare-ray-{os.getuid()}"
        )
        for number in count():
            folder = root / f"{resource}-{number}"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (folder / "agent.lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                return str(folder)
        raise AssertionError("numbers do not end")

    def status(self) -> dict[str, str]:
        """Whether the agent runs, the end of what it printed, and this machine's address."""
        said = self.log.read_text(errors="replace")[-500:]
        return {
            "state": "alive" if self.agent.poll() is None else "ended",
            "said": said,
            "address": self.address,
        }

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
        num_gpus=one["gpus"],
        resources={one["resource"]: 1},
        max_restarts=0,
    )
    actor.remote(one["resource"], one["command"], one["url"], one["token"])


def stop(name: str) -> None:
    """End the agent, then its actor."""
    try:
        actor = ray.get_actor(name)
    except ValueError:
        return  # it has ended meanwhile
    done: Any = actor.stop.remote(STOP_S)
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
