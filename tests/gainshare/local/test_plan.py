"""Start plan of the local stack: order, environments, ports, and registration of the runner."""

import json
import shutil
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.signing import load_key, public_key
from gainshare.local.disk import free_space_problem
from gainshare.local.elastic import FirstNode, require_elastic_model
from gainshare.local.errors import LocalModeError
from gainshare.local.model_cache import FETCHED, ensure_model
from gainshare.local.paths import Home
from gainshare.local.ports import free_port, require_free
from gainshare.local.registration import register_runner
from gainshare.local.secrets import Secrets, read_secret, write_secret
from gainshare.local.services import LocalStack, StackOptions, run_logged
from gainshare.local.supervision.spec import ServiceSpec, services_of
from model.smollm2.fetch import GROWN
from tests.http_servers import serving

OPTIONS = StackOptions(port=8123, model="tiny", node_port=8124, sandbox_level="bubblewrap")


@pytest.fixture
def home(open_folder: Path) -> Iterator[Home]:
    home = Home(open_folder / "home")
    yield home
    shutil.rmtree(home.run, ignore_errors=True)


@pytest.fixture
def stack(home: Home) -> LocalStack:
    return LocalStack.create(home, OPTIONS, "tag")


def services(stack: LocalStack) -> dict[str, ServiceSpec]:
    return {spec.name: spec for spec in services_of(stack.plan())}


def test_everything_starts_after_what_it_needs(stack: LocalStack) -> None:
    *first, last = stack.plan()
    assert isinstance(last, tuple)
    assert [spec.name for spec in last] == ["control", "beat", "node", "runner"]
    assert [item.name for item in first if not isinstance(item, tuple)] == [
        "model",
        "initdb",
        "postgres",
        "database",
        "versions",
        "migrate",
        "valkey",
        "bootstrap",
        "web",
        "runner registration",
    ]


def test_without_a_model_no_node_is_started_or_named(home: Home) -> None:
    options = StackOptions(port=8123, model="none", node_port=8124)
    stack = LocalStack.create(home, options, "tag")
    assert "node" not in services(stack)
    assert services(stack)["web"].env["GAINSHARE_MODEL_NODES"] == ""


def test_no_process_gets_a_secret_that_it_does_not_need(stack: LocalStack) -> None:
    database = read_secret(stack.secrets.database_password)
    control, runner = (
        read_secret(stack.secrets.broker_control_password),
        read_secret(stack.secrets.broker_runner_password),
    )
    holders = {
        secret: {
            name
            for name, spec in services(stack).items()
            if any(secret in value for value in spec.env.values())
        }
        for secret in (database, control, runner)
    }
    assert holders == {
        database: {"web", "control", "beat"},
        control: {"web", "control", "beat"},
        runner: {"runner"},
    }
    for spec in services(stack).values():
        assert not any(secret in word for secret in holders for word in spec.argv)


def test_the_runner_has_neither_database_nor_control_queue(stack: LocalStack) -> None:
    env = services(stack)["runner"].env
    assert "DATABASE_URL" not in env
    assert "BROKER_URL" not in env
    assert "GAINSHARE_SECRET_KEY_FILE" not in env
    assert env["GAINSHARE_RUNNER_BROKER_URL"].startswith("redis+socket://runner:")


def test_only_web_and_node_have_the_nodes_token(stack: LocalStack) -> None:
    token = str(stack.secrets.node_token)
    holders = {
        name for name, spec in services(stack).items() if token in spec.env.values() or token in spec.argv
    }
    assert holders == {"web", "node"}


def test_the_github_app_is_for_the_site_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "GAINSHARE_GITHUB_APP_ID": "7",
        "GAINSHARE_GITHUB_PRIVATE_KEY_FILE": "/secrets/private-key.pem",
        "GAINSHARE_GITHUB_WEBHOOK_SECRET_OLD": "old-secret",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for process, spec in services(LocalStack.create(home, OPTIONS, "tag")).items():
        passed = {name: value for name, value in spec.env.items() if name.startswith("GAINSHARE_GITHUB_")}
        assert passed == (given if process in {"web", "control", "beat"} else {})


