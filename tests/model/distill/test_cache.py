"""A teacher's answers on disk: found however the text is packed, resumed however a run ended, refused where wrong."""

from __future__ import annotations

import fcntl
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from model.data.batches.batch import IGNORED, PADDING, Batch
from model.distill import CachedTeacher, CacheError, LiveTeacher, TopK, precompute, top_k_of
from model.distill.cache import digest_of, pieces_of
from model.presets import PRESETS
from model.transformer import Transformer

pytestmark = pytest.mark.slow

CONFIG = replace(PRESETS["tiny"], name="teacher", vocab_size=40, n_layers=1)
TOKENIZER = "a" * 64
K, TEMPERATURE = 6, 2.0
DOCUMENTS = [torch.arange(n) * (n + 3) % 40 for n in (5, 9, 3, 12, 7, 16, 2, 1)]


def teacher_of(seed: int = 0) -> LiveTeacher:
    torch.manual_seed(seed)
    return LiveTeacher(Transformer(CONFIG), tokenizer=TOKENIZER)


def packed(rows: list[list[int]], width: int = 20, scored_from: int = 0) -> Batch:
    """Rows of documents by number; targets are the next token, from position `scored_from` of a document on."""
    shape = (len(rows), width)
    tokens, positions = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    documents, targets = torch.full(shape, PADDING), torch.full(shape, IGNORED)
    for row, numbers in enumerate(rows):
        start = 0
        for place, number in enumerate(numbers):
            text = DOCUMENTS[number]
            stop = start + len(text)
            tokens[row, start:stop], positions[row, start:stop] = text, torch.arange(len(text))
            documents[row, start:stop] = place
            targets[row, start + scored_from : stop - 1] = text[1 + scored_from :]
            start = stop
    return Batch(tokens, positions, documents, targets)


ONE_WAY = [packed([[0, 1, 2], [3, 4]]), packed([[5, 6], [7]])]
OTHER_WAY = packed([[4, 2], [7, 0, 6], [5], [1], [3]])


def live(teacher: LiveTeacher, batch: Batch) -> TopK:
    return top_k_of(teacher.distributions(batch), K, TEMPERATURE)


def assert_same(found: TopK, expected: TopK) -> None:
    """Within 16 bits: 11 bits of a logarithm, whose size is that of the rarest token asked for."""
    assert torch.equal(found.ids_NK, expected.ids_NK)
    size = float(expected.log_p_NK.abs().max())
    for ours, theirs in ((found.log_p_NK, expected.log_p_NK), (found.log_rest_N, expected.log_rest_N)):
        assert (ours - theirs).abs().max() <= size * 2**-10
    total = found.log_p_NK.exp().sum(-1) + found.log_rest_N.exp()
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.fixture
def cached(tmp_path: Path) -> CachedTeacher:
    done = precompute(
        tmp_path / "cache", teacher_of(), ONE_WAY, k=K, temperature=TEMPERATURE, shard_tokens=20
    )
    assert (done.n_computed, done.n_known) == (55, 0)
    return CachedTeacher.open(tmp_path / "cache")


def test_answers_are_the_teachers_however_documents_are_packed(cached: CachedTeacher) -> None:
    assert len(list(cached.folder.glob("shard-*"))) > 1
    assert (cached.vocab_size, cached.tokenizer, cached.temperature) == (40, TOKENIZER, TEMPERATURE)
    assert cached.n_tokens == 55
    for batch in (*ONE_WAY, OTHER_WAY):
        assert_same(cached.distributions(batch), live(teacher_of(), batch))


def test_answers_serve_another_mask_than_they_were_computed_with(cached: CachedTeacher) -> None:
    masked = packed([[1, 3], [5]], width=24, scored_from=2)
    found = cached.distributions(masked)
    assert len(found) == masked.n_targets == 6 + 9 + 13
    assert_same(found, live(teacher_of(), masked))


