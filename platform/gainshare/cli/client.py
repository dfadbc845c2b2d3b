"""HTTP client of the commands: address, API key, and REST calls with clear errors.

Address and key come from the command line, else from GAINSHARE_URL and GAINSHARE_KEY, else from the local stack
that runs in GAINSHARE_HOME (its administrator's key).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from gainshare.cli.output import CliError
from gainshare.local.paths import home_from_environment
from gainshare.local.secrets import read_secret
from gainshare.local.state import NotRunning, running_state

TIMEOUT_S = 60.0
NO_SITE = (
    "no site is configured: give --url and --key, set GAINSHARE_URL and GAINSHARE_KEY, or start a site "
    "with `gainshare up`"
)

UrlOption = Annotated[str, typer.Option("--url", envvar="GAINSHARE_URL", help="Address of the site.")]
KeyOption = Annotated[str, typer.Option("--key", envvar="GAINSHARE_KEY", help="API key.", show_envvar=True)]


class SiteError(CliError):
    """The site refused the request or could not be reached."""


@dataclass(frozen=True)
class Site:
    """Address of the site and API key."""

    url: str
    key: str

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The JSON answer of `/api/v1/<path>` (None when it is empty). Raises SiteError."""
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            response = httpx.request(
                method, f"{self.url}/api/v1/{path}", headers=headers, timeout=TIMEOUT_S, **options
            )
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise SiteError(
                f"{self.url} cannot be reached ({reason}): check the address, and that the site is running",
                code="unreachable",
            ) from None
        except httpx.InvalidURL:
            raise SiteError(
                f"{self.url!r} is not an address: write it as http://HOST:PORT", code="bad_url"
            ) from None
        if response.is_success:
            return response.json() if response.content else None
        raise refusal(response)

    def get(self, path: str, **query: str | int) -> Any:
        return self.request("GET", path, params=query)

    def post(self, path: str, body: Any = None) -> Any:
        return self.request("POST", path, json=body)

    def delete(self, path: str) -> Any:
        return self.request("DELETE", path)


def site(url: str, key: str) -> Site:
    """The configured site. The local administrator's key is never sent to another address. Raises CliError."""
    if url and key:
        return Site(url.rstrip("/"), key)
    home = home_from_environment()
    try:
        state = running_state(home)
    except NotRunning:
        missing = "an API key is missing: give --key or set GAINSHARE_KEY" if url else NO_SITE
        raise CliError(missing, code="no_site") from None
    if url and url.rstrip("/") != state.url:
        raise CliError("an API key for that site is missing: give --key or set GAINSHARE_KEY", code="no_key")
    if key:
        return Site(state.url, key)
    try:
        return Site(state.url, read_secret(Path(state.files["admin_key"])))
    except OSError as error:
        raise CliError(
            f"the local administrator's key cannot be read ({error.strerror}): give --key", code="no_key"
        ) from None


def site_url(url: str) -> str:
    """The configured site's address, for calls without a key. Raises CliError."""
    if url:
        return url.rstrip("/")
    try:
        return running_state(home_from_environment()).url
    except NotRunning:
        raise CliError(NO_SITE, code="no_site") from None


def refusal(response: httpx.Response) -> SiteError:
    """The site's error message, in the REST or the OpenAI error shape, or the status."""
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), str(error.get("code") or response.status_code)
    except (ValueError, KeyError, TypeError):
        return SiteError(
            f"{response.request.url.path} answered {response.status_code} {response.reason_phrase}",
            code=str(response.status_code),
        )
    if details := error.get("details"):
        message += f" {details}"
    return SiteError(message, code=code)
