"""What changes users and keys. Each function opens its own transaction; views only parse, call and render."""

from datetime import datetime, timedelta

from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from gainshare.accounts.errors import DomainError
from gainshare.accounts.keys import RawKey
from gainshare.accounts.models import ApiKey, Role, Scope, User

LAST_USED_EVERY = timedelta(minutes=1)
# Compared with when no key has the prefix, so that the answer takes as long as for a known one.
NO_SUCH_HASH = "0" * 64


class InvalidKey(DomainError):
    """The presented API key cannot be used; the reason never repeats it."""

    code = "invalid_key"
    status = 401

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UsernameTaken(DomainError):
    code = "username_taken"
    status = 409


class BadAccountData(DomainError):
    """A user name, password, role, scope or key name that cannot be used."""

    code = "invalid"
    status = 400


class NotAllowed(DomainError):
    """The actor's role or key does not allow this."""

    code = "not_allowed"
    status = 403


class NotFound(DomainError):
    code = "not_found"
    status = 404


class LastMaintainer(DomainError):
    code = "last_maintainer"
    status = 409


def create_user(*, username: str, password: str, email: str = "", role: str = Role.CONTRIBUTOR.value) -> User:
    """A new active user. Raises BadAccountData (with the validators' reasons) or UsernameTaken."""
    if role not in Role.values:
        raise BadAccountData(f"There is no such role; choose one of {', '.join(Role.values)}.")
    user = User(username=username, email=User.objects.normalize_email(email), role=role)
    try:
        UnicodeUsernameValidator()(username)
        if len(username) > 150:
            raise ValidationError("A user name has at most 150 characters.")
        if email:
            validate_email(email)
        validate_password(password, user)
    except ValidationError as error:
        raise BadAccountData(" ".join(error.messages)) from None
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save()
    except IntegrityError:
        raise UsernameTaken("This user name is taken; choose another one.") from None
    return user


def set_role(*, actor: User, username: str, role: str) -> User:
    """Gives ``username`` a role. Only a maintainer may, and the last maintainer cannot be demoted."""
    if not actor.is_maintainer:
        raise NotAllowed("Only a maintainer changes roles.")
    if role not in Role.values:
        raise BadAccountData(f"There is no such role; choose one of {', '.join(Role.values)}.")
    with transaction.atomic():
        # All maintainers are locked, so that two of them cannot demote each other at once.
        maintainers = set(
            User.objects.select_for_update()
            .filter(Q(role=Role.MAINTAINER) | Q(is_superuser=True), is_active=True)
            .order_by("pk")
            .values_list("pk", flat=True)
        )
        user = User.objects.select_for_update().filter(username=username).first()
        if user is None:
            raise NotFound("There is no user of this name.")
        if role != Role.MAINTAINER and not user.is_superuser and maintainers == {user.pk}:
            raise LastMaintainer("This is the last maintainer; appoint another one first.")
        user.role = role
        user.save(update_fields=["role"])
    return user


def create_api_key(
    *,
    user: User,
    name: str,
    scopes: list[str],
    expires_at: datetime | None = None,
    made_with: ApiKey | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its raw text, which nothing can show again.

    A key made with another key (``made_with``) gets at most that key's scopes and life, and is revoked with it.
    """
    wanted = list(dict.fromkeys(scopes))
    if not name.strip() or len(name) > 80:
        raise BadAccountData("Name the key, in at most 80 characters.")
    if not wanted or set(wanted) - set(Scope.values):
        raise BadAccountData(f"Choose scopes from {', '.join(Scope.values)}.")
    if expires_at is not None and expires_at <= timezone.now():
        raise BadAccountData("The key would be expired from the start.")
    if set(wanted) - user.allowed_scopes:
        raise NotAllowed("Only a maintainer's key has the scope maintain.")
    if made_with is not None:
        if set(wanted) - set(made_with.scopes):
            raise NotAllowed("A key cannot make a key that may do more than itself.")
        if made_with.expires_at is not None:
            expires_at = min(expires_at or made_with.expires_at, made_with.expires_at)
    raw = RawKey.generate()
    key = ApiKey.objects.create(
        user=user,
        name=name.strip(),
        prefix=raw.prefix,
        secret_hash=raw.secret_hash,
        scopes=wanted,
        expires_at=expires_at,
        made_with=made_with,
    )
    return key, raw.text


def authenticate_key(raw: str) -> ApiKey:
    """The key behind ``raw``, with its user loaded. Raises InvalidKey; notes the use at most once a minute."""
    parsed = RawKey.parse(raw)
    if parsed is None:
        raise InvalidKey("This does not have the form of an API key.")
    key = ApiKey.objects.select_related("user").filter(prefix=parsed.prefix).first()
    matches = parsed.matches(key.secret_hash if key is not None else NO_SUCH_HASH)
    if key is None or not matches:
        raise InvalidKey("The API key is unknown.")
    now = timezone.now()
    if reason := key.refusal(now):
        raise InvalidKey(reason)
    if key.last_used_at is None or key.last_used_at <= now - LAST_USED_EVERY:
        stale = Q(last_used_at=None) | Q(last_used_at__lte=now - LAST_USED_EVERY)
        ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now)
        key.last_used_at = now
    return key


def revoke_api_key(*, user: User, prefix: str, asked_with: ApiKey | None = None) -> ApiKey:
    """Revokes the user's key and every key made with it. Repeating changes nothing.

    A key that it is ``asked_with`` revokes itself, and what may do no more than itself. Raises NotFound, NotAllowed.
    """
    with transaction.atomic():
        key = ApiKey.objects.select_for_update().filter(user=user, prefix=prefix).first()
        if key is None:
            raise NotFound("There is no such key of yours.")
        if asked_with is not None and set(key.scopes) - set(asked_with.scopes):
            raise NotAllowed("A key cannot revoke a key that may do more than itself; use your password.")
        now = timezone.now()
        level = [key.pk]
        while level:
            ApiKey.objects.filter(pk__in=level, revoked_at=None).update(revoked_at=now)
            level = list(ApiKey.objects.filter(made_with__in=level).values_list("pk", flat=True))
        key.refresh_from_db()
    return key