def test_the_callers_own_variables_are_not_passed_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("GAINSHARE_RUN_LEASE_S", "3")
    monkeypatch.setenv("GAINSHARE_FAULT", "runner.leased")
    stack = LocalStack.create(home, OPTIONS, "tag")
    for name, spec in services(stack).items():
        assert "AWS_SECRET_ACCESS_KEY" not in spec.env
        assert "PYTHONPATH" not in spec.env
        assert ("GAINSHARE_RUN_LEASE_S" in spec.env) == (name in {"web", "control", "beat"})
        assert ("GAINSHARE_FAULT" in spec.env) == (name in {"web", "control", "beat", "runner"})
        assert spec.env["GAINSHARE_STACK"] == "tag"


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LocalModeError, match=f"port {port} .* is taken.*--port {port + 1}") as raised:
            require_free(port)
        assert raised.value.code == "port_taken"
    require_free(port)
    require_free(free_port())


def test_too_little_space_is_named_with_what_to_do(stack: LocalStack) -> None:
    assert free_space_problem(stack.home, 1) is None
    problem = free_space_problem(stack.home, 2**60)
    assert problem is not None
    assert "MiB are free" in problem
    assert "GAINSHARE_HOME" in problem


def test_a_failing_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(LocalModeError, match=r"(?s)migrate failed \(exit 3\).*no such table"):
        run_logged(("/bin/sh", "-c", "echo no such table; exit 3"), {}, tmp_path, "migrate")
    with pytest.raises(LocalModeError, match=r"longer than 0 s"):
        run_logged(("/bin/sleep", "9"), {}, tmp_path, "migrate", timeout_s=0.2)
    run_logged(("/bin/true",), {}, tmp_path, "migrate")


def test_an_unknown_model_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(LocalModeError, match="smollm2-moe, smollm2-moe-small, tiny, none"):
        ensure_model("gpt-9", tmp_path)
    ensure_model("tiny", tmp_path)
    ensure_model(str(tmp_path), tmp_path)  # a folder with a checkpoint


def test_every_model_that_the_stack_makes_of_smollm2_can_be_fetched() -> None:
    assert list(FETCHED) == list(GROWN)


