"""Git over HTTP: `git http-backend` on the bare repositories, by the names that they have now."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from bounty.github.standin import git
from bounty.github.standin.actions.pulls import branch_moved
from bounty.github.standin.hub import Hub
from bounty.github.standin.records import Account, Repository

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS = re.compile(
    r"^/([^/]+)/([^/]+?)(?:\.git)?(/(?:info/refs|git-upload-pack|git-receive-pack|HEAD|objects/.*))$"
)
HEAD_END = b"\r\n\r\n"
CHUNK = 65_536


@dataclass
class GitAnswer:
    """An answer whose body is read piece by piece."""

    status: int
    headers: dict[str, str]
    body: Iterator[bytes]


def is_git(path: str) -> bool:
    """Whether an address is one that git asks for."""
    return ADDRESS.match(path) is not None


def answer(
    hub: Hub, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> GitAnswer:
    """Answer a request of git. A push is told to the App afterwards."""
    match = ADDRESS.match(path)
    assert match is not None
    owner, name, rest = match.groups()
    is_push = rest == "/git-receive-pack" or "service=git-receive-pack" in query
    with hub.state.lock:
        repository = hub.state.repository(f"{owner}/{name}")
        moved = hub.state.moved(f"{owner}/{name}")
        sender = _sender(hub, headers)
    if repository is None and moved is not None:
        suffix = f"?{query}" if query else ""
        return _plain(301, {"Location": f"{hub.site.web}/{moved.full_name}.git{rest}{suffix}"})
    if repository is None or (repository.is_private and not _may_read(hub, repository, headers, sender)):
        return _refused(headers)
    if not is_push:
        return _backend(hub, repository, method, rest, query, headers, body)
    if sender is None or repository.role_of(sender) not in ("write", "maintain", "admin"):
        return _refused(headers)
    before = git.refs(repository.folder)
    done = _backend(hub, repository, method, rest, query, headers, body, user=sender.login)
    if rest != "/git-receive-pack":
        return done
    content = b"".join(done.body)
    _tell(hub, repository, before, sender)
    return GitAnswer(done.status, done.headers, iter([content]))


def _tell(hub: Hub, repository: Repository, before: dict[str, str], sender: Account) -> None:
    after = git.refs(repository.folder)
    with hub.state.lock:
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name, ""), after.get(name, "")
            if old != new:
                branch_moved(hub, repository, name.removeprefix("refs/heads/"), old, new, sender)


def _sender(hub: Hub, headers: Mapping[str, str]) -> Account | None:
    """Who pushes: a user by name, with any password, as this is a stand-in; or a user's token as the password."""
    user, password = _basic(headers)
    token = hub.state.tokens.get(password)
    return token.user if token is not None else hub.state.account(user)


def _may_read(hub: Hub, repository: Repository, headers: Mapping[str, str], sender: Account | None) -> bool:
    token = hub.state.tokens.get(_basic(headers)[1])
    if token is not None and token.installation is not None:
        return repository in token.installation.repositories and token.permissions.get("contents") in (
            "read",
            "write",
        )
    return sender is not None and repository.role_of(sender) != "none"


def _basic(headers: Mapping[str, str]) -> tuple[str, str]:
    kind, _, value = (headers.get("Authorization") or "").partition(" ")
    if kind.lower() != "basic":
        return "", ""
    user, _, password = base64.b64decode(value).decode(errors="replace").partition(":")
    return user, password


def _refused(headers: Mapping[str, str]) -> GitAnswer:
    if headers.get("Authorization"):
        return _plain(404, {})
    return _plain(401, {"WWW-Authenticate": 'Basic realm="stand-in"'})


def _plain(status: int, headers: dict[str, str]) -> GitAnswer:
    return GitAnswer(status, headers, iter([b""]))


def _backend(
    hub: Hub,
    repository: Repository,
    method: str,
    rest: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
    user: str = "",
) -> GitAnswer:
    program = subprocess.Popen(
        [git.GIT, "http-backend"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={
            **git.ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(repository.folder.parent),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": method,
            "PATH_INFO": hub.git_path(repository) + rest,
            "QUERY_STRING": query,
            "CONTENT_TYPE": headers.get("Content-Type") or "",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": headers.get("Content-Encoding") or "",
            "HTTP_GIT_PROTOCOL": headers.get("Git-Protocol") or "",
            "REMOTE_ADDR": "127.0.0.1",
            **({"REMOTE_USER": user} if user else {}),
        },
    )  # fmt: skip
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        program.stdin.write(body)
        program.stdin.close()
    except BrokenPipeError:
        pass
    head, first = _head(program.stdout)
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    status = int(fields.pop("Status", "200").split(" ")[0])
    return GitAnswer(status, fields, _pieces(program, first))


def _head(output: IO[bytes]) -> tuple[bytes, bytes]:
    """The header of a CGI answer and the body's first bytes."""
    got = b""
    while HEAD_END not in got and (piece := output.read1(CHUNK)):  # type: ignore[attr-defined]
        got += piece
    head, _, first = got.partition(HEAD_END)
    return head, first


def _pieces(program: subprocess.Popen[bytes], first: bytes) -> Iterator[bytes]:
    assert program.stdout is not None
    try:
        yield first
        while piece := program.stdout.read(CHUNK):
            yield piece
    finally:
        program.stdout.close()
        program.kill() if program.poll() is None else None
        program.wait()
