"""Refusals of the pool's services, each with what to do."""

from gainshare.accounts.errors import DomainError


class BadClass(DomainError):
    """A field of a class that cannot be used."""

    code = "invalid"
    status = 400


class NoSuchClass(DomainError):
    code = "not_found"
    status = 404


class ClassExists(DomainError):
    """The name is taken."""

    code = "class_exists"
    status = 409
