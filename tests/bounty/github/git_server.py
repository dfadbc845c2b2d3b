"""Real repositories, served by `git http-backend` over real HTTP."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

from bounty.models import StoredTree
from bounty.services.trees import blob_store, load_tree
from tests.http_servers import serving

ENV = {
    "PATH": os.defpath,
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Pam",
    "GIT_AUTHOR_EMAIL": "pam@example.org",
    "GIT_COMMITTER_NAME": "Pam",
    "GIT_COMMITTER_EMAIL": "pam@example.org",
}


@dataclass
class Repository:
    """A bare repository below a served folder, written to by plumbing: no work tree stands between test and commit."""

    folder: Path
    files: dict[str, tuple[str, str]] = field(default_factory=dict)  # path -> (mode, object)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.git("init", "-q", "--bare", "-b", "main")
        self.git("config", "uploadpack.allowFilter", "true")
        self.git("config", "uploadpack.allowAnySHA1InWant", "true")

    def git(self, *arguments: str, given: bytes = b"", **env: str) -> str:
        done = subprocess.run(
            ["git", f"--git-dir={self.folder}", *arguments],
            input=given, capture_output=True, env={**ENV, **env}, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def put(self, path: str, data: bytes | str, mode: str = "100644") -> None:
        given = data.encode() if isinstance(data, str) else data
        self.files[path] = (mode, self.git("hash-object", "-w", "--stdin", given=given))

    def put_tree(self, stored: StoredTree, folder: str = "model") -> None:
        """The lineage's tree as the repository's folder, and a file next to it."""
        self.files = {path: at for path, at in self.files.items() if not path.startswith(f"{folder}/")}
        entries = load_tree(stored).entries
        with TemporaryDirectory() as scratch:
            written = [Path(scratch) / str(number) for number in range(len(entries))]
            for path, entry in zip(written, entries, strict=True):
                path.write_bytes(blob_store().get(entry.blob))
            given = "".join(f"{path}\n" for path in written).encode()
            names = self.git("hash-object", "-w", "--no-filters", "--stdin-paths", given=given).split()
        for entry, name in zip(entries, names, strict=True):
            mode = "100755" if entry.mode == 0o755 else "100644"
            self.files[f"{folder}/{entry.path.removeprefix('model/')}"] = (mode, name)
        self.put("README.md", "Read me")

    def commit(self, message: str = "c", *, branch: str = "main", parent: str | None = "branch") -> str:
        """Commit the files; `parent` is a commit, "branch" for the branch's own, or None for a new root."""
        index = self.folder / "test-index"
        index.unlink(missing_ok=True)
        rows = "".join(f"{mode} {name}\t{path}\0" for path, (mode, name) in self.files.items())
        self.git("update-index", "-z", "--index-info", given=rows.encode(), GIT_INDEX_FILE=str(index))
        tree = self.git("write-tree", "--missing-ok", GIT_INDEX_FILE=str(index))
        if parent == "branch":
            found = self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")
            parent = found or None
        above = ["-p", parent] if parent else []
        made = self.git("commit-tree", tree, *above, "-m", message)
        self.git("update-ref", f"refs/heads/{branch}", made)
        return made


@contextmanager
def served(root: Path) -> Iterator[str]:
    """Serve the repositories below `root`; the address of the root. What is asked of /moved is redirected there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self._body())

        def log_message(self, *_args: object) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            if path.startswith("/moved/"):
                self.send_response(301)
                self.send_header("Location", self.path.removeprefix("/moved"))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            done = subprocess.run(
                ["git", "http-backend"],
                input=body, capture_output=True, check=False, timeout=60,
                env=cgi(self.command, unquote(path), query, self.headers, len(body), root),
            )  # fmt: skip
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
            self.send_response(int(fields.pop("Status", "200").split(" ")[0]))
            for name, value in {**fields, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def cgi(
    method: str, path: str, query: str, headers: Mapping[str, str], size: int, root: Path
) -> dict[str, str]:
    """The environment of the CGI program `git http-backend`."""
    return {
        **ENV,
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": headers.get("Content-Type") or "",
        "CONTENT_LENGTH": str(size),
        "HTTP_CONTENT_ENCODING": headers.get("Content-Encoding") or "",
        "HTTP_GIT_PROTOCOL": headers.get("Git-Protocol") or "",
        "REMOTE_ADDR": "127.0.0.1",
    }
