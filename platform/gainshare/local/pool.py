"""The pool of an elastic local stack: one class, this machine as its host, the served model, and a first order."""

from __future__ import annotations

from pathlib import Path

from django.db.models import Q
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.capacity.deployments.serving import ordered_tree
from gainshare.capacity.hosts.registration import register_host, renew_token
from gainshare.capacity.hosts.tokens import authenticate_host
from gainshare.capacity.models import LIVE, DeviceClass, Host, Node, NodeState, ServedModel
from gainshare.local.secrets import read_secret, write_secret

CLASS, HOST, ADDRESS = "local", "local", "127.0.0.1"


def ensure_pool(admin: User, model: str, token_file: Path, *, has_node: bool = True) -> None:
    """Make what is missing of the pool, and order one node if none is. Called before the agent of the stack starts.

    Without ``has_node`` no node is ordered, nor wanted of a model that is new to the pool, until a maintainer wants one.
    """
    device_class, _ = DeviceClass.objects.get_or_create(name=CLASS, defaults={"description": "This machine."})
    defaults = {"fixed_nodes": 1 if has_node else 0}
    served, is_new = ServedModel.objects.get_or_create(name=model, defaults=defaults)
    if is_new:
        served.classes.add(device_class)
    host = _ensure_host(admin, token_file)
    _end_former(host)
    if not has_node:
        return
    Node.objects.create(
        host=host,
        device=0,
        model=model,
        tree=ordered_tree(model),
        reason="the first node of the local stack",
        price_microcredits_per_device_hour=device_class.price_microcredits_per_device_hour,
    )


def _ensure_host(admin: User, token_file: Path) -> Host:
    """This machine's host, whose token is in the file; a lost token is renewed, a revoked host gets a successor."""
    host = authenticate_host(read_secret(token_file)) if token_file.exists() else None
    if host is not None:
        return host
    own = Host.objects.filter(name__regex=rf"^{HOST}(-[0-9]+)?$")
    usable = own.filter(revoked_at=None).first()
    if usable is not None:
        host, token = renew_token(actor=admin, name=usable.name)
    else:
        name = f"{HOST}-{own.count() + 1}" if own.exists() else HOST
        host, token = register_host(actor=admin, name=name, device_class=CLASS, address=ADDRESS)
    write_secret(token_file, token)
    return host


def _end_former(host: Host) -> None:
    """End the nodes of the stack's former run: its supervisor has ended their processes."""
    former = Node.objects.filter(Q(state__in=LIVE) | Q(holds_device=True), host=host)
    reason = "the local stack was started again"
    former.filter(state__in=LIVE).update(state=NodeState.ENDED, ended_at=timezone.now(), end_reason=reason)
    former.update(holds_device=False)
