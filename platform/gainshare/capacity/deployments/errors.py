"""Errors of deployments."""

from __future__ import annotations

from gainshare.capacity.errors import CapacityError


class DeploymentUnderWay(CapacityError):
    """Another deployment of the model is not decided yet."""

    code = "deployment_under_way"


class NothingBefore(CapacityError):
    """No tree served the model before the one that serves now."""

    code = "nothing_before"


class NotThisCanary(CapacityError):
    """The document or report is not about a canary that this host runs now."""

    code = "not_this_canary"


class Decided(CapacityError):
    """The canary is decided; only the document that decided it may be sent again."""

    code = "already_decided"


class BadEvidence(CapacityError):
    """The document does not have the form, the signature or the content that its order asks for."""

    code = "bad_evidence"
    status = 422
