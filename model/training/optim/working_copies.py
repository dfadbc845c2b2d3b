"""bf16 copies of fp32 masters, which forward and backward passes use in the masters' place.

Autocast casts each master again in each pass, and each gradient back to fp32. A copy is cast once, by the optimiser
when it updates the master, and its bf16 gradient is read directly. Outside of `in_place` no module has a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.training.optim.precision import Place

_Mark = tuple[int, int]


class WorkingCopies:
    """The copies by master; each is made when first needed and dropped when no longer needed."""

    def __init__(self) -> None:
        self._copies: dict[nn.Parameter, _Copy] = {}

    def __len__(self) -> int:
        return len(self._copies)

    @contextmanager
    def in_place(self, places: Iterable[Place], *, adds_up: bool) -> Iterator[None]:
        """Context in which modules compute with copies of the given parameters, which start without gradients.

        `adds_up`: a copy's gradient is added to its master's at once, in fp32; without it there is a single backward
        pass, and the gradient stays with the copy. Both passes belong within: a backward pass that computes a layer
        again reads its weights again.
        """
        masters = [(place, _parameter(place)) for place in places]
        known = self._copies
        self._copies = {master: known.get(master) or _Copy(master) for _, master in masters}
        hooks = [self._add_as_it_comes(master) for master in self._copies if adds_up]
        try:
            for (module, name), master in masters:
                module._parameters[name] = self._copies[master].fresh(master)
            yield
        finally:
            for (module, name), master in masters:
                module._parameters[name] = master
            for hook in hooks:
                hook.remove()
        # A master that was used in addition to its copy has two gradients.
        self._add([master for master in self._copies if master.grad is not None])

    def weights(self, master: nn.Parameter) -> nn.Parameter | None:
        """The bf16 copy of a master, for an optimiser that updates both; None if there is none."""
        copy = self._copies.get(master)
        return None if copy is None else copy.weights

    def gradient(self, master: nn.Parameter) -> Tensor | None:
        """A master's gradient: its copy's, in bf16, unless `add_gradients` has taken it; else its own."""
        copy = self.weights(master)
        return master.grad if copy is None or copy.grad is None else copy.grad

    def note_moved(self, master: nn.Parameter) -> None:
        """Note that master and copy were updated together."""
        self._copies[master].seen = _mark(master)

    def note_masters_moved(self) -> None:
        """Note that masters may have been updated alone by torch's fused optimisers, which do not bump versions."""
        for copy in self._copies.values():
            copy.seen = None

    def add_gradients(self) -> None:
        """Adds the copies' gradients to their masters', in fp32."""
        self._add(self._copies)

    def clear_gradients(self) -> None:
        """Clear the gradients of the copies alone."""
        for copy in self._copies.values():
            copy.weights.grad = None

    def _add_as_it_comes(self, master: nn.Parameter) -> RemovableHandle:
        """Register the hook that adds a copy's gradient to its master's as soon as it exists, and frees it."""
        weights = self._copies[master].weights
        hook: RemovableHandle = weights.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            lambda _: self._add([master])
        )
        return hook

    @torch.no_grad()
    def _add(self, masters: Iterable[nn.Parameter]) -> None:
        for master in masters:
            copy = self._copies[master].weights
            gradient, copy.grad = copy.grad, None
            if gradient is None:
                continue
            if master.grad is None:
                master.grad = gradient.to(master.dtype)
            else:
                master.grad += gradient


class _Copy:
    """A copy: `weights` are the master's at its version `seen`."""

    def __init__(self, master: nn.Parameter) -> None:
        self.weights = nn.Parameter(master.detach().bfloat16())
        self.seen: _Mark | None = _mark(master)

    @torch.no_grad()
    def fresh(self, master: nn.Parameter) -> nn.Parameter:
        """The copy, cast again if the master was changed without `note_moved`, as by a restored state or an average."""
        self.weights.grad = None
        if self.seen != _mark(master):
            self.weights.copy_(master)
            self.seen = _mark(master)
        return self.weights


def _mark(master: nn.Parameter) -> _Mark:
    """Version mark that differs after torch changed the values or the memory. `master.data.mul_(2)` leaves no mark."""
    return master._version, master.data_ptr()


def _parameter(place: Place) -> nn.Parameter:
    module, name = place
    parameter = module._parameters[name]
    assert parameter is not None, f"{name} of {type(module).__name__} is no parameter"
    return parameter
