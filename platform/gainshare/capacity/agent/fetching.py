"""Fetches a deployed tree from the site, and checks all of it: nothing that the site sends is believed.

A tree's name is the hash of its manifest, which names each file's bytes by their hash. So a wrong answer can make a fetch
fail, and cannot make it another tree.
"""

from __future__ import annotations

import asyncio
import json

from benchmarks.patch.blobs import BlobStore, TreeError, sha256_hex
from benchmarks.patch.deployable import check_deployable
from benchmarks.patch.policy import load_policy
from benchmarks.patch.trees import MAX_FILE_BYTES, Tree, shipped_tree
from gainshare.capacity.agent.protocol import BLOB_PATH, TREE_PATH
from gainshare.capacity.agent.site import Site

MAX_MANIFEST_BYTES = 2 << 20
MAX_FETCHED_BYTES = 64 << 20  # of files that differ from the installed ones


async def fetch_tree(site: Site, name: str, store: BlobStore) -> Tree:
    """The tree whose hash is `name`, its blobs put into `store`; files equal to installed ones are not asked for.

    Raises TreeError, PolicyViolation, OSError, and what `Site.get` raises.
    """
    body = await site.get(TREE_PATH.format(tree=name), MAX_MANIFEST_BYTES)
    tree, missing = await asyncio.to_thread(_read, body, name, store)
    left_bytes = MAX_FETCHED_BYTES
    for blob in missing:
        data = await site.get(BLOB_PATH.format(sha256=blob), MAX_FILE_BYTES)
        left_bytes -= len(data)
        if left_bytes < 0:
            raise TreeError(
                "too_large", f"The files of the tree have more than {MAX_FETCHED_BYTES} bytes in all."
            )
        if sha256_hex(data) != blob:
            raise TreeError("damaged_blob", f"The site sent other bytes than those of the file {blob[:12]}.")
        await asyncio.to_thread(store.put, data)
    return tree


def _read(body: bytes, name: str, store: BlobStore) -> tuple[Tree, list[str]]:
    """The checked tree of a manifest, and the blobs that it needs in addition to the installed ones."""
    try:
        tree = Tree.from_manifest(json.loads(body))
    except (ValueError, RecursionError) as error:
        if isinstance(error, TreeError):
            raise
        raise TreeError("bad_manifest", "The site's manifest of the tree is not JSON.") from None
    if tree.hash != name:
        raise TreeError("bad_manifest", f"The site sent a manifest of another tree, {tree.hash[:12]}.")
    installed = shipped_tree(store)
    check_deployable(tree, installed, load_policy())
    have = {entry.blob for entry in installed.entries}
    return tree, sorted({entry.blob for entry in tree.entries} - have)
