"""Shards: what is written is read, without copies, and damage anywhere is an error that names the file."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.arrow.manifest import MANIFEST_FILE, Record, load_manifest
from model.data.arrow.shards import ShardedDocuments
from model.data.arrow.writer import TokenisedDocument, write_shards
from model.data.errors import DataError, ShardError

pytestmark = pytest.mark.slow

AGAIN = "build the data again with `python -m model.data build`"


def record(number: int, n_bytes: int = 10) -> Record:
    return Record(
        f"corpus-{number % 2}", f"licence-{number % 2}", f"place/{number}", f"{number:064x}", n_bytes
    )


def document(number: int, size: int, vocab_size: int = 1000) -> TokenisedDocument:
    ids = np.random.default_rng(number).integers(0, vocab_size, size).tolist()
    answers = ((1, size),) if number % 3 == 0 and size > 1 else ()
    if number % 2 and size > 6:
        answers = ((1, 2), (3, size - 2), (size - 1, size))
    return TokenisedDocument(record(number), ids, answers)


def write(
    folder: Path, documents: list[TokenisedDocument], vocab_size: int = 1000, shard_tokens: int = 50
) -> ShardedDocuments:
    with write_shards(
        folder, name="test", tokenizer_sha256="t" * 64, vocab_size=vocab_size, shard_tokens=shard_tokens
    ) as writer:
        for each in documents:
            writer.add(each)
    return ShardedDocuments(folder)


DOCUMENTS = [document(number, 1 + 7 * number % 40) for number in range(20)]


@pytest.fixture
def shards(tmp_path: Path) -> ShardedDocuments:
    return write(tmp_path / "data", DOCUMENTS)


def read_all(documents: ShardedDocuments) -> list[list[int]]:
    return [documents.tokens(number).tolist() for number in range(len(documents))]


def test_documents_come_back_as_they_were(shards: ShardedDocuments) -> None:
    assert len(shards) == len(DOCUMENTS)
    assert len(shards.manifest.shards) > 5
    for number, expected in enumerate(DOCUMENTS):
        assert shards.tokens(number).tolist() == list(expected.ids)
        assert shards.answers(number) == expected.answers
        assert shards.record(number) == expected.record
    assert shards.lengths.tolist() == [len(each.ids) for each in DOCUMENTS]
    shards.verify()


@pytest.mark.parametrize(("vocab_size", "kind"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_ids_take_as_few_bytes_as_the_vocabulary_allows(
    tmp_path: Path, vocab_size: int, kind: type[np.unsignedinteger]
) -> None:
    ids = [0, vocab_size - 1, 7]
    documents = write(tmp_path / "data", [TokenisedDocument(record(0), ids)], vocab_size)
    assert documents.tokens(0).dtype == kind and documents.tokens(0).tolist() == ids


def test_tokens_are_views_of_the_mapped_file(shards: ShardedDocuments) -> None:
    before = pa.total_allocated_bytes()
    views = [shards.tokens(number) for number in range(len(shards))]
    assert pa.total_allocated_bytes() == before
    assert not any(view.flags.owndata or view.flags.writeable for view in views)
    with pytest.raises(ValueError, match="read-only"):
        views[0][0] = 1
    with pytest.raises(ValueError, match="read-only"):
        shards.lengths[0] = 1


def test_the_manifest_adds_up(shards: ShardedDocuments) -> None:
    manifest = load_manifest(shards.folder)
    assert manifest == shards.manifest
    assert manifest.n_documents == 20
    assert manifest.n_tokens == sum(len(each.ids) for each in DOCUMENTS)
    assert manifest.n_bytes == 200
    for parity in (0, 1):
        totals = manifest.corpora[f"corpus-{parity}"]
        assert (totals.licence, totals.n_documents) == (f"licence-{parity}", 10)
        assert totals.n_tokens == sum(len(each.ids) for each in DOCUMENTS[parity::2])
    assert all(shard.n_tokens >= 50 for shard in manifest.shards[:-1])


def test_equal_documents_give_equal_files_wherever_they_are(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a", DOCUMENTS), write(tmp_path / "b", DOCUMENTS)
    assert one.fingerprint == other.fingerprint
    assert (tmp_path / "a" / MANIFEST_FILE).read_bytes() == (tmp_path / "b" / MANIFEST_FILE).read_bytes()
    changed = [*DOCUMENTS[:-1], TokenisedDocument(record(19), [1, 2])]
    assert write(tmp_path / "c", changed).fingerprint != one.fingerprint
    assert write(tmp_path / "d", DOCUMENTS[::-1]).fingerprint != one.fingerprint


def test_documents_outside_are_refused(shards: ShardedDocuments) -> None:
    for number in (-1, 20):
        with pytest.raises(IndexError, match="has 20"):
            shards.tokens(number)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (TokenisedDocument(record(1), []), "at least one"),
        (TokenisedDocument(record(1), [1, 1000]), r"ids must be 0\.\.999"),
        (TokenisedDocument(record(1), [-1]), r"ids must be 0\.\.999"),
        (TokenisedDocument(record(1), [1, 2], ((1, 3),)), "are outside of 2 tokens"),
        (TokenisedDocument(record(1), [1, 2], ((1, 1),)), "are outside of 2 tokens"),
    ],
)
def test_bad_documents_are_refused_and_leave_no_folder(
    tmp_path: Path, bad: TokenisedDocument, reason: str
) -> None:
    with pytest.raises(ValueError, match=rf"place/1: .*{reason}"):
        write(tmp_path / "data", [DOCUMENTS[0], bad])
    assert list(tmp_path.iterdir()) == []


def test_a_source_has_one_licence(tmp_path: Path) -> None:
    other = Record("corpus-0", "another", "place/x", "0" * 64, 1)
    with pytest.raises(ValueError, match="corpus-0 has two licences"):
        write(tmp_path / "data", [DOCUMENTS[0], TokenisedDocument(other, [1, 2])])


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test has no documents"):
        write(tmp_path / "data", [])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "data"
    write(folder, DOCUMENTS, shard_tokens=10_000)
    return folder


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_before_a_wrong_token_is_read(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flipped") / "data"
    shutil.copytree(pristine, folder)
    file = folder / "00000.arrow"
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    try:
        documents = ShardedDocuments(folder)
        tokens = read_all(documents)
    except ShardError as error:
        assert str(file) in str(error) and AGAIN in str(error)
    else:
        assert tokens == [list(each.ids) for each in DOCUMENTS]  # it hit no token and no length
        with pytest.raises(ShardError, match=r"00000\.arrow is damaged: its sha256"):
            documents.verify()
    finally:
        shutil.rmtree(folder.parent)


def test_wrong_tokens_are_found_when_they_are_read(pristine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(pristine, folder)
    file = folder / "00000.arrow"
    wanted = np.array(DOCUMENTS[11].ids, np.uint16).tobytes()
    content = file.read_bytes()
    assert content.count(wanted) == 1
    start = content.index(wanted)
    file.write_bytes(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :])
    documents = ShardedDocuments(folder)
    assert documents.tokens(10).tolist() == list(DOCUMENTS[10].ids)
    for _ in range(2):
        with pytest.raises(
            ShardError, match=r"00000\.arrow is damaged: the tokens of its document 11 are not"
        ):
            documents.tokens(11)


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_truncated_shard_is_named(shards: ShardedDocuments, size: int) -> None:
    file = shards.folder / shards.manifest.shards[2].file
    content = file.read_bytes()
    file.write_bytes(content[:size])
    with pytest.raises(
        ShardError, match=r"00002\.arrow is damaged: it has [\d,]+ bytes instead of [\d,]+; build"
    ):
        ShardedDocuments(shards.folder)


def test_a_shard_that_is_cut_off_while_it_is_read_is_named(shards: ShardedDocuments) -> None:
    """In a process of its own: reading behind the end of a mapped file would be its end."""
    code = f"""