def test_batches_without_a_scored_position_ask_for_nothing(cached: CachedTeacher) -> None:
    batch = replace(OTHER_WAY, targets_BS=torch.full_like(OTHER_WAY.targets_BS, IGNORED))
    assert len(cached.distributions(batch)) == 0


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops() -> Iterator[Batch]:
        yield ONE_WAY[0]
        raise Stopped

    folder = tmp_path / "cache"
    with pytest.raises(Stopped):
        precompute(folder, teacher_of(), stops(), k=K, temperature=TEMPERATURE, shard_tokens=20)
    teacher, asked = teacher_of(), []
    real = teacher.distributions
    monkeypatch.setattr(teacher, "distributions", lambda batch: asked.append(batch.n_tokens) or real(batch))
    reports = []
    done = precompute(
        folder,
        teacher,
        ONE_WAY,
        k=K,
        temperature=TEMPERATURE,
        shard_tokens=20,
        report=lambda *counts: reports.append(counts),
    )
    assert done.n_known >= 20 and done.n_computed + done.n_known == 55
    assert reports[-1] == (done.n_computed, done.n_known) and len(reports) == 2
    assert sum(asked) < 55
    assert_same(CachedTeacher.open(folder).distributions(OTHER_WAY), live(teacher, OTHER_WAY))
    again = precompute(folder, teacher, [*ONE_WAY, OTHER_WAY], k=K, temperature=TEMPERATURE)
    assert again.n_computed == 0


def test_equal_pieces_are_computed_once(tmp_path: Path) -> None:
    done = precompute(tmp_path, teacher_of(), [packed([[0, 0], [0]]), packed([[0]])], k=K)
    assert (done.n_computed, done.n_known) == (5, 15)
    assert CachedTeacher.open(tmp_path).n_tokens == 5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=3), min_size=1, max_size=3))
def test_pieces_are_the_documents(rows: list[list[int]]) -> None:
    pieces = list(pieces_of(packed(rows, width=60)))
    assert [piece.digest for piece in pieces] == [
        digest_of(DOCUMENTS[number].numpy()) for row in rows for number in row
    ]
    assert [piece.row for piece in pieces] == [i for i, row in enumerate(rows) for _ in row]


def test_a_row_without_documents_is_one_piece() -> None:
    tokens = torch.arange(12).view(2, 6)
    batch = Batch(tokens, torch.arange(6).expand(2, 6), torch.zeros_like(tokens), tokens)
    assert [(piece.row, piece.start, piece.stop) for piece in pieces_of(batch)] == [(0, 0, 6), (1, 0, 6)]


def test_unknown_text_is_refused_with_the_way_out(cached: CachedTeacher) -> None:
    batch = packed([[3]])
    batch.tokens_BS[0, 0] += 1
    with pytest.raises(CacheError, match="12 tokens: compute the cache for the same documents"):
        cached.distributions(batch)


@pytest.mark.parametrize(
    ("seed", "k", "temperature", "message"),
    [
        (0, K - 1, TEMPERATURE, "another k"),
        (0, K, 3.0, "another temperature"),
        (1, K, TEMPERATURE, "another teacher"),
    ],
)
def test_another_teachers_cache_is_not_mixed_up(
    cached: CachedTeacher, seed: int, k: int, temperature: float, message: str
) -> None:
    with pytest.raises(CacheError, match=message):
        precompute(cached.folder, teacher_of(seed), ONE_WAY, k=k, temperature=temperature)


def test_damage_is_found_and_can_be_repaired(cached: CachedTeacher) -> None:
    assert cached.verify() == len(list(cached.folder.glob("shard-*")))
    first = sorted(cached.folder.glob("shard-*"))[0]
    content = bytearray(first.read_bytes())
    content[-5] ^= 0xFF
    first.write_bytes(content)
    with pytest.raises(CacheError, match="is damaged: remove it"):
        CachedTeacher.open(cached.folder).verify()
    first.write_bytes(content[:-40])
    with pytest.raises(CacheError, match=r"cannot be used .*: remove it"):
        CachedTeacher.open(cached.folder)
    first.unlink()
    done = precompute(cached.folder, teacher_of(), ONE_WAY, k=K, temperature=TEMPERATURE)
    assert done.n_computed > 0
    repaired = CachedTeacher.open(cached.folder)
    repaired.verify()
    assert_same(repaired.distributions(OTHER_WAY), live(teacher_of(), OTHER_WAY))


