"""Trees that differ from the shipped one in a known way: not at all in what they compute, or by known redundant work.

The seam is `apply_experts` of `model/layers/moe/experts.py`: definitions are appended to that file, so that nothing here
depends on how it is written inside.
"""

from pathlib import Path

from benchmarks.patch.trees import BlobStore, shipped_tree, write_tree

EXPERTS, LAYER = "model/layers/moe/experts.py", "model/layers/moe/layer.py"
MOST_COLUMNS = 100_000

# One more matrix product of [T, D] by [D, columns], whose result no one reads, with rows of the experts' own weights:
# at most as many columns as all experts have hidden units.
_REDUNDANT = '''

_apply_experts_once = apply_experts


def apply_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
) -> Tensor:
    """The same answer, after a product of {columns} columns that no one reads."""
    F.linear(x_TD, w_up_EFD.flatten(0, 1)[:{columns}])
    return _apply_experts_once(x_TD, weights_TK, experts_TK, w_gate_EFD, w_up_EFD, w_down_EDF)
'''


def shipped_folder(parent: Path) -> Path:
    """The shipped tree, written below `parent`."""
    return _written(parent, "shipped")


def no_op_folder(parent: Path, number: int) -> Path:
    """A rebuilt no-op: other bytes, another hash, the same work. Even numbers move every line, odd ones add code."""
    folder = _written(parent, f"no-op-{number}")
    path = folder / LAYER
    text = path.read_text()
    if number % 2 == 0:
        head, brace, rest = text.partition("\nfrom __future__")
        if not brace:
            raise ValueError(
                f"{LAYER} does not import from __future__ any more: say here where a comment may stand"
            )
        text = f"{head}\n# No change in what is computed: rebuild {number}.{brace}{rest}"
    else:
        text += f"\n\ndef _unused_{number}(value: int) -> int:\n    return value * {number} + 1\n"
    _replace(path, text)
    return folder


def slower_folder(parent: Path, columns: int) -> Path:
    """The shipped tree with a redundant matrix product of so many columns before each use of the experts."""
    if not 0 < columns <= MOST_COLUMNS:
        raise ValueError(f"a product has 1 to {MOST_COLUMNS} columns")
    folder = _written(parent, f"slower-{columns}")
    path = folder / EXPERTS
    _replace(path, path.read_text() + _REDUNDANT.format(columns=columns))
    return folder


def _written(parent: Path, name: str) -> Path:
    folder = parent / name
    store = BlobStore(parent / "blobs")
    write_tree(shipped_tree(store), store, folder)
    return folder


def _replace(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text)