import os
from pathlib import Path
from model.data.errors import ShardError
from model.data.arrow.shards import ShardedDocuments
documents = ShardedDocuments(Path({str(shards.folder)!r}))
last = len(documents) - 1
documents.tokens(last), documents.record(last)
file = documents.folder / documents.manifest.shards[-1].file
os.truncate(file, 0)
documents.answers(last)
for read in (documents.tokens, documents.record):
    try:
        read(last)
    except ShardError as error:
        print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    file = shards.folder / shards.manifest.shards[-1].file
    assert ended.stdout.count(f"{file} is damaged: it was truncated from ") == 2


def test_a_file_of_the_right_size_that_is_no_shard_is_named(shards: ShardedDocuments) -> None:
    file = shards.folder / "00001.arrow"
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(ShardError, match=r"00001\.arrow is damaged: .*; build"):
        ShardedDocuments(shards.folder)


def test_a_missing_shard_is_named(shards: ShardedDocuments) -> None:
    (shards.folder / "00003.arrow").unlink()
    for use in (lambda: ShardedDocuments(shards.folder), shards.verify):
        with pytest.raises(ShardError, match=r"00003\.arrow is missing: build"):
            use()


def test_a_shard_of_other_data_is_refused(shards: ShardedDocuments, tmp_path: Path) -> None:
    with write_shards(tmp_path / "b", name="test", tokenizer_sha256="u" * 64, vocab_size=1000) as writer:
        for each in DOCUMENTS:
            writer.add(each)
    file = shutil.copy(tmp_path / "b" / "00000.arrow", shards.folder / "00000.arrow")
    manifest = json.loads((shards.folder / MANIFEST_FILE).read_text())
    manifest["shards"][0]["size_bytes"] = Path(file).stat().st_size
    (shards.folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="its schema or tokenizer differs from the manifest's"):
        ShardedDocuments(shards.folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": 3}, "name must be text"),
        ({"vocab_size": "many"}, "vocab_size must be a whole number"),
        ({"shards": []}, "it lists no shard"),
        ({"shards": [{"file": 0}]}, "missing 4 required"),
        (
            {"shards": [dict.fromkeys(("file", "n_documents", "n_tokens", "size_bytes", "sha256"), "x")]},
            "n_documents",
        ),
        (
            {"corpora": {"a": {"licence": "x", "n_documents": 1, "n_tokens": 1, "n_bytes": 0.5}}},
            "n_bytes must",
        ),
        ({"corpora": []}, "items"),
    ],
)
def test_values_of_a_manifest_have_their_types(
    shards: ShardedDocuments, change: dict[str, object], reason: str
) -> None:
    file = shards.folder / MANIFEST_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ShardError, match=rf"manifest.json is damaged: .*{reason}"):
        load_manifest(shards.folder)


