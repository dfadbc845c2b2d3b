"""Start plan of the local stack: all processes and the steps between them, in order."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from gainshare.local.broker import CONTROL_USER, RUNNER_USER, Broker
from gainshare.local.compatibility import (
    check_database_files,
    check_format,
    check_migrations,
    write_format,
)
from gainshare.local.elastic import AnsweringSite, FirstNode, agent_arguments
from gainshare.local.environment import NODE_MEMORY, Environments
from gainshare.local.errors import LocalModeError
from gainshare.local.model_cache import ensure_model
from gainshare.local.paths import Home
from gainshare.local.postgres import Cluster, reachable_binaries, server_account
from gainshare.local.registration import register_runner
from gainshare.local.secrets import Secrets, read_secret
from gainshare.local.supervision.logs import tail
from gainshare.local.supervision.spec import LogSays, PlanItem, ServiceSpec, Step

HARDWARE = "cpu"
NO_SANDBOX = "none"
RUNNER_QUEUE = f"runner.{HARDWARE}"
QUIET_CELERY = ("--without-gossip", "--without-mingle", "--without-heartbeat")


@dataclass(frozen=True)
class StackOptions:
    """Options of `gainshare up`. `model`: smollm2-moe, smollm2-moe-small, tiny or none."""

    port: int
    model: str
    node_port: int
    sandbox_level: str = ""
    sandbox_problem: str = ""
    """Reason why no sandbox works on this machine; the runner is then left out."""
    devices: int = 0
    """Devices of this machine's node agent, for an elastic stack; 0: one node without an agent."""
    has_first_node: bool = True
    """Whether an elastic stack begins with a node, and is ready when that is."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def node_level(self) -> str:
        """Sandbox level of the model node; `none` where this machine has no sandbox."""
        return self.sandbox_level or NO_SANDBOX

    @property
    def is_elastic(self) -> bool:
        return self.devices > 0

    @property
    def node_url(self) -> str | None:
        """Address of the one node; None where there is none, or an agent starts nodes."""
        return None if self.model == "none" or self.is_elastic else f"http://127.0.0.1:{self.node_port}"


@dataclass(frozen=True)
class LocalStack:
    """A local stack and its start plan, which the supervisor executes."""

    home: Home
    secrets: Secrets
    options: StackOptions
    cluster: Cluster
    broker: Broker
    environments: Environments

    @classmethod
    def create(cls, home: Home, options: StackOptions, tag: str) -> "LocalStack":
        """Make folders and secrets, without starting anything. Raises Incompatible."""
        binaries = reachable_binaries(server_account(), home.binaries_copy)
        secrets = Secrets(home.secrets)
        check_format(home.root)
        check_database_files(home.postgres_data, binaries, password=secrets.database_password)
        home.create()
        write_format(home.root)
        secrets.ensure()
        cluster = Cluster(
            data=home.postgres_data,
            sockets=home.postgres_sockets,
            password=read_secret(secrets.database_password),
            binaries=binaries,
        )
        broker = Broker(
            data=home.broker_data,
            sockets=home.broker_sockets,
            control_password=read_secret(secrets.broker_control_password),
            runner_password=read_secret(secrets.broker_runner_password),
            queue=RUNNER_QUEUE,
        )
        environments = Environments(
            home=home,
            secrets=secrets,
            tag=tag,
            url=options.url,
            database_url=cluster.url(),
            control_broker_url=broker.url(CONTROL_USER),
            runner_broker_url=broker.url(RUNNER_USER),
            node_url=options.node_url,
            hardware=HARDWARE,
            outer=os.environ,
        )
        return cls(home, secrets, options, cluster, broker, environments)

    def plan(self) -> list[PlanItem]:
        node = (
            ()
            if self.options.model == "none"
            else (self._agent() if self.options.is_elastic else self._node(),)
        )
        return [
            Step("model", self._ensure_model),
            Step("initdb", self.cluster.initialise),
            self._postgres(),
            Step("database", self.cluster.ensure_database),
            Step("versions", self._check_migrations),
            Step("migrate", self._manage("migrate", "migrate", "--noinput")),
            self._valkey(),
            Step("bootstrap", self._manage("bootstrap", "bootstrap_local", *self._bootstrap_arguments())),
            self._web(),
            Step("runner registration", self._register_runner),
            (self._control(), self._beat(), *node, self._runner()),
        ]

    def _check_migrations(self) -> None:
        if self.cluster.has_tables():  # an empty database has no migrations, and reading them takes a second
            check_migrations(self.environments.platform(), home=self.home.root)

    def _postgres(self) -> ServiceSpec:
        account = self.cluster.account
        return ServiceSpec(
            name="postgres",
            argv=tuple(self.cluster.argv),
            env=self.environments.server(),
            is_ready=lambda _: self.cluster.is_ready(),
            before_start=self.cluster.end_leftovers,
            stop_signal=signal.SIGINT,
            stop_grace_s=20,
            user=account.user,
            group=account.group,
            cwd=self.cluster.data,
        )

    def _valkey(self) -> ServiceSpec:
        return ServiceSpec(
            name="valkey",
            argv=tuple(self.broker.argv),
            env=self.environments.server(),
            is_ready=lambda _: self.broker.is_ready(),
            before_start=self.broker.prepare,
        )

    def _web(self) -> ServiceSpec:
        flags = ("--host", "127.0.0.1", "--port", str(self.options.port), "--lifespan", "off")
        return ServiceSpec(
            name="web",
            argv=web_command(*flags, "--timeout-graceful-shutdown", "5"),
            env=self.environments.web(),
            is_ready=lambda _: _answers(f"{self.options.url}/api/v1/prices/", below=500),
        )

    def _control(self) -> ServiceSpec:
        return ServiceSpec(
            name="control",
            argv=_celery(
                "gainshare.config.celery", "worker", "-Q", "control", "--concurrency", "2", *QUIET_CELERY
            ),
            env=self.environments.platform(),
            is_ready=_celery_is_ready,
        )

    def _beat(self) -> ServiceSpec:
        schedule = self.home.celerybeat / "schedule"
        return ServiceSpec(
            name="beat",
            argv=_celery("gainshare.config.celery", "beat", "--schedule", str(schedule), "--pidfile="),
            env=self.environments.platform(),
            is_ready=lambda says: says("beat: Starting"),
        )

    def _node(self) -> ServiceSpec:
        return ServiceSpec(
            name="node",
            argv=_python("benchmarks.confined_node", *self._node_arguments()),
            env=self.environments.node(),
            is_ready=lambda _: _answers(f"{self.options.node_url}/health", below=300),
            ready_timeout_s=300,
        )

    def _node_arguments(self) -> tuple[str, ...]:
        """The node's sandbox is of the samples' level; where none works it runs without, and the site's owner is told."""
        env, model = self.environments.node(), self.options.model
        kernels = env.get("GAINSHARE_KERNELS") or str(self.home.kernels)
        options = {
            "--level": self.options.node_level,
            "--folder": str(self.home.node),
            "--host": "127.0.0.1",
            "--port": str(self.options.node_port),
            "--token-file": str(self.secrets.node_token),
            "--models": str(self.home.models),
            "--kernels": kernels,
            "--memory-gib": env.get(NODE_MEMORY, ""),
            "--device": "cuda" if any(Path("/dev").glob("nvidia[0-9]*")) else "",
            "--readable": model if Path(model).is_dir() else "",
        }
        given = [word for name, value in options.items() if value for word in (name, value)]
        return (*given, "--", "--model", model)

    def _agent(self) -> ServiceSpec:
        env = self.environments.agent()
        return ServiceSpec(
            name="agent",
            argv=_python(
                "gainshare.capacity.agent", *agent_arguments(self.home, self.secrets, self.options, env)
            ),
            env=env,
            is_ready=FirstNode() if self.options.has_first_node else AnsweringSite(),
            ready_timeout_s=300,
            stop_grace_s=20,
        )

    def _runner(self) -> ServiceSpec:
        return ServiceSpec(
            name="runner",
            argv=_celery(
                "benchmarks.worker", "worker", "-Q", RUNNER_QUEUE, "--concurrency", "1", *QUIET_CELERY
            ),
            env=self.environments.runner(),
            is_ready=_celery_is_ready,
            ready_timeout_s=120,
            # A run may take minutes and is repeated from the database, so stopping does not wait for it.
            stop_signal=signal.SIGQUIT,
            unavailable=self.options.sandbox_problem,
        )

    def _bootstrap_arguments(self) -> tuple[str, ...]:
        files = (
            "--password-file",
            str(self.secrets.admin_password),
            "--key-file",
            str(self.secrets.admin_key),
        )
        if self.options.model == "none":
            return files
        served = (*files, "--price-model", self.options.model)
        if not self.options.is_elastic:
            return served
        first = () if self.options.has_first_node else ("--no-first-node",)
        return (*served, "--host-token-file", str(self.secrets.host_token), *first)

    def _manage(self, log: str, *command: str) -> Callable[[], None]:
        def run() -> None:
            run_logged(
                (sys.executable, "-m", "django", *command), self.environments.platform(), self.home.logs, log
            )

        return run

    def _register_runner(self) -> None:
        register_runner(url=self.options.url, hardware=HARDWARE, secrets=self.secrets)

    def _ensure_model(self) -> None:
        if self.options.model != "none":
            ensure_model(self.options.model, self.home.root)


def run_logged(
    argv: tuple[str, ...], env: dict[str, str], logs: Path, name: str, *, timeout_s: float = 300
) -> None:
    """Run a command with its output in `logs/NAME.log`. Raises LocalModeError with the end of the log."""
    log = logs / f"{name}.log"
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LocalModeError(
                f"{name} took longer than {timeout_s:.0f} s and was ended: see its log {log}"
            ) from None
    if done.returncode != 0:
        raise LocalModeError(f"{name} failed (exit {done.returncode}); its log {log} ends with:\n{tail(log)}")


def web_command(*flags: str) -> tuple[str, ...]:
    """Command line of the site's server; headers are limited as in a model node."""
    bounded = ("--http", "model.serving.node.request_heads:BoundedHeads", "--ws", "none")
    return _python("uvicorn", "gainshare.config.asgi:application", *bounded, *flags)


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _celery(app: str, command: str, *arguments: str) -> tuple[str, ...]:
    return _python("celery", "-A", app, command, "--loglevel", "INFO", *arguments)


def _celery_is_ready(says: LogSays) -> bool:
    return says(" ready.")


def _answers(url: str, *, below: int) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code < below
    except httpx.HTTPError:
        return False
