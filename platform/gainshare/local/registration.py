"""Registers the local runner with the site, over HTTP like any other runner."""

import httpx

from benchmarks.evidence.signing import key_id, load_key, public_key
from benchmarks.runner.fingerprint import fingerprint
from gainshare.local.errors import LocalModeError
from gainshare.local.secrets import Secrets, read_secret, write_secret

TIMEOUT_S = 20.0


def register_runner(*, url: str, hardware: str, secrets: Secrets) -> None:
    """Make sure that `secrets.runner_token` has a token that the site accepts.

    A token from an earlier start is kept while it works; else the administrator's key registers the runner
    again. A token is shown only once, so a runner with a lost token is registered as a new one with a new
    key. Raises LocalModeError.
    """
    with httpx.Client(base_url=f"{url}/api/v1/", timeout=TIMEOUT_S, trust_env=False) as http:
        if secrets.runner_token.exists() and _is_known(http, read_secret(secrets.runner_token)):
            return
        answer = _register(http, hardware, secrets)
        if answer.status_code == httpx.codes.CONFLICT:
            secrets.runner_key.unlink()
            secrets.ensure()
            answer = _register(http, hardware, secrets)
    if not answer.is_success:
        raise LocalModeError(
            f"the site did not register the local runner ({answer.status_code}): {answer.text[:300]}"
        )
    write_secret(secrets.runner_token, answer.json()["token"])


def _register(http: httpx.Client, hardware: str, secrets: Secrets) -> httpx.Response:
    public = public_key(load_key(secrets.runner_key))
    return http.post(
        "runners/",
        headers={"Authorization": f"Bearer {read_secret(secrets.admin_key)}"},
        json={
            "name": f"local-{key_id(public)}",
            "hardware": hardware,
            "public_key": public,
            "fingerprint": fingerprint(),
        },
    )


def _is_known(http: httpx.Client, token: str) -> bool:
    return http.get("runner/me/", headers={"Authorization": f"Bearer {token}"}).status_code == httpx.codes.OK
