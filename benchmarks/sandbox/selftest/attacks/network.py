"""Tries to reach the host, the outside and other sandboxes over sockets."""

from __future__ import annotations

import errno
import socket
from typing import Any

from .attempt import Refused, Targets, attack, main

TIMEOUT_S = 1.0
VSOCK_HOST = 2
PORT = 1024


def _greet(family: int, address: Any) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(address)
        return client.recv(64).decode(errors="replace") or "connected"


@attack
def tcp_to_host(targets: Targets) -> str | None:
    return _greet(socket.AF_INET, ("127.0.0.1", targets["tcp_port"]))


@attack
def tcp_to_host_addresses(targets: Targets) -> str | None:
    """The host under its own addresses, as a container's would be reached over a bridge."""
    for address in targets["addresses"]:
        try:
            return f"{address}: {_greet(socket.AF_INET, (address, targets['tcp_port']))}"
        except OSError:
            continue
    return None


@attack
def packets_outside(targets: Targets) -> str | None:
    """A datagram to an address that is routed nowhere here (192.0.2.0/24 is reserved for documentation)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        sent = client.sendto(b"x", ("192.0.2.1", 9))
    return f"{sent} bytes went out"


@attack
def abstract_socket(targets: Targets) -> str | None:
    """Abstract unix sockets are bound to the network namespace, not to the file system."""
    return _greet(socket.AF_UNIX, "\0" + targets["abstract_socket"])


@attack
def socket_file(targets: Targets) -> str | None:
    """A unix socket in the host's file system, as a database or broker would listen on."""
    return _greet(socket.AF_UNIX, targets["socket_path"])


@attack
def vsock_to_hypervisor(targets: Targets) -> str | None:
    """vsock leaves a virtual machine past every namespace."""
    family = getattr(socket, "AF_VSOCK", 40)
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT_S)
        try:
            client.connect((VSOCK_HOST, PORT))
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise Refused(errno.ENODEV, "this machine has no hypervisor to talk to") from error
        return "the family is open"


@attack
def raw_packets(targets: Targets) -> str | None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)):
        return "a packet socket was opened"


@attack
def kernel_crypto_sockets(targets: Targets) -> str | None:
    """AF_ALG: a large kernel interface that nothing here needs."""
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET):
        return "a crypto socket was opened"


@attack
def netlink(targets: Targets) -> str | None:
    """Kernel events and configuration of the network."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0):
        return "a netlink socket was opened"


if __name__ == "__main__":
    main()
