"""Binding lineages to repositories, and releasing them after a push that lost the tip. Maintainers only."""

from functools import partial

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from bounty.errors import BadRequest, NotFound, WrongState
from bounty.github.repositories.addresses import DEFAULT_FOLDER, BadAddress, Place, place
from bounty.github.repositories.following import mirror_of, pulls_mirror_of
from bounty.github.repositories.mirrors import remove
from bounty.models import Lineage, RepositoryBinding, RepositoryStop
from bounty.services.permissions import require_maintainer
from bounty.services.transitions import note
from bounty.services.wakeups import wake_fetch
from gainshare.accounts.models import User


def bind(
    *, actor: User, name: str, repository: str, branch: str, folder: str = DEFAULT_FOLDER
) -> RepositoryBinding:
    """Bind the lineage, in the place of an earlier binding, and have the repository fetched.

    Repeating it changes nothing. Raises NotAllowed, NotFound, BadRequest.
    """
    require_maintainer(actor, "bind a lineage to a repository")
    wanted = _place(repository, branch, folder)
    with transaction.atomic():
        lineage = _locked(name)
        old = RepositoryBinding.objects.filter(lineage=lineage).first()
        if old is None or Place(old.url, old.branch, old.folder) != wanted:
            if old is not None:
                _remove(old)
            binding = RepositoryBinding.objects.create(
                lineage=lineage, url=wanted.url, branch=wanted.branch, folder=wanted.folder, created_by=actor
            )
            note(lineage, old=lineage.tip_id, new=lineage.tip_id, reason=f"bound to {wanted}", actor=actor)
        else:
            binding = old
        wake_fetch(lineage=name)
    return binding


def unbind(*, actor: User, name: str) -> None:
    """End the binding; the tip stays. Raises NotAllowed, NotFound, and WrongState while the lineage is stopped."""
    require_maintainer(actor, "end a lineage's binding")
    with transaction.atomic():
        lineage = _locked(name)
        binding = find_binding(name)
        if lineage.standing_repository_stop is not None:
            raise WrongState(
                "The branch lost the lineage's tip. Release the lineage first, then end the binding."
            )
        _remove(binding)
        note(
            lineage,
            old=lineage.tip_id,
            new=lineage.tip_id,
            reason=f"no longer bound to {binding.where}",
            actor=actor,
        )


def find_binding(name: str) -> RepositoryBinding:
    """The lineage's binding; raises NotFound."""
    found = RepositoryBinding.objects.select_related("lineage").filter(lineage__name=name).first()
    if found is None:
        _find(name)
        raise NotFound(
            "This lineage is not bound to a repository. Bind it with `gainshare lineages bind`, or on its page."
        )
    return found


def ask_fetch(*, actor: User, name: str) -> RepositoryBinding:
    """Have the repository fetched now. Raises NotAllowed, NotFound."""
    require_maintainer(actor, "fetch a lineage's repository")
    binding = find_binding(name)
    wake_fetch(lineage=name)
    return binding


def release_repository_stop(*, actor: User, name: str, reason: str) -> RepositoryStop:
    """Release a lineage whose branch lost its tip: the branch is followed as it was seen last, or, where it has the tip
    again, as before. Merges that waited are done. Raises NotAllowed, NotFound, BadRequest, WrongState.
    """
    require_maintainer(actor, "release a lineage")
    if not reason.strip():
        raise BadRequest("Say why the branch may be followed again; the reason is kept with the stop.")
    with transaction.atomic():
        lineage = _locked(name)
        standing = RepositoryStop.objects.filter(lineage=lineage, released_at=None)
        stop = standing.first()
        released = {"released_at": timezone.now(), "released_by": actor, "release_reason": reason.strip()}
        if stop is None or not standing.filter(pk=stop.pk).update(**released):
            raise WrongState("This lineage is not stopped.")
        RepositoryBinding.objects.filter(lineage=lineage, commit=stop.lost_commit).update(
            commit=stop.found_commit, tree=None
        )
        note(
            lineage,
            old=lineage.tip_id,
            new=lineage.tip_id,
            reason=f"released: {reason.strip()}; the branch is followed from {stop.found_commit[:12]}",
            actor=actor,
        )
        wake_fetch(lineage=name)
        stop.refresh_from_db()
    return stop


def _place(repository: str, branch: str, folder: str) -> Place:
    try:
        return place(
            repository=repository.strip(),
            branch=branch.strip(),
            folder=folder.strip(),
            github_url=settings.GITHUB_URL,
            protocols=settings.REPOSITORY_PROTOCOLS,
        )
    except BadAddress as error:
        raise BadRequest(str(error)) from None


def _find(name: str) -> Lineage:
    lineage = Lineage.objects.filter(name=name).first()
    if lineage is None:
        raise NotFound("There is no such lineage. The page Lineages and `gainshare lineages list` list them.")
    return lineage


def _locked(name: str) -> Lineage:
    """The lineage, locked: bindings, stops and the tip change one after the other."""
    return Lineage.objects.select_for_update(no_key=True).get(pk=_find(name).pk)


def _remove(binding: RepositoryBinding) -> None:
    folders = [mirror_of(binding), pulls_mirror_of(binding)]
    binding.delete()
    for folder in folders:
        transaction.on_commit(partial(remove, folder))
