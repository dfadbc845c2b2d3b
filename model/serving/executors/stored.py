"""Weights that stay in their files until the compiled executor packs them, a layer at a time.

Files are mapped only while a layer needs them, because pages that were read count as this process's memory. Experts
that a file has one by one are never stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from model import hf
from model.checkpoint import WEIGHTS_FILE, CheckpointError, load_transformer, transformer_of
from model.hf.shards import describe_tensors, names_in, read_tensors
from model.hf.tensors import Located
from model.transformer import Transformer

LAYERS = ("layers.", "ahead.")  # prefixes of weights that are not the transformer's own


class StoredWeights:
    """Weights in their files: `transformer` has shapes and dtypes on the meta device, `whole` loads it with weights.

    The files were checked to have all weights with the configuration's shapes. `whole` raises CheckpointError,
    and UnsupportedModel for a folder of Hugging Face's.
    """

    def __init__(
        self,
        transformer: Transformer,
        located: Mapping[str, Located],
        files: Mapping[Path, Sequence[str]],
        whole: Callable[[], Transformer],
    ) -> None:
        self.transformer, self.whole = transformer, whole
        self.files = sorted(files)
        self._located = located
        self._file_of = {name: file for file, names in files.items() for name in names}
        self._is_described = False

    @property
    def file_bytes(self) -> int:
        """Bytes of the weights' files."""
        return sum(file.stat().st_size for file in self.files)

    def described(self) -> StoredWeights:
        """The same without reading: `filled` gives zeros of the files' shapes and dtypes, which take no memory."""
        found = copy(self)
        found._is_described = True
        return found

    @contextmanager
    def filled(self, module: nn.Module, prefix: str = "") -> Iterator[Mapping[str, Sequence[Tensor]]]:
        """Context in which `module`, whose names begin with `prefix`, has its weights; afterwards they are freed.

        An empty prefix means the transformer's own weights, without its layers'. It yields experts that files have one
        by one, by their stack's name in the module, which stays unfilled. A weight keeps the dtype that it has in the
        file where the model's is wider. Raises CheckpointError for files that were damaged or replaced meanwhile.
        """
        stacks, whole = self._read(module, prefix)
        shapes = {name: _weight(module, name) for name in whole}
        try:
            for name in shapes:
                _set_weight(module, name, whole.pop(name))
            yield stacks
        finally:
            stacks.clear()
            for name, shape in shapes.items():
                _set_weight(module, name, shape)

    def _read(self, module: nn.Module, prefix: str) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
        """Mapped weights by their name in the module: stacks of separate experts, and all others."""
        names = [name for name in self._located if name.startswith(prefix)]
        if not prefix:
            names = [name for name in names if not name.startswith(LAYERS)]
        read = self._described if self._is_described else self._mapped
        found = read([self._located[name] for name in names])
        stacks: dict[str, list[Tensor]] = {}
        whole: dict[str, Tensor] = {}
        for name in names:
            weight = _weight(module, name.removeprefix(prefix))
            tensors = [found.pop(part) for part in self._located[name].names]
            is_apart = tensors[0].dim() < weight.dim()
            expected = weight.shape[1:] if is_apart else weight.shape
            if any(tensor.shape != expected for tensor in tensors):
                raise CheckpointError(f"the file of {name} changed while it was loaded: load the model again")
            tensors = [_narrowed(tensor, weight.dtype) for tensor in tensors]
            if is_apart:
                stacks[name.removeprefix(prefix)] = tensors
            else:
                whole[name.removeprefix(prefix)] = tensors[0]
        return stacks, whole

    def _mapped(self, places: Iterable[Located]) -> dict[str, Tensor]:
        """Mapped tensors by their names in the files."""
        names = {name for place in places for name in place.names}
        files: dict[Path, list[str]] = {}
        for name in names:
            files.setdefault(self._file_of[name], []).append(name)
        return dict(read_tensors(files, names))

    @staticmethod
    def _described(places: Iterable[Located]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for place in places:
            shape = place.shape if len(place.names) == 1 else place.shape[1:]
            # not on the meta device: joining tensors there imports torch's symbolic shapes, as in `give_up`
            zeros = torch.zeros((), dtype=place.dtype).expand(shape)
            found |= dict.fromkeys(place.names, zeros)
        return found


def open_ours(folder: Path, dtype: torch.dtype | None) -> StoredWeights:
    """Open a model folder of ours, its blocks in `dtype`, None for the stored one. Raises CheckpointError."""
    file = folder / WEIGHTS_FILE
    files = {file: names_in(file)}
    state = dict(describe_tensors(files, files[file]))
    transformer = transformer_of(folder, state, dtype)
    located = {name: Located(tensor.shape, (name,), tensor.dtype) for name, tensor in state.items()}
    return StoredWeights(transformer, located, files, partial(load_transformer, folder, dtype))


def open_hugging_face(folder: Path, dtype: torch.dtype | None) -> StoredWeights:
    """Open a Hugging Face folder in the same way. Raises CheckpointError or UnsupportedModel."""
    config, located, files = hf.locate(folder)

    def of(state: Mapping[str, Tensor]) -> Transformer:
        transformer = hf.to_transformer(config, state).requires_grad_(False)
        return transformer.cast_blocks(dtype or transformer.dtype)

    return StoredWeights(of(_without_numbers(located)), located, files, lambda: of(hf.load(folder)[1]))


def _without_numbers(located: Mapping[str, Located]) -> dict[str, Tensor]:
    return {
        name: torch.empty(place.shape, dtype=place.dtype, device="meta") for name, place in located.items()
    }


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to `dtype` if it is narrower; widening changes no values, and packing does it if needed."""
    return tensor if torch.promote_types(tensor.dtype, dtype) == dtype else tensor.to(dtype)


def _weight(module: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    weight: Tensor = getattr(module.get_submodule(owner), leaf)
    return weight


def _set_weight(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    is_parameter = isinstance(getattr(owner, leaf), nn.Parameter)
    setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
