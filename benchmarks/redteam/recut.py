"""Cuts a diff again against the tree as it is today, keeping the header of its file.

Hunks are looked for where they have moved to, with `patch --merge`. What is not found stays as a conflict in a work
folder, to be resolved by hand; cutting continues from there. Only for our own patches: what contributors send is never moved.
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.patch.patches import Patch, PatchError, apply_patch, diff_trees, normalise, parse_patch
from benchmarks.patch.trees import BlobStore, Tree, read_tree, shipped_tree, write_tree
from benchmarks.redteam.patch_file import ROOT, read_all, read_patch_file, split_header
from benchmarks.redteam.rot import EXAMPLE_BASES

MARKERS = (b"<<<<<<<", b">>>>>>>")


class RecutFailed(RuntimeError):
    """A diff could not be cut again. The message says what to do."""


@dataclass(frozen=True)
class _Source:
    """A file with a diff: `base` is the diff that makes its base of the shipped tree, if one does."""

    path: Path
    header: bytes
    patch: Patch
    base: Path | None


def recut(
    name: str, *, against: Path | None = None, folder: Path | None = None, resume: bool = False
) -> Path:
    """Rewrite the diff called `name` (or lying at that path), and return its path.

    `against` is a folder with `model/` to cut it against, the shipped stack where it is None. With `resume` the files in
    `folder`, where an earlier attempt left its conflicts, are taken as resolved. Raises RecutFailed or PatchError.
    """
    source = _find(name)
    work = folder or Path(tempfile.mkdtemp(prefix="gainshare-recut-"))
    if resume and folder is None:
        raise RecutFailed("--resume needs the --folder that the earlier attempt named")
    store = BlobStore(work / "blobs")
    base = _base(source, against, store)
    new = work / "new"
    if not resume:
        shutil.rmtree(new, ignore_errors=True)
        write_tree(base, store, new)
        if not _merge(source.patch, new, work / "old.diff"):
            raise RecutFailed(
                f"{source.path.name} has conflicts in {new}: resolve them, then add --folder {work} --resume"
            )
    tree = read_tree(new, store)
    if unmended := [
        entry.path for entry in tree.entries if any(mark in store.get(entry.blob) for mark in MARKERS)
    ]:
        raise RecutFailed(f"{', '.join(unmended)} in {new} still has conflict markers: resolve them first")
    diff = diff_trees(base, tree, store)
    apply_patch(base, parse_patch(diff), store)
    source.path.write_bytes(source.header + diff.encode())
    if folder is None:
        shutil.rmtree(work)
    return source.path


def _find(name: str) -> _Source:
    path = Path(name)
    if path.suffix == ".diff":
        path = path if path.is_absolute() else ROOT / path
    else:
        found = [patch.path for patch in read_all() if patch.name == name]
        if not found:
            raise RecutFailed(f"there is no patch {name!r}: give its name or the path of a diff")
        path = found[0]
    header, diff = split_header(path.read_bytes())
    try:
        patch = parse_patch(diff)
    except PatchError as error:
        raise RecutFailed(f"{path.name} is not meant to be parsed ({error.code}): edit it by hand") from None
    if outside := [touched for touched in patch.paths if not touched.startswith("model/")]:
        raise RecutFailed(f"{path.name} touches {', '.join(outside)}: edit it by hand")
    return _Source(path, header, patch, _base_diff(path, has_header=bool(header)))


def _base_diff(path: Path, *, has_header: bool) -> Path | None:
    if has_header:
        base = read_patch_file(path).base
        return ROOT / base if base else None
    return next((base for base, patches in EXAMPLE_BASES if path.is_relative_to(patches)), None)


def _base(source: _Source, against: Path | None, store: BlobStore) -> Tree:
    tree = shipped_tree(store) if against is None else read_tree(against, store)
    if source.base is None:
        return tree
    try:
        return apply_patch(tree, parse_patch(source.base.read_bytes()), store)
    except PatchError as error:
        raise RecutFailed(f"cut {source.base.relative_to(ROOT)} again first: {error.message}") from None


def _merge(patch: Patch, folder: Path, diff: Path) -> bool:
    """Merge the hunks; False where some did not find their place and are conflicts in the files of `folder`."""
    tool = shutil.which("patch")
    if tool is None:
        raise RecutFailed("GNU patch is missing: install it (Debian: apt-get install patch)")
    diff.write_text(normalise(patch))
    options = ("-p1", "-f", "-s", "--merge", "--read-only=ignore", "--no-backup-if-mismatch")
    done = subprocess.run(
        [tool, *options, "-d", str(folder), "-i", str(diff)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode > 1:
        raise RecutFailed(f"patch: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.returncode == 0
