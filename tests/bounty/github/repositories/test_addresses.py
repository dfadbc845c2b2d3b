"""Which repositories, branches and folders can be bound."""

import pytest

from bounty.github.repositories.addresses import BadAddress, Place, place

GITHUB = "https://github.com"


def at(repository: str = "gain/share", branch: str = "main", folder: str = "model") -> Place:
    return place(repository=repository, branch=branch, folder=folder, github_url=GITHUB, protocols=["https"])


def test_owner_and_name_are_at_github() -> None:
    assert at().url == "https://github.com/gain/share.git"


@pytest.mark.parametrize(
    "url", ["https://git.example.org/a/b.git", "https://example.org:8443/a", "https://example.org/~a/b/"]
)
def test_a_plain_address_is_taken(url: str) -> None:
    assert at(url).url == url.removesuffix("/")


@pytest.mark.parametrize(
    "url",
    [
        "", "gain", "gain/share/more", "--upload-pack=touch /tmp/x", "-x/y", "gain/--upload-pack=x",
        "file:///etc", "/etc", "../x", "ext::sh -c touch% /tmp/x", "ext::sh", "git://h/a", "ssh://h/a", "h:a/b",
        "http://example.org/a", "https://-oProxyCommand=x/a", "https://me:secret@example.org/a",
        "https://example.org", "https://example.org/", "https://example.org/a?b", "https://example.org/a#b",
        "https://example.org/../a", "https://example.org/a b", "https://example.org/a\nb",
        "https://example.org/%2e%2e/a", "https://example.org/-a", "https://example.org:x/a", "https://[::1/a",
        "https://example.org/a;touch", "https://example.org/$(id)", "https://ex\u0430mple.org/a",
        "https://example.org/" + 300 * "a", "fd::7", "transport::https://example.org/a",
    ],
)  # fmt: skip
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(BadAddress):
        at(url)


@pytest.mark.parametrize(
    "branch", ["main", "a/b", "v1.2", "release-3", "a;b", "$(id)", "`id`", "a|b&c", "'\"", "x@y"]
)
def test_a_branch_that_git_allows_is_taken(branch: str) -> None:
    assert at(branch=branch).branch == branch


@pytest.mark.parametrize(
    "branch",
    [
        "", "-x", "--upload-pack=x", "a b", "a..b", "a:b", "a^", "a~1", "a*", "a?", "[a", "a\\b", "/a", "a/", "a//b",
        ".a", "a/.b", "a.lock", "a.lock/b", "a.", "@", "HEAD", "a@{1}", "a\n", "a\0", "\u202emain", 201 * "a",
    ],
)  # fmt: skip
def test_any_other_branch_is_refused(branch: str) -> None:
    with pytest.raises(BadAddress):
        at(branch=branch)


@pytest.mark.parametrize("folder", ["", "/", "../x", "/model", "a//b", ".git", "a\nb", "-x", "a:b", "."])
def test_a_folder_that_no_tree_could_have_is_refused(folder: str) -> None:
    with pytest.raises(BadAddress):
        at(folder=folder)