def test_a_folder_without_manifest_is_unfinished(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ShardError, match=r"has no finished data: manifest\.json is missing; build"):
            ShardedDocuments(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("\udcff", "is damaged"),
        ('{"format": "gainshare.data/0"}', "of another version"),
        ('{"format": "gainshare.data/1", "shards": []}', "is damaged"),
        ('{"format": "gainshare.data/1", "shards": [{}], "corpora": {}}', "is damaged"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ShardError, match=rf"manifest\.json .*{reason}.*"):
        load_manifest(tmp_path)


KILLED = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from model.data.arrow.manifest import Record
    from model.data.arrow.writer import TokenisedDocument, write_shards

    with write_shards(Path(sys.argv[1]), name="n", tokenizer_sha256="t", vocab_size=9, shard_tokens=10) as writer:
        for number in range(10**9):
            writer.add(TokenisedDocument(Record("c", "l", str(number), "0" * 64, 1), [1, 2, 3, 4]))
            if number == 100:
                print("writing", flush=True)
    """
)


def test_a_killed_writer_leaves_no_shard(tmp_path: Path) -> None:
    target = tmp_path / "data"
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert not target.exists()
    assert len(list(tmp_path.glob(".data.new-*/*.arrow"))) > 1  # it was in the middle of it
    with pytest.raises(ShardError, match="has no finished data"):
        ShardedDocuments(target)
    assert read_all(write(target, DOCUMENTS)) == [list(each.ids) for each in DOCUMENTS]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


FULL = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    from model.data.arrow.manifest import Record
    from model.data.arrow.writer import TokenisedDocument, write_shards

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    with write_shards(Path(sys.argv[1]), name="n", tokenizer_sha256="t", vocab_size=9) as writer:
        for number in range(100):
            writer.add(TokenisedDocument(Record("c", "l", str(number), "0" * 64, 1), [1] * 400))
    """
)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """The largest file that a process may write stands for the disk."""
    arguments = [sys.executable, "-c", FULL, str(tmp_path / "data")]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "OSError" in ended.stderr and "File too large" in ended.stderr
    assert list(tmp_path.iterdir()) == []
