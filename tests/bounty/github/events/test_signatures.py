"""Signatures of deliveries: GitHub's own example, two secrets, and forgeries."""

import pytest

from bounty.github.events.signatures import is_signed, signature


def test_the_example_of_githubs_documentation() -> None:
    header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert signature(b"Hello, World!", "It's a Secret to Everybody") == header
    assert is_signed(b"Hello, World!", header=header, secrets=["It's a Secret to Everybody"])


def test_either_secret_signs_while_it_is_renewed() -> None:
    for secret in ("old", "new"):
        assert is_signed(b"{}", header=signature(b"{}", secret), secrets=["new", "old"])
    assert not is_signed(b"{}", header=signature(b"{}", "old"), secrets=["new"])


@pytest.mark.parametrize(
    "header",
    [
        "",
        "sha256=",
        "sha1=" + "0" * 40,
        "sha256=" + "0" * 64,
        signature(b"{} ", "s"),
        signature(b"{}", "s").upper(),
        signature(b"{}", "s") + "\n",
        signature(b"{}", "s").replace("sha256=", "sha512="),
        "sha256=" + "é" * 64,
        signature(b"{}", ""),
    ],
)
def test_a_forged_signature_is_none(header: str) -> None:
    assert not is_signed(b"{}", header=header, secrets=["s"])


def test_without_a_secret_nothing_is_signed() -> None:
    assert not is_signed(b"{}", header=signature(b"{}", ""), secrets=[])
