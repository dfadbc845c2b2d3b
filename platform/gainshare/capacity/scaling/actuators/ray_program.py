"""Talks to a Ray cluster: starts, stops and lists the actors that run node agents. Reads one document, prints one.

`python -m gainshare.capacity.scaling.actuators.ray_program < told.json`. Standard input is ``{"address", "namespace",
"start": [{"name", "resource", "gpus", "command", "url", "token"}], "stop": [name]}``, standard output ``{"actors": {name:
{"state", "said", "address", "ran_s"}}}``. States: alive, ended (its agent has ended; ``said`` is the end of its output) and
pending (it gave no word: it has no machine yet, or Ray does not reach it for now). Only an actor that Ray no longer lists
is left out. ``ran_s`` is how long its agent has run.

A start replaces an actor of that name, and a stop of an actor that is not there does nothing, so both can be repeated. The
cluster's machines need Ray and this package, for the agent's own command.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.util import list_named_actors

from benchmarks.claims.parent import end_with_parent

LOOK_S = 5.0  # most seconds for an actor's word about its agent; one that has no machine yet gives none
STOP_S = 25.0  # seconds that an agent has to end after SIGTERM; a fifth of it after a second one
GONE_S = 10.0


class AgentActor:
    """Runs one node agent as a child process for as long as the actor lives.

    Ray carries this class to its machines by value, so it imports what it needs itself. The agent's folder is the first
    free one of its class on the machine: an agent finds there what a killed one left, and ends it.
    """

    def __init__(self, resource: str, command: list[str], url: str, token: str) -> None:
        import signal
        import subprocess
        import sys
        import time
        from functools import partial
        from pathlib import Path

        from benchmarks.claims.parent import end_with_parent

        util: Any = ray.util  # with Ray its functions are untyped, and without it all of it is
        self.address: str = util.get_node_ip_address()
        folder, taken = self.take_folder(resource)
        token_file = Path(folder) / "host-token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        program = [sys.executable, *command[1:]] if command[0] == "python" else command
        own = ["--url", url, "--token-file", str(token_file), "--folder", folder, "--listen", self.address]
        self.log = Path(folder) / "agent.log"
        self.began_s = time.monotonic()
        with self.log.open("wb") as log:
            self.agent = subprocess.Popen(
                [*program, *own],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(
                    taken,
                ),  # so the folder is taken for as long as the agent lives, also without this actor
                preexec_fn=partial(end_with_parent, signal.SIGTERM),
            )

    def take_folder(self, resource: str) -> tuple[str, int]:
        """The first folder of the class that no actor or agent has, created at need, and the descriptor that takes it."""
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
            taken = os.open(
                folder / "actor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                fcntl.flock(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(taken)
                continue
            return str(folder), taken
        raise AssertionError("numbers do not end")

    def status(self) -> dict[str, Any]:
        """Whether the agent runs and for how long it did, the end of what it printed, and this machine's address."""
        import time

        said = self.log.read_text(errors="replace")[-500:]
        return {
            "state": "alive" if self.agent.poll() is None else "ended",
            "said": said,
            "address": self.address,
            "ran_s": time.monotonic() - self.began_s,
        }

    def stop(self, within_s: float) -> None:
        """End the agent: with SIGTERM, after ``within_s`` seconds with a second one, and at last with SIGKILL."""
        import subprocess

        for patience_s in (within_s, within_s / 5):
            self.agent.terminate()  # the second one ends its nodes at once
            try:
                self.agent.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            return
        self.agent.kill()
        self.agent.wait()


def main() -> None:
    """Do what standard input says."""
    end_with_parent()  # a worker that is killed repeats what it told; this must not be done later than that
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Ray logs to standard output as well
    told = json.load(sys.stdin)
    ray.init(
        address=told["address"], namespace=told["namespace"], log_to_driver=False, configure_logging=False
    )
    names = set(list_named_actors())
    # All stops come first: an agent that is started gets no answer from the site before this program has ended.
    stop([name for name in [*told["stop"], *(one["name"] for one in told["start"])] if name in names])
    for one in told["start"]:
        start(one)
    states = look(sorted(list_named_actors()))
    with answer:
        answer.write(json.dumps({"actors": states}) + "\n")


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


def stop(names: Sequence[str]) -> None:
    """End the agents of these actors, all at once, then the actors."""
    states = look(names)
    actors = {}
    for name in names:
        try:
            actors[name] = ray.get_actor(name)
        except ValueError:
            continue  # it has ended meanwhile
    # One that gives no word is not waited for: the agent that it may have is ended by the end of its actor.
    done: list[Any] = [
        actor.stop.remote(STOP_S) for name, actor in actors.items() if states[name]["state"] != "pending"
    ]
    if done:
        ray.wait(done, num_returns=len(done), timeout=STOP_S + GONE_S)
    for actor in actors.values():
        ray.kill(actor)
    deadline = time.monotonic() + GONE_S
    while set(names) & set(list_named_actors()) and time.monotonic() < deadline:
        time.sleep(0.1)


def look(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The state of each of these actors, which Ray lists."""
    states: dict[str, dict[str, Any]] = {name: _state("pending") for name in names}
    asked: dict[Any, str] = {}
    for name in names:
        try:
            asked[ray.get_actor(name).status.remote()] = name
        except ValueError:
            continue  # Ray says so also where it was too busy to answer; it lists no actor that has ended
    answered = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_S)[0] if asked else []
    for reference in answered:
        states[asked[reference]] = _word_of(reference)
    return states


def _word_of(reference: Any) -> dict[str, Any]:
    """What an actor has answered about its agent. An actor that Ray cannot reach for now has not ended."""
    try:
        word: dict[str, Any] = ray.get(reference)
    except ray.exceptions.ActorUnavailableError:
        return _state("pending")
    except (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError) as error:
        return _state("ended", said=str(error)[-500:])
    except ray.exceptions.RayTaskError as error:  # it lives, but cannot read its agent's output
        return _state("pending", said=str(error)[-500:])
    return word


def _state(state: str, said: str = "") -> dict[str, Any]:
    return {"state": state, "said": said, "address": "", "ran_s": 0.0}


if __name__ == "__main__":
    main()
