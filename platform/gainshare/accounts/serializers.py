"""JSON shapes of users and keys. Secrets are write-only; a raw key is shown once."""

from rest_framework import serializers

from gainshare.accounts.models import ApiKey, Role, Scope, User


class SignUpSerializer(serializers.Serializer[User]):
    """Data of a new user."""

    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=1000, write_only=True, trim_whitespace=False)
    email = serializers.EmailField(required=False, allow_blank=True)


class UserSerializer(serializers.ModelSerializer[User]):
    """A user as that user sees it."""

    is_maintainer = serializers.BooleanField(read_only=True)

    class Meta:
        model = User
        fields = ["username", "email", "role", "is_maintainer", "date_joined", "active_from"]
        read_only_fields = fields


class RoleSerializer(serializers.Serializer[User]):
    """A role to give."""

    role = serializers.ChoiceField(choices=Role.choices)


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """A key as its owner sees it in a list: never the secret."""

    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices), read_only=True)
    made_with: serializers.SlugRelatedField[ApiKey] = serializers.SlugRelatedField(
        slug_field="prefix", read_only=True, allow_null=True
    )

    class Meta:
        model = ApiKey
        fields = [
            "prefix",
            "name",
            "scopes",
            "made_with",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
        ]
        read_only_fields = fields


class NewApiKeySerializer(serializers.Serializer[ApiKey]):
    """Data of a new key."""

    name = serializers.CharField(max_length=80)
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices), allow_empty=False)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)


class MadeApiKeySerializer(ApiKeySerializer):
    """A new key with its raw text, which is shown only here."""

    key = serializers.CharField(read_only=True, help_text="Shown only in this answer: store it now.")

    class Meta(ApiKeySerializer.Meta):
        fields = ["key", *ApiKeySerializer.Meta.fields]
        read_only_fields = fields


class ErrorDetailSerializer(serializers.Serializer[None]):
    """Content of an error."""

    code = serializers.CharField(help_text="Stable, for programs.")
    message = serializers.CharField(help_text="For people; says what happened and what to do.")
    details = serializers.JSONField(required=False, help_text="Per field, for invalid input.")


class ErrorSerializer(serializers.Serializer[None]):
    """The shape of every REST error."""

    error = ErrorDetailSerializer()
