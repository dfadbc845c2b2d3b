"""A blob store that keeps what is put into it in memory, until it is known that it shall be kept."""

from benchmarks.patch.blobs import BlobStore, sha256_hex


class StagedBlobs(BlobStore):
    """New blobs in memory, in front of a store; `write` puts them into it. Reads see both."""

    def __init__(self, behind: BlobStore) -> None:
        super().__init__(behind.root)
        self._behind = behind
        self._new: dict[str, bytes] = {}

    def has(self, sha256: str) -> bool:
        """True if the blob is staged or stored."""
        return sha256 in self._new or self._behind.has(sha256)

    def put(self, data: bytes) -> str:
        """Stage `data` and return its SHA-256. Also what is stored already, which `write` then keeps alive."""
        name = sha256_hex(data)
        self._new[name] = data
        return name

    def get(self, sha256: str) -> bytes:
        """The blob's bytes; raises TreeError `missing_blob` or `damaged_blob`."""
        return self._new[sha256] if sha256 in self._new else self._behind.get(sha256)

    def write(self) -> None:
        """Store every staged blob durably. May be repeated."""
        for data in self._new.values():
            self._behind.put(data)
