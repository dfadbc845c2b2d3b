"""The web server's log of requests has no code of GitHub's, whatever else it has."""

import os
import socket
import subprocess
import sys
import time
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from django.conf import settings

SERVER = "import sys, uvicorn; uvicorn.run('gainshare.config.asgi:application', port=int(sys.argv[1]), lifespan='off')"


def test_a_code_is_not_logged_and_other_queries_are() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "gainshare.config.settings",
        "PYTHONPATH": f"{settings.ROOT}:{settings.ROOT / 'platform'}",
        "GAINSHARE_GITHUB_CLIENT_ID": "",
        "NO_COLOR": "1",
    }
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for path in ("/static/nothing/?page=3", "/github/callback/?code=s3cret&state=st4te"):
            await_an_answer(port, path)
    finally:
        server.terminate()
        logged = server.communicate(timeout=30)[0]
    assert "/static/nothing/?page=3" in logged and '"GET /github/callback/ HTTP' in logged
    assert "s3cret" not in logged and "st4te" not in logged


def await_an_answer(port: int, path: str) -> None:
    """Until the server answers, whatever it answers: it has no database."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urlopen(f"http://127.0.0.1:{port}{path}", timeout=30).close()
        except HTTPError:
            return
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
