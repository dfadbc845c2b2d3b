"""Accounts, repositories and installations are made and changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from bounty.github.standin import git
from bounty.github.standin.actions import installations
from bounty.github.standin.actions.merges import signature
from bounty.github.standin.actions.pulls import branch_moved
from bounty.github.standin.git import Content
from bounty.github.standin.hub import Hub
from bounty.github.standin.records import Account, Installation, Repository

FIRST_FILES: Mapping[str, Content] = {"README.md": "Read me\n"}


class WorldControl:
    """Control of accounts, repositories, installations and time."""

    hub: Hub

    def add_user(self, login: str, *, email: str = "", kind: str = "User") -> Account:
        """A new account; an organization with ``kind="Organization"``."""
        with self.hub.state.lock:
            made = Account(self.hub.state.number("account"), login, kind, self.hub.state.now(), email)
            self.hub.state.accounts[made.github_id] = made
            return made

    def add_repository(
        self,
        full_name: str,
        files: Mapping[str, Content] = FIRST_FILES,
        *,
        roles: Mapping[str, str] | None = None,
        branch: str = "main",
        is_private: bool = False,
        message: str = "Begin",
    ) -> Repository:
        """A new repository with a first commit. Its owner and those with roles are made if they are not there."""
        login, _, name = full_name.partition("/")
        with self.hub.state.lock:
            owner = self.hub.state.account(login) or self.add_user(login)
            number = self.hub.state.number("repository")
            made = Repository(
                number,
                owner,
                name,
                self.hub.folder(number),
                self.hub.state.now(),
                branch,
                is_private=is_private,
            )
            git.init(made.folder, branch)
            self.hub.state.repositories[number] = made
            for who, role in (roles or {}).items():
                self.set_role(made, who, role)
            git.commit_files(
                made.folder, branch=branch, files=files, message=message, author=signature(owner),
                at=made.created_at, parent="",
            )  # fmt: skip
            return made

    def set_role(self, repository: Repository, login: str, role: str) -> None:
        """Give a user a role in a repository: admin, maintain, write, triage, read or none."""
        with self.hub.state.lock:
            account = self.hub.state.account(login) or self.add_user(login)
            if role == "none":
                repository.roles.pop(account.github_id, None)
            else:
                repository.roles[account.github_id] = role

    def fork(self, repository: Repository, login: str) -> Repository:
        """The user's fork of a repository, made if it is not there."""
        with self.hub.state.lock:
            owner = self.hub.state.account(login) or self.add_user(login)
            for known in self.hub.state.repositories.values():
                if known.owner is owner and known.parent is repository:
                    return known
            number = self.hub.state.number("repository")
            folder = self.hub.folder(number)
            git.fork(repository.folder, folder)
            made = Repository(
                number,
                owner,
                repository.name,
                folder,
                self.hub.state.now(),
                repository.default_branch,
                repository,
            )
            self.hub.state.repositories[number] = made
            return made

    def push(
        self,
        repository: Repository,
        files: Mapping[str, Content],
        *,
        by: Account | None = None,
        branch: str = "main",
        start: str | None = None,
        message: str = "Change",
    ) -> str:
        """Push a commit to a branch, by its owner if no one is named; the commit.

        The commit is made on `start`, the branch's tip without it; another start makes it a force push.
        """
        sender = by or repository.owner
        with self.hub.state.lock:
            before = git.ref(repository.folder, f"refs/heads/{branch}")
            made = git.commit_files(
                repository.folder, branch=branch, files=files, message=message, author=signature(sender),
                at=self.hub.state.now(), parent=before if start is None else start,
            )  # fmt: skip
            branch_moved(self.hub, repository, branch, before, made, sender)
            return made

    def reset_branch(
        self, repository: Repository, commit: str, *, by: Account | None = None, branch: str = "main"
    ) -> None:
        """Force a branch back, or to any other commit."""
        with self.hub.state.lock:
            name = f"refs/heads/{branch}"
            before = git.ref(repository.folder, name)
            git.set_ref(repository.folder, name, commit)
            branch_moved(self.hub, repository, branch, before, commit, by or repository.owner)

    def install(
        self, repositories: Sequence[Repository], *, permissions: dict[str, str] | None = None
    ) -> Installation:
        """Install the App for repositories of one owner; with ``permissions`` the owner accepts no others."""
        with self.hub.state.lock:
            return installations.install(self.hub, repositories[0].owner, list(repositories), permissions)

    def suspend(self, installation: Installation) -> None:
        with self.hub.state.lock:
            installations.suspend(self.hub, installation)

    def unsuspend(self, installation: Installation) -> None:
        with self.hub.state.lock:
            installations.unsuspend(self.hub, installation)

    def remove(self, installation: Installation) -> None:
        """Remove an installation for good."""
        with self.hub.state.lock:
            installations.remove(self.hub, installation)

    def set_permissions(self, installation: Installation, permissions: dict[str, str]) -> None:
        with self.hub.state.lock:
            installations.set_permissions(self.hub, installation, permissions)

    def open_to_app(self, installation: Installation, repository: Repository) -> None:
        """Add a repository to an installation."""
        with self.hub.state.lock:
            installations.add_repository(self.hub, installation, repository)

    def close_to_app(self, installation: Installation, repository: Repository) -> None:
        """Take a repository from an installation."""
        with self.hub.state.lock:
            installations.remove_repository(self.hub, installation, repository)

    def rename_user(self, account: Account, login: str) -> None:
        with self.hub.state.lock:
            installations.rename_user(self.hub, account, login)

    def rename_repository(self, repository: Repository, name: str) -> None:
        with self.hub.state.lock:
            installations.rename_repository(self.hub, repository, name)

    def sign_in(self, account: Account | None) -> None:
        """Who is signed in at the stand-in's web pages; None for no one."""
        with self.hub.state.lock:
            self.hub.state.signed_in = account

    def pass_time(self, **ahead: float) -> None:
        """Let the stand-in's time pass, in the words of `timedelta`: for what happens, for tokens and for limits."""
        with self.hub.state.lock:
            self.hub.state.pass_time(timedelta(**ahead))
