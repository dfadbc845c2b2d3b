"""bf16 copies of fp32 masters, which forward and backward passes use in the masters' place.

Autocast casts each master again in each pass, and each gradient back to fp32. A copy is cast once, by the optimiser as
it moves the master, and its gradient is read as it came. Outside of `in_place` no one meets a copy.
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
    """By master; made when they are first wanted, gone when they are no longer."""

    def __init__(self) -> None:
        self._copies: dict[nn.Parameter, _Copy] = {}

    def __len__(self) -> int:
        return len(self._copies)

    @contextmanager
    def in_place(self, places: Iterable[Place], *, adds_up: bool) -> Iterator[None]:
        """Within it the modules compute with copies of their parameters of that name, which begin without gradients.

        `adds_up`: a copy's gradient goes to its master at once, in fp32; without it there is one backward pass alone, and
        it stays where it is. Both passes belong within: a backward pass that computes a layer again reads its weights again.
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
        # What somebody has used beside its copy has two gradients.
        self._add([master for master in self._copies if master.grad is not None])

    def weights(self, master: nn.Parameter) -> nn.Parameter | None:
        """The copy of it, bf16, for whoever moves both; None where there is none."""
        copy = self._copies.get(master)
        return None if copy is None else copy.weights

    def gradient(self, master: nn.Parameter) -> Tensor | None:
        """What the last passes found for it: its copy's, in bf16, unless `add_gradients` has taken it; or its own."""
        copy = self.weights(master)
        return master.grad if copy is None or copy.grad is None else copy.grad

    def note_moved(self, master: nn.Parameter) -> None:
        """Says that master and copy have been moved together."""
        self._copies[master].seen = _mark(master)

    def note_masters_moved(self) -> None:
        """Says that masters may have been moved alone, by what leaves no mark: torch's fused optimisers."""
        for copy in self._copies.values():
            copy.seen = None

    def add_gradients(self) -> None:
        """Adds the copies' gradients to their masters', in fp32."""
        self._add(self._copies)

    def clear_gradients(self) -> None:
        """Those of the copies alone."""
        for copy in self._copies.values():
            copy.weights.grad = None

    def _add_as_it_comes(self, master: nn.Parameter) -> RemovableHandle:
        """Which frees it before the next one comes."""
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
    """`weights` are the master's as of `seen`."""

    def __init__(self, master: nn.Parameter) -> None:
        self.weights = nn.Parameter(master.detach().bfloat16())
        self.seen: _Mark | None = _mark(master)

    @torch.no_grad()
    def fresh(self, master: nn.Parameter) -> nn.Parameter:
        """Cast again where another than `note_moved`'s caller has changed the master: a restored state, an average."""
        self.weights.grad = None
        if self.seen != _mark(master):
            self.weights.copy_(master)
            self.seen = _mark(master)
        return self.weights


def _mark(master: nn.Parameter) -> _Mark:
    """Differs once torch has changed the numbers, in place or by other memory. `master.data.mul_(2)` leaves no mark."""
    return master._version, master.data_ptr()


def _parameter(place: Place) -> nn.Parameter:
    module, name = place
    parameter = module._parameters[name]
    assert parameter is not None, f"{name} of {type(module).__name__} is no parameter"
    return parameter
