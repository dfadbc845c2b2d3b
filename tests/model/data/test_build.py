"""Data folders from corpora to batches: built whole or not at all, equal every time, and the commands that show them."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model.data.__main__ import main
from model.data.arrow.data_folder import BUILD_FILE, SIDES, open_data_folder
from model.data.batches.batch import IGNORED, PADDING
from model.data.batches.curriculum import three_stages
from model.data.batches.evaluation import evaluation_batches
from model.data.batches.stream import DataStream
from model.data.build import build
from model.data.corpora.registry import KINDS, built_in_corpora
from model.data.corpora.text_documents import TextDocument
from model.data.errors import CorpusError, ShardError, TokenizerError
from model.data.statistics import statistics
from model.data.tokenizer import TextTokenizer
from model.new_folder import FolderTakenError
from tests.model.data.small_corpora import ABSENT, CHAT, CODE, PROSE, SETTINGS, corpus, folder

__all__ = ["folder"]  # a fixture

pytestmark = pytest.mark.slow


def test_every_kind_has_both_sides_and_every_document_is_on_one(folder: Path) -> None:
    data = open_data_folder(folder)
    for kind, made in (("general", PROSE), ("domain", CODE), ("instruction", CHAT)):
        texts = {document.path: document for document in made.read()}
        seen: list[str] = []
        for side in ("train", "held_out"):
            documents = data.documents(kind, side)  # type: ignore[arg-type]
            assert len(documents) > 0
            for number in range(len(documents)):
                record, ids = documents.record(number), documents.tokens(number).tolist()
                source = texts[record.path]
                assert (record.source, record.licence) == (source.corpus, source.licence)
                assert (record.sha256, record.n_bytes) == (source.sha256, source.n_bytes)
                seen.append(record.path)
                if source.answer is None:
                    assert data.tokenizer.decode(ids) == source.text + "<|end|>"
                    assert documents.answers(number) == ()
                else:
                    ((start, end),) = documents.answers(number)
                    assert data.tokenizer.decode(ids[start:end]) == source.answer + "<|end|>"
                    assert len(ids) <= SETTINGS.longest_instruction
        assert len(seen) == len(set(seen))
        left_out = data.build["left_out"]
        n_missing = len(texts) - len(seen)
        assert n_missing == (left_out["long_instructions"] if kind == "instruction" else 0)
    assert left_out["long_instructions"] > 0


def test_a_built_folder_feeds_the_curriculum(folder: Path) -> None:
    data = open_data_folder(folder)
    curriculum = three_stages(15_000, 64)
    stream = DataStream(data.sources(), curriculum, batch_tokens=128, window_tokens=512)
    scored_by_stage: dict[str, float] = {}
    while stream.tokens_seen < 15_000:
        name = stream.moment.stage.name
        batch = next(stream)
        scored_by_stage[name] = batch.n_targets / batch.n_tokens
        assert batch.tokens_BS.max() < data.tokenizer.vocab_size
    assert scored_by_stage["general"] == 1.0 and scored_by_stage["instruction"] < 0.95
    held_out = list(
        evaluation_batches(data.documents("general", "held_out"), sequence_length=32, batch_tokens=128)
    )
    n_tokens = sum(batch.n_targets for batch in held_out)
    documents = data.documents("general", "held_out")
    assert n_tokens == documents.manifest.n_tokens - len(documents)


def test_building_twice_gives_equal_files(folder: Path, tmp_path: Path) -> None:
    build(tmp_path / "again", [PROSE, ABSENT, CODE, CHAT], settings=SETTINGS)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) > 12
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_the_tokenizer_never_saw_held_out_text(tmp_path: Path) -> None:
    """What only held-out documents say has no merges."""
    data = open_data_folder(build(tmp_path / "data", [PROSE], settings=SETTINGS).path)
    held_out = {
        data.documents("general", "held_out").record(n).path
        for n in range(len(data.documents("general", "held_out")))
    }

    def read() -> Iterator[TextDocument]:
        for document in PROSE.read():
            yield (
                replace(document, text="zqzqzqzq " * 50 + document.text)
                if document.path in held_out
                else document
            )

    marked = build(tmp_path / "marked", [replace(PROSE, read=read)], settings=SETTINGS)
    assert marked.tokenizer.sha256 == data.tokenizer.sha256
    everywhere = build(
        tmp_path / "all", [replace(PROSE, read=read)], settings=replace(SETTINGS, held_out_share=0.0)
    )
    assert everywhere.tokenizer.sha256 != data.tokenizer.sha256


def test_a_given_tokenizer_is_used(folder: Path, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.load(folder)
    data = build(tmp_path / "data", [CODE], settings=SETTINGS, tokenizer=tokenizer)
    assert data.tokenizer.sha256 == tokenizer.sha256 and data.kinds() == ("domain",)


def test_absent_corpora_are_noted_or_required(folder: Path, tmp_path: Path) -> None:
    record = open_data_folder(folder).build
    assert record["absent"] == {"absent": "install absent"}
    assert [(c["name"], c["is_here"]) for c in record["corpora"]] == [
        ("prose", True),
        ("absent", False),
        ("code", True),
        ("chat", True),
    ]
    with pytest.raises(CorpusError, match="not on this machine: absent: install absent"):
        build(tmp_path / "data", [PROSE, ABSENT], settings=SETTINGS, are_required=True)
    with pytest.raises(CorpusError, match="install absent"):
        build(tmp_path / "data", [ABSENT], settings=SETTINGS)
    with pytest.raises(CorpusError, match="no corpus was chosen"):
        build(tmp_path / "data", [], settings=SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_two_corpora_of_one_name_are_refused(tmp_path: Path) -> None:
    """Their documents would all be of the kind of the last one."""
    with pytest.raises(
        CorpusError, match="the corpus prose is named 2 times: name it once, and give hub datasets"
    ):
        build(tmp_path / "data", [PROSE, CODE, corpus("prose", "domain")], settings=SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_hub_datasets_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config: None, *, data_files: str, **options: object) -> list[dict[str, str]]:
        return [{"text": f"{data_files} has row {n} of {name}: " + "words " * n} for n in range(30)]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    options = [
        f"{kind}:json,column=text,licence=of {kind},data_files={kind}.jsonl,called={kind}"
        for kind in ("general", "domain")
    ]
    arguments = [
        "build",
        str(tmp_path / "data"),
        "--vocab-size",
        "300",
        "--hub",
        options[0],
        "--hub",
        options[1],
    ]
    assert main(arguments) == 0
    data = open_data_folder(tmp_path / "data")
    for kind in ("general", "domain"):
        documents = data.documents(kind)
        records = [documents.record(number) for number in range(len(documents))]
        assert {(record.source, record.licence) for record in records} == {(f"hub:{kind}", f"of {kind}")}
        assert all(record.path.startswith(f"{kind}::train:") for record in records)


def test_a_folder_without_documents_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no document is left: all are instructions of more than 1 tokens"):
        build(tmp_path / "data", [CHAT], settings=replace(SETTINGS, longest_instruction=1))
    assert list(tmp_path.iterdir()) == []


def test_options_that_would_not_be_read_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", str(tmp_path / "data"), "--corpus", "python-topics"]
    assert main([*arguments, "--markup", "chatml"]) == 1
    assert "--markup is of --tokenizer's model" in capsys.readouterr().err
    assert main([*arguments, "--tokenizer", str(tmp_path), "--vocab-size", "500"]) == 1
    assert "--vocab-size is of a tokenizer that is trained" in capsys.readouterr().err


@pytest.mark.parametrize("vocab_size", ["1000000000", "1e9", "259", "-4096", "0x1000", "nan", "1" * 400])
def test_a_vocabulary_size_out_of_bounds_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], vocab_size: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["build", str(tmp_path / "data"), f"--vocab-size={vocab_size}"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"argument --vocab-size: must be a whole number, 260 to 1048576, not '{vocab_size}'" in error
    assert "read " not in error and list(tmp_path.iterdir()) == []


def test_a_vocabulary_size_is_refused_in_python_before_anything_is_read(tmp_path: Path) -> None:
    def read() -> Iterator[TextDocument]:
        raise AssertionError("it was read")

    with pytest.raises(TokenizerError, match="at most 1,048,576"):
        build(tmp_path / "data", [replace(PROSE, read=read)], settings=replace(SETTINGS, vocab_size=10**9))


def test_one_long_word_is_built_from_as_any_text(tmp_path: Path) -> None:
    """And no text is taught of which a tokenizer is promised less."""
    word = "x" * 1_000_000 + "yz" * 500_000

    def read() -> Iterator[TextDocument]:
        yield from PROSE.read()
        yield TextDocument("prose", "licence of prose", "prose/word", "prose/word", word)

    started = time.process_time()
    settings = replace(SETTINGS, held_out_share=0.0)
    data = build(tmp_path / "data", [replace(PROSE, read=read)], settings=settings)
    assert time.process_time() - started < 60
    documents = data.documents("general")
    [number] = [n for n in range(len(documents)) if documents.record(n).path == "prose/word"]
    assert data.tokenizer.decode(documents.tokens(number).tolist()) == word + "<|end|>"
    small = build(
        tmp_path / "small", [replace(PROSE, read=read)], settings=replace(settings, tokenizer_bytes=999_999)
    )
    assert "yz" not in {small.tokenizer.decode([token]) for token in range(small.tokenizer.vocab_size)}


@pytest.mark.parametrize("name", ["json", "csv", "text"])
def test_a_file_that_is_not_utf8_is_named_with_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    good, bad = files / "a.txt", files / "b.txt"
    good.write_text("é" * (1 << 20), encoding="utf-8")
    bad.write_bytes(
        "xé".encode() * ((1 << 20) // 3 + 1) + b"\xc3("
    )  # split by the megabyte that is read at once
    offset = bad.stat().st_size - 2

    def load_dataset(name: str, config: None, **options: object) -> None:
        bad.read_text(encoding="utf-8")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    hub = f"general:{name},column=text,licence=x,data_files={files}/*.txt"
    assert main(["build", str(tmp_path / "data"), "--hub", hub]) == 1
    error = capsys.readouterr().err
    assert f"error: {bad} is not UTF-8 text: byte 0xc3 at offset {offset:,} (invalid continuation" in error
    assert "convert the file to UTF-8" in error and not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("file", "corpus"),
    [
        ("usr/share/doc/python3.13/html/_sources/a.rst.txt", "python-manual"),
        ("usr/share/wordnet/data.noun", "wordnet"),
    ],
)
def test_a_corpus_file_that_is_not_utf8_is_named_with_the_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, corpus: str
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(b"text\xff\n")
    arguments = ["build", str(tmp_path / "data"), "--corpus", corpus, "--root", str(tmp_path), "--json"]
    assert main(arguments) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "data"
    assert error["message"].startswith(f"{tmp_path / file} is not UTF-8 text: byte 0xff at offset 4 ")
    assert f"install the corpus {corpus}'s package again" in error["message"]


def test_a_failing_build_leaves_nothing_and_keeps_the_old(folder: Path, tmp_path: Path) -> None:
    def read() -> Iterator[TextDocument]:
        yield next(PROSE.read())
        raise CorpusError("the line went dead")

    old = tmp_path / "data"
    shutil.copytree(folder, old)
    with pytest.raises(FolderTakenError, match="exists already"):
        build(old, [PROSE], settings=SETTINGS)
    with pytest.raises(CorpusError, match="line went dead"):
        build(old, [replace(PROSE, read=read)], settings=SETTINGS, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert open_data_folder(old).kinds() == ("general", "domain", "instruction")
    build(old, [CODE], settings=SETTINGS, replace=True)
    assert open_data_folder(old).kinds() == ("domain",)
    (old / "notes").write_text("mine")
    with pytest.raises(FolderTakenError, match="other content than a data folder"):
        build(old, [CODE], settings=SETTINGS, replace=True)
    assert (old / "notes").read_text() == "mine"


def test_a_folder_that_was_not_built_to_its_end_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ShardError, match=r"is no data folder: build\.json is missing; build"):
            open_data_folder(path)
    for text, reason in (
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"format": "x"}', "another version"),
        ('{"format": "gainshare.data-folder/1"}', "is damaged"),
        ('{"format": "gainshare.data-folder/1", "left_out": [1]}', "is damaged"),
        (
            '{"format": "gainshare.data-folder/1", "left_out": {"duplicates": "x"}}',
            "is damaged: left_out holds",
        ),
    ):
        (tmp_path / BUILD_FILE).write_text(text)
        with pytest.raises(ShardError, match=reason):
            open_data_folder(tmp_path)


def test_documents_of_another_tokenizer_are_refused(folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "data"
    shutil.copytree(folder, mixed)
    TextTokenizer.train(["abc abc abd abd"] * 9, 300).save(mixed)
    with pytest.raises(ShardError, match="made with another tokenizer"):
        open_data_folder(mixed).sources()


def test_statistics_count_what_is_there(folder: Path) -> None:
    data = open_data_folder(folder)
    rows = {row.name: row.value for row in statistics(data, 32, 128)}
    train = data.documents("general")
    assert rows["vocabulary"] == data.tokenizer.vocab_size
    assert rows["general train: documents"] == len(train)
    assert rows["general train: tokens"] == int(train.lengths.sum())
    n_bytes = sum(train.record(number).n_bytes for number in range(len(train)))
    assert rows["general train: bytes per token"] == pytest.approx(n_bytes / train.lengths.sum())
    assert rows["general train: padding, packed"] < rows["general train: padding, shuffled"]
    assert rows["left out: long instructions"] == data.build["left_out"]["long_instructions"]
    assert "general held_out: padding, packed" not in rows


def test_packed_real_text_wastes_little(tmp_path: Path) -> None:
    main(["build", str(tmp_path / "data"), "--corpus", "python-topics", "--vocab-size", "600"])
    data = open_data_folder(tmp_path / "data")
    rows = {row.name: row.value for row in statistics(data, 256, 4096)}
    assert rows["general train: padding, packed"] < 2 < rows["general train: padding, shuffled"]
    assert 1.5 < rows["general train: bytes per token"] < 4
    stage = three_stages(51_000, 256)
    stream = DataStream(
        {"general": data.documents("general")}, replace(stage, stages=stage.stages[:1]), batch_tokens=1024
    )
    batches = [next(stream) for _ in range(30)]
    assert sum(batch.n_tokens for batch in batches) > 0.97 * 30 * 1024
    for batch in batches:
        assert torch.equal(batch.targets_BS != IGNORED, batch.documents_BS != PADDING)


@pytest.mark.long
def test_all_that_is_on_this_machine_builds(tmp_path: Path) -> None:
    """Minutes: every corpus that is here, read back whole, and no held-out text that training mostly contains."""
    data = build(tmp_path / "data", built_in_corpora())
    assert data.kinds("train") == data.kinds("held_out") == KINDS
    rows = {row.name: row.value for row in statistics(data, 512, 16_384)}
    for kind in KINDS:
        for side in SIDES:
            documents = data.documents(kind, side)
            documents.verify()
            for number in range(len(documents)):
                documents.tokens(number)
        assert 2.5 < rows[f"{kind} train: bytes per token"] < 5
        assert rows[f"{kind} train: padding, packed"] < 2
        assert 0.02 < rows[f"{kind} held_out: documents"] / rows[f"{kind} train: documents"] < 0.12
    assert rows["domain train: tokens"] > 1_500_000
