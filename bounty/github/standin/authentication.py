"""Who asks: the App by a signed JWT, an installation or a user by a token, or no one."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt

from bounty.github.standin.records import Account, Installation, Token
from bounty.github.standin.rest.routing import Refusal
from bounty.github.standin.state import State

LONGEST_JWT_S = 600
CLOCK_SKEW_S = 60
TOKEN_LIVES = timedelta(hours=1)


@dataclass(frozen=True)
class Caller:
    """Who asks. ``key`` is whose limit is used."""

    key: str
    is_app: bool = False
    token: Token | None = None

    @property
    def installation(self) -> Installation | None:
        return self.token.installation if self.token else None

    @property
    def user(self) -> Account | None:
        return self.token.user if self.token else None


def caller_of(state: State, header: str) -> Caller:
    """Who sent the Authorization header. Raises Refusal for a bad one."""
    kind, _, value = header.partition(" ")
    value = value.strip()
    if not header:
        return Caller("anonymous")
    if kind.lower() == "basic":
        value = base64.b64decode(value, validate=False).decode(errors="replace").partition(":")[2]
    elif kind.lower() not in ("bearer", "token"):
        raise Refusal(401, "Bad credentials")
    if value.count(".") == 2 and kind.lower() == "bearer":
        return _app(state, value)
    token = state.tokens.get(value)
    if token is None or (token.expires_at is not None and state.now() >= token.expires_at):
        raise Refusal(401, "Bad credentials")
    return _holder(token)


def _holder(token: Token) -> Caller:
    held = token.installation
    if held is None:
        assert token.user is not None
        return Caller(f"user {token.user.github_id}", token=token)
    if held.is_removed:
        raise Refusal(401, "Bad credentials")
    if held.suspended_at is not None:
        raise Refusal(403, "This installation has been suspended")
    return Caller(f"installation {held.github_id}", token=token)


def _app(state: State, text: str) -> Caller:
    app = state.app
    if app is None:
        raise Refusal(404, "Integration not found")
    try:
        claims = jwt.decode(
            text, app.public_key, algorithms=["RS256"],
            options={"verify_exp": False, "verify_iat": False, "verify_aud": False, "verify_iss": False, "require": []},
        )  # fmt: skip
    except jwt.PyJWTError:
        raise Refusal(401, "A JSON web token could not be decoded") from None
    now = datetime.now(
        UTC
    ).timestamp()  # the App signs by the machine's clock, which `pass_time` does not move
    expires, issued = claims.get("exp"), claims.get("iat")
    if not isinstance(issued, int) or issued > now + CLOCK_SKEW_S:
        raise Refusal(
            401,
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        )
    if not isinstance(expires, int) or expires <= now:
        raise Refusal(
            401,
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the "
            "assertion expires",
        )
    if expires > now + LONGEST_JWT_S + CLOCK_SKEW_S:
        raise Refusal(401, "'Expiration time' claim ('exp') is too far in the future")
    if str(claims.get("iss")) not in (str(app.github_id), app.client_id):
        raise Refusal(404, "Integration not found")
    return Caller("app", is_app=True)


def issue_token(state: State, installation: Installation, permissions: dict[str, str]) -> Token:
    """A new token of an installation, good for an hour."""
    token = Token(
        text=f"ghs_{secrets.token_hex(18)}",
        expires_at=state.now() + TOKEN_LIVES,
        installation=installation,
        permissions=permissions,
    )
    state.tokens[token.text] = token
    return token


def issue_user_token(state: State, user: Account, scopes: str) -> Token:
    """A new token of a user, as the OAuth flow gives it."""
    token = Token(text=f"gho_{secrets.token_hex(18)}", expires_at=None, user=user, scopes=scopes)
    state.tokens[token.text] = token
    return token
