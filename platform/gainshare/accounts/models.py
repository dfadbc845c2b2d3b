"""Users with a role, API keys, calls with caller-made ids, and counters of sign-in attempts.

An API key is shown once, as ``gs_<prefix>_<secret>``; only the SHA-256 of its 256-bit secret is kept.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.crypto import salted_hmac

from gainshare.accounts.names import MAX_KEY_CHARS, look_alike_key, refuse_new_name

TAKEN = "This user name is taken or looks like a name that is taken. Choose another one."


class Role(models.TextChoices):
    """Role of a user."""

    CONTRIBUTOR = "contributor", "Contributor"  # submits, spends, reviews others
    MAINTAINER = "maintainer", "Maintainer"  # also funds, posts bounties, merges, runs runners


class Scope(models.TextChoices):
    """Permission of an API key. A key never exceeds its owner's role."""

    INFERENCE = "inference", "Use models"
    SUBMIT = "submit", "Submit and review patches"
    READ = "read", "Read your own account"
    MAINTAIN = "maintain", "Everything a maintainer may do"


class User(AbstractUser):
    """A user. The role decides about permissions; Django's groups are only for the admin site."""

    role = models.CharField(max_length=16, choices=Role.choices, default=Role.CONTRIBUTOR)
    name_key = models.CharField(
        max_length=MAX_KEY_CHARS,
        default="",
        editable=False,
        db_index=True,
        help_text="The same for names that look alike.",
    )

    active_from = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Waits its turn until then, since many signed up at once; empty: no wait.",
    )

    class Meta(AbstractUser.Meta):
        constraints = [
            models.UniqueConstraint(Lower("username"), name="user_username_ci_unique"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="user_role_known"),
        ]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.name_key = look_alike_key(self.username)
        if kwargs.get("update_fields") is not None and "username" in kwargs["update_fields"]:
            kwargs["update_fields"] = {*kwargs["update_fields"], "name_key"}
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """Validate as Django does; a new name must also obey the name rule, while an old name stays."""
        super().clean()
        before = type(self).objects.filter(pk=self.pk).values_list("username", flat=True).first()
        if before != self.username:
            refuse_new_name(self.username)
            if type(self).objects.filter(name_key=look_alike_key(self.username)).exclude(pk=self.pk).exists():
                raise ValidationError({"username": TAKEN})

    @property
    def is_waiting(self) -> bool:
        """Whether the account still waits its turn after sign-up. It cannot sign in until then."""
        return self.active_from is not None and self.active_from > timezone.now()

    @property
    def is_dormant(self) -> bool:
        """Whether it was made for an account of GitHub whose owner has never signed in here."""
        return GitHubAccount.objects.filter(user=self, linked_at=None).exists()

    @property
    def is_maintainer(self) -> bool:
        return self.role == Role.MAINTAINER or self.is_superuser

    @property
    def allowed_scopes(self) -> frozenset[str]:
        """Scopes that this user's keys and browser session may have."""
        scopes = set(Scope.values)
        return frozenset(scopes if self.is_maintainer else scopes - {Scope.MAINTAIN.value})


class GitHubAccount(models.Model):
    """An account of GitHub, by GitHub's own number, and the user that it belongs to. Names change hands; numbers do not.

    A user without a link is dormant: made for somebody who has never signed in here, and no one can sign in as it.
    """

    github_id = models.BigIntegerField(primary_key=True)
    login = models.CharField(max_length=100, help_text="Its name, as last seen. It identifies no one.")
    user = models.OneToOneField(User, on_delete=models.PROTECT, related_name="github")
    linked_at = models.DateTimeField(
        null=True, blank=True, help_text="When its owner signed in; empty: dormant."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["github_id"]
        verbose_name = "GitHub account"

    def __str__(self) -> str:
        return f"{self.login} ({self.github_id})"

    @property
    def is_dormant(self) -> bool:
        return self.linked_at is None


class RoleChange(models.Model):
    """A change of a user's role: by whom, when and why. Append-only, written in the transaction of the change."""

    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="role_changes")
    old = models.CharField(max_length=16, choices=Role.choices)
    new = models.CharField(max_length=16, choices=Role.choices)
    reason = models.CharField(max_length=300, blank=True)
    actor = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.user}: {self.old} -> {self.new}"


class MadeOnce(models.Model):
    """The result of a call with a caller-made id; see `once`."""

    call_id = models.UUIDField(primary_key=True)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    what = models.CharField(max_length=32, help_text="The kind of thing.")
    terms_digest = models.CharField(max_length=64, help_text="SHA-256 of what was asked for.")
    name = models.CharField(max_length=100, help_text="What the thing is found by.")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.call_id}: {self.what} {self.name}"


class ApiKey(models.Model):
    """An API key of a user. Revoking a key revokes the keys that were made with it.

    A key made on a page has no secret (an empty hash) until that page has shown it.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=16, unique=True)
    secret_hash = models.CharField(max_length=64)
    scopes = models.JSONField(default=list)
    made_with = models.ForeignKey("self", on_delete=models.CASCADE, null=True, related_name="made_keys")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"gs_{self.prefix}_…"

    def has_scope(self, scope: str) -> bool:
        """Whether the key was given ``scope`` and its owner's role still allows it."""
        return scope in self.scopes and scope in self.user.allowed_scopes

    def refusal(self, now: datetime) -> str | None:
        """Reason why the key cannot be used at ``now``; None if it can."""
        if self.revoked_at is not None:
            return "The API key was revoked."
        if self.expires_at is not None and self.expires_at <= now:
            return "The API key has expired."
        if not self.user.is_active:
            return "The account of this API key is disabled."
        return None


class Allowance(models.Model):
    """State of a rate limit; see `rate_limits`. A row may be deleted at any time after ``full_at``."""

    key = models.CharField(
        primary_key=True, max_length=64, help_text="Keyed hash of what is limited for whom."
    )
    full_at = models.DateTimeField(db_index=True, help_text="When all tries are there again.")

    def __str__(self) -> str:
        return f"{self.key[:12]}… full at {self.full_at:%Y-%m-%d %H:%M:%S}"


class SignInPlace(models.Model):
    """A network address that a user has signed in from with a password, as a keyed hash."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    place = models.CharField(max_length=64)
    last_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "place"], name="sign_in_place_once")]

    def __str__(self) -> str:
        return f"{self.place[:12]}… last at {self.last_at:%Y-%m-%d %H:%M:%S}"

    @staticmethod
    def hashed(network: str) -> str:
        """Keyed hash of ``network``, as stored in the database."""
        return salted_hmac("gainshare.accounts.SignInPlace", network, algorithm="sha256").hexdigest()