def test_a_shard_that_is_cut_off_while_it_is_read_is_named(cached: CachedTeacher) -> None:
    """In a process of its own: reading behind the end of a mapped file would be its end."""
    code = f"""
import os
from pathlib import Path
from model.distill import CacheError, CachedTeacher
from tests.model.distill.test_cache import OTHER_WAY
cache = CachedTeacher.open(Path({str(cached.folder)!r}))
cache.distributions(OTHER_WAY)
for shard in cache.folder.glob("shard-*"):
    os.truncate(shard, 100)
try:
    cache.distributions(OTHER_WAY)
except CacheError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert f"{cached.folder}/shard-00000" in ended.stdout
    assert " is damaged (it was truncated from " in ended.stdout and "remove it, then" in ended.stdout


def test_folders_that_hold_no_cache_say_so(tmp_path: Path, cached: CachedTeacher) -> None:
    with pytest.raises(CacheError, match=r"fill it with `python -m model\.distill fill`"):
        CachedTeacher.open(tmp_path / "nothing")
    manifest = cached.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("teacher/1", "teacher/9"))
    with pytest.raises(CacheError, match=r"has format 'gainshare\.teacher/9'"):
        CachedTeacher.open(cached.folder)
    manifest.write_text("{}")
    with pytest.raises(CacheError, match="cannot be read"):
        CachedTeacher.open(cached.folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("k", "6", r"Manifest\.k must be a whole number, not '6'"),
        ("k", 0, r"Manifest\.k must be from 1 to vocab_size \(40\), not 0"),
        ("vocab_size", 40.0, r"Manifest\.vocab_size must be a whole number"),
        ("temperature", 1e9, "a temperature must be from"),
        ("k", K - 1, r"shard-000000\.safetensors does not have \d+ likeliest tokens"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    cached: CachedTeacher, field: str, value: object, message: str
) -> None:
    manifest = cached.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), field: value}))
    with pytest.raises(CacheError, match=message):
        CachedTeacher.open(cached.folder)


def test_another_file_among_the_shards_is_refused(cached: CachedTeacher) -> None:
    save_file({"weights": torch.zeros(2)}, cached.folder / "shard-000099.safetensors")
    with pytest.raises(
        CacheError, match=r"shard-000099\.safetensors is not a shard of a cache .*: remove it"
    ):
        CachedTeacher.open(cached.folder)


def test_only_one_process_fills_a_cache(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CacheError, match="another process"):
            precompute(tmp_path, teacher_of(), ONE_WAY, k=K)


def test_a_full_disk_keeps_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.distill import cache

    written, real = [], cache.save_file

    def full(*arguments: object) -> None:
        if len(written) == 1:
            raise OSError(28, "No space left on device")
        written.append(arguments)
        real(*arguments)

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        precompute(tmp_path, teacher_of(), ONE_WAY, k=K, temperature=TEMPERATURE, shard_tokens=20)
    monkeypatch.undo()
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {".lock", "manifest.json", "shard-000000.safetensors"}
    done = precompute(tmp_path, teacher_of(), ONE_WAY, k=K, temperature=TEMPERATURE)
    assert done.n_known >= 20


def test_a_shard_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    """The library has an error of its own for what the system refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(OSError, match=r"shard-000000\.safetensors cannot be written"):
            precompute(tmp_path, teacher_of(), ONE_WAY, k=40, temperature=TEMPERATURE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "manifest.json"}


def test_impossible_requests_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocabulary's 40 tokens, not 41"):
        precompute(tmp_path / "cache", teacher_of(), ONE_WAY, k=41)
    with pytest.raises(ValueError, match="temperature"):
        precompute(tmp_path / "cache", teacher_of(), ONE_WAY, temperature=0.0)
    assert not (tmp_path / "cache").exists()


def test_all_tokens_may_be_kept(tmp_path: Path) -> None:
    precompute(tmp_path, teacher_of(), ONE_WAY, k=40, temperature=1.0)
    found = CachedTeacher.open(tmp_path).distributions(OTHER_WAY)
    assert torch.isneginf(found.log_rest_N).all()
    expected = teacher_of().distributions(OTHER_WAY).log_softmax(-1)
    torch.testing.assert_close(found.log_p_NK, expected.gather(-1, found.ids_NK), rtol=2e-3, atol=2e-3)
