"""Services for users and keys. Each function opens its own transaction."""

from datetime import datetime, timedelta
from uuid import UUID, uuid5

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from gainshare.accounts.errors import DomainError
from gainshare.accounts.keys import RawKey
from gainshare.accounts.models import TAKEN, ApiKey, Role, RoleChange, Scope, User
from gainshare.accounts.names import look_alike_key, refuse_new_name
from gainshare.accounts.once import claim

LAST_USED_EVERY = timedelta(minutes=1)
# Compared with if no key has the prefix, so that unknown and known prefixes take the same time.
NO_SUCH_HASH = "0" * 64
NAMES = UUID("4b8f0f5e-6a1d-4a52-8f3f-0f7f4c2f9d10")  # lock namespace for new names

DORMANT = (
    "This account is dormant, because its owner has not signed in with GitHub yet. They must do that first."
)


class InvalidKey(DomainError):
    """The presented API key cannot be used. The reason never repeats the key."""

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
    """Create an active user. Raises BadAccountData or UsernameTaken (also for a look-alike)."""
    if role not in Role.values:
        raise BadAccountData(f"There is no such role; choose one of {', '.join(Role.values)}.")
    user = User(username=username, email=User.objects.normalize_email(email), role=role)
    try:
        refuse_new_name(username)
        if email:
            validate_email(email)
        validate_password(password, user)
    except ValidationError as error:
        raise BadAccountData(" ".join(error.messages)) from None
    user.set_password(password)
    save_new_name(user)
    return user


def save_new_name(user: User) -> None:
    """Save a user under a name that is new to it. Raises BadAccountData, or UsernameTaken (also for a look-alike)."""
    try:
        refuse_new_name(user.username)
    except ValidationError as error:
        raise BadAccountData(" ".join(error.messages)) from None
    try:
        with transaction.atomic():
            key = look_alike_key(user.username)
            claim(uuid5(NAMES, key))  # two names that look alike wait for each other
            if User.objects.filter(name_key=key).exclude(pk=user.pk).exists():
                raise UsernameTaken(TAKEN)
            user.save()
    except IntegrityError:
        raise UsernameTaken(TAKEN) from None


def set_role(*, actor: User, username: str, role: str, reason: str = "") -> User:
    """Give ``username`` a role, and record who did it and why.

    Only maintainers may do this; you cannot promote yourself, and the last maintainer cannot be demoted.
    """
    if not actor.is_maintainer:
        raise NotAllowed("Only maintainers can change roles.")
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
            raise NotFound("There is no user with this name.")
        if user.role == role:
            return user
        if user.is_dormant:
            raise NotAllowed(DORMANT)
        if user.pk == actor.pk and role == Role.MAINTAINER:
            raise NotAllowed("You cannot give yourself more rights. Ask another maintainer.")
        if role != Role.MAINTAINER and not user.is_superuser and maintainers == {user.pk}:
            raise LastMaintainer(
                "This is the last maintainer, and a site needs one. Appoint another maintainer first."
            )
        RoleChange.objects.create(user=user, old=user.role, new=role, reason=reason[:300], actor=actor)
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
    """Create a key and return it with its raw text, which cannot be shown again.

    A key made with another key (``made_with``) gets at most that key's scopes and expiry, and is revoked with it.
    """
    raw = RawKey.generate()
    key = _new_key(user=user, name=name, scopes=scopes, expires_at=expires_at, made_with=made_with)
    key.prefix, key.secret_hash = raw.prefix, raw.secret_hash
    key.save(force_insert=True)
    return key, raw.text


def order_api_key(*, user: User, name: str, scopes: list[str], expires_at: datetime | None = None) -> ApiKey:
    """Create a key without a secret, which cannot be used until `draw_secret` gives it one."""
    key = _new_key(user=user, name=name, scopes=scopes, expires_at=expires_at)
    key.prefix = RawKey.generate().prefix
    key.save(force_insert=True)
    return key


def draw_secret(*, user: User, prefix: str) -> str | None:
    """Draw the secret of an ordered key and return its raw text; None if drawn before or the key is not valid.

    Only one of two concurrent calls gets it, because the secret is not stored.
    """
    raw = RawKey.with_prefix(prefix)
    alive = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    drawn = ApiKey.objects.filter(alive, user=user, prefix=prefix, secret_hash="", revoked_at=None).update(
        secret_hash=raw.secret_hash
    )
    return raw.text if drawn else None


def _new_key(
    *,
    user: User,
    name: str,
    scopes: list[str],
    expires_at: datetime | None = None,
    made_with: ApiKey | None = None,
) -> ApiKey:
    """Check and build a key without saving it. Raises BadAccountData, NotAllowed."""
    if user.is_dormant:
        raise NotAllowed(DORMANT)
    wanted = list(dict.fromkeys(scopes))
    if not name.strip() or len(name) > 80:
        raise BadAccountData("A key needs a name of at most 80 characters.")
    if not wanted or set(wanted) - set(Scope.values):
        raise BadAccountData(f"Choose at least one scope from {', '.join(Scope.values)}.")
    if expires_at is not None and expires_at <= timezone.now():
        raise BadAccountData("The expiry is in the past, so the key could not be used. Choose a later time.")
    if set(wanted) - user.allowed_scopes:
        raise NotAllowed("Only a maintainer's key can have the scope maintain. Leave it out.")
    if made_with is not None:
        if set(wanted) - set(made_with.scopes):
            raise NotAllowed(
                "A key cannot make a key with more scopes or a later expiry than its own. Use your "
                "password, or ask for less."
            )
        if made_with.expires_at is not None:
            expires_at = min(expires_at or made_with.expires_at, made_with.expires_at)
    return ApiKey(user=user, name=name.strip(), scopes=wanted, expires_at=expires_at, made_with=made_with)


def authenticate_key(raw: str) -> ApiKey:
    """Return the key of ``raw`` with its user. Raises InvalidKey; records the use once a minute."""
    parsed = RawKey.parse(raw)
    if parsed is None:
        raise InvalidKey("This is not an API key: a key begins with gs_. Check that you copied it whole.")
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
    """Revoke the user's key and every key made with it. Repeating changes nothing.

    The key ``asked_with`` can revoke itself and keys with no more permissions. Raises NotFound, NotAllowed.
    """
    with transaction.atomic():
        key = ApiKey.objects.select_for_update().filter(user=user, prefix=prefix).first()
        if key is None:
            raise NotFound(
                "You have no such key. `gainshare keys list` and the page API keys list your keys."
            )
        if asked_with is not None and set(key.scopes) - set(asked_with.scopes):
            raise NotAllowed(
                "A key cannot revoke a key with more permissions than its own. Use your password instead."
            )
        now = timezone.now()
        level = [key.pk]
        while level:
            ApiKey.objects.filter(pk__in=level, revoked_at=None).update(revoked_at=now)
            level = list(ApiKey.objects.filter(made_with__in=level).values_list("pk", flat=True))
        key.refresh_from_db()
    return key