class RunnerSite(HTTPServer):
    """The two addresses of the site that registration talks to, with what they saw."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), RunnerSiteHandler)
        self.registered: list[dict[str, Any]] = []
        self.tokens: set[str] = set()
        self.known_keys: set[str] = set()
        self.authorisation: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class RunnerSiteHandler(BaseHTTPRequestHandler):
    server: RunnerSite

    def do_GET(self) -> None:
        token = self.headers["Authorization"].removeprefix("Bearer ")
        self._answer(200 if self.path == "/api/v1/runner/me/" and token in self.server.tokens else 401, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.authorisation.append(self.headers["Authorization"])
        if self.path != "/api/v1/runners/" or self.headers["Authorization"] != "Bearer gs_admin_key":
            self._answer(403, {"error": {"code": "not_allowed", "message": "maintainers only"}})
        elif body["public_key"] in self.server.known_keys:
            self._answer(409, {"error": {"code": "conflict", "message": "known"}})
        else:
            self.server.registered.append(body)
            self.server.known_keys.add(body["public_key"])
            self.server.tokens.add(f"gsr_{len(self.server.registered)}")
            self._answer(201, {"token": f"gsr_{len(self.server.registered)}"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def runner_site() -> Iterator[RunnerSite]:
    site = RunnerSite()
    with serving(site):
        yield site


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    made = Secrets(tmp_path)
    made.ensure()
    write_secret(made.admin_key, "gs_admin_key")
    return made


def test_the_runner_is_registered_once_with_its_public_key(runner_site: RunnerSite, secrets: Secrets) -> None:
    register_runner(url=runner_site.url, hardware="cpu", secrets=secrets)
    register_runner(url=runner_site.url, hardware="cpu", secrets=secrets)
    assert len(runner_site.registered) == 1
    assert runner_site.registered[0]["public_key"] == public_key(load_key(secrets.runner_key))
    assert runner_site.registered[0]["hardware"] == "cpu"
    assert read_secret(secrets.runner_token) == "gsr_1"
    assert secrets.runner_token.stat().st_mode & 0o777 == 0o600


def test_a_token_that_no_longer_works_is_replaced_by_a_new_runner(
    runner_site: RunnerSite, secrets: Secrets
) -> None:
    register_runner(url=runner_site.url, hardware="cpu", secrets=secrets)
    old_key = secrets.runner_key.read_bytes()
    runner_site.tokens.clear()
    register_runner(url=runner_site.url, hardware="cpu", secrets=secrets)
    assert read_secret(secrets.runner_token) == "gsr_2"
    assert secrets.runner_key.read_bytes() != old_key
    assert len({row["name"] for row in runner_site.registered}) == 2


def test_a_refused_registration_is_an_error_with_the_sites_words(
    runner_site: RunnerSite, secrets: Secrets
) -> None:
    write_secret(secrets.admin_key, "gs_other_key")
    with pytest.raises(LocalModeError, match="maintainers only"):
        register_runner(url=runner_site.url, hardware="cpu", secrets=secrets)
    assert not secrets.runner_token.exists()


def test_the_node_is_started_in_the_samples_sandbox_and_inherits_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAINSHARE_NODE_MEMORY_GIB", "3")
    monkeypatch.delenv("GAINSHARE_KERNELS", raising=False)
    stack = LocalStack.create(home, OPTIONS, "tag")
    argv = services(stack)["node"].argv
    assert argv[1:3] == ("-m", "benchmarks.confined_node")
    options = dict(zip(argv[3::2], argv[4::2], strict=False))
    assert options["--level"] == "bubblewrap"
    assert options["--memory-gib"] == "3"
    assert options["--folder"] == str(home.root / "node")
    assert options["--models"] == str(home.root / "models")
    assert options["--kernels"] == str(home.root / "native")
    assert argv[-3:] == ("--", "--model", "tiny")


def test_without_a_sandbox_the_node_is_named_as_not_confined(home: Home) -> None:
    options = StackOptions(port=8123, model="tiny", node_port=8124, sandbox_problem="no namespaces")
    argv = services(LocalStack.create(home, options, "tag"))["node"].argv
    assert argv[argv.index("--level") + 1] == "none"
    assert options.node_level == "none"


def test_a_model_of_a_folder_is_readable_for_the_node(home: Home, open_folder: Path) -> None:
    folder = open_folder / "checkpoint"
    folder.mkdir()
    options = StackOptions(port=8123, model=str(folder), node_port=8124, sandbox_level="bubblewrap")
    argv = services(LocalStack.create(home, options, "tag"))["node"].argv
    assert argv[argv.index("--readable") + 1] == str(folder)
    assert argv[-1] == str(folder)


# -- An elastic stack -------------------------------------------------------------------------------


@pytest.fixture
def elastic(home: Home) -> LocalStack:
    options = StackOptions(port=8123, model="tiny", node_port=8124, sandbox_level="bubblewrap", devices=3)
    return LocalStack.create(home, options, "tag")


def test_an_elastic_stack_has_an_agent_in_place_of_the_node(elastic: LocalStack) -> None:
    found = services(elastic)
    assert "node" not in found and found["web"].env["GAINSHARE_MODEL_NODES"] == ""
    argv = found["agent"].argv
    for name, value in (
        ("--devices", "3"),
        ("--token-file", str(elastic.secrets.host_token)),
        ("--url", "http://127.0.0.1:8123"),
        ("--level", "bubblewrap"),
        ("--models", str(elastic.home.models)),
    ):
        assert argv[argv.index(name) + 1] == value


def test_the_agent_has_no_secret_but_the_hosts_token(elastic: LocalStack) -> None:
    spec = services(elastic)["agent"]
    for secret in (
        elastic.secrets.node_token,
        elastic.secrets.admin_key,
        elastic.secrets.django_key,
        elastic.secrets.database_password,
        elastic.secrets.runner_token,
    ):
        assert not any(str(secret) in word for word in (*spec.argv, *spec.env.values()))
    assert not {"DATABASE_URL", "BROKER_URL"} & set(spec.env)


def test_the_agent_is_ready_with_its_first_node_and_later_without_one() -> None:
    ready = FirstNode()
    assert not ready(lambda text: text == "the site answers")
    assert ready(lambda text: text in ("the site answers", " is ready"))
    assert ready(lambda text: text == "the site answers")
    assert not ready(lambda text: False)


def test_a_first_node_that_does_not_start_is_an_error() -> None:
    with pytest.raises(LocalModeError, match=r"node\.log"):
        FirstNode()(lambda text: text in ("the site answers", " has ended: "))


@pytest.mark.parametrize("model", ["/tmp/model", "../model", "-x"])
def test_an_elastic_stack_serves_models_of_the_store(model: str) -> None:
    with pytest.raises(LocalModeError, match="local store"):
        require_elastic_model(model)
    require_elastic_model("smollm2-moe")
