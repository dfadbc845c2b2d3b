"""`python -m model.data`: what its commands print, and how they end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from model.data.__main__ import main
from model.data.arrow.data_folder import open_data_folder
from model.data.tokenizer import CHATML, Markup, TextTokenizer
from tests.model.data.small_corpora import PROSE, folder

__all__ = ["folder"]  # a fixture

pytestmark = pytest.mark.slow


def test_stats_prints_a_table_or_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(folder), "--sequence-length", "32", "--batch-tokens", "128", "--verify"]) == 0
    assert re.search(r"^general train: tokens +[\d,]+ tokens", capsys.readouterr().out, re.MULTILINE)
    assert main(["stats", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["folder"] == str(folder)
    assert {"name", "value", "unit", "how"} == set(document["rows"][0])


def test_show_prints_a_document_with_its_provenance(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(folder), "instruction", "--side", "held_out", "--document", "0"]) == 0
    shown = capsys.readouterr().out
    record = open_data_folder(folder).documents("instruction", "held_out").record(0)
    assert shown.startswith(f"{record.path} (chat, licence of chat): ")
    assert re.search(r"<\|assistant\|>\[scored>answer .*<\|end\|><scored\]\n$", shown, re.DOTALL)
    assert main(["show", str(folder), "general", "--document", "999"]) == 1
    assert "general/train has documents 0 to " in capsys.readouterr().err


def test_show_prints_the_pieces_of_a_sequence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(folder), "instruction", "--sequence-length", "200", "--seed", "3"]) == 0
    first = capsys.readouterr().out
    n_tokens, n_scored = map(
        int, re.findall(r"^(\d+) of 200 positions hold tokens, (\d+) are scored", first)[0]
    )
    pieces = [
        tuple(map(int, found)) for found in re.findall(r"piece \d+: (\d+) positions, (\d+) scored", first)
    ]
    assert n_tokens == sum(size for size, _ in pieces) and n_scored == sum(scored for _, scored in pieces)
    assert 0 < n_scored < n_tokens
    assert main(["show", str(folder), "instruction", "--sequence-length", "200", "--seed", "4"]) == 0
    assert capsys.readouterr().out != first


def test_errors_are_one_line_and_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["stats", str(tmp_path)],
        ["build", str(tmp_path / "data"), "--corpus", "nothing"],
        ["build", str(tmp_path / "data"), "--hub", "poetry:a,column=text,licence=x"],
        ["build", str(tmp_path / "data"), "--tokenizer", str(tmp_path)],
        ["build", str(tmp_path / "data"), "--corpus", "wordnet", "--root", str(tmp_path)],
    ):
        assert main(arguments) == 1
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_with_json_an_error_is_a_document_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    for arguments, code in (
        (["stats", str(tmp_path)], "data"),
        (["build", str(tmp_path / "taken"), "--corpus", "python-topics"], "usage"),
        (["build", str(tmp_path / "data"), "--corpus", "nothing"], "data"),
    ):
        assert main([*arguments, "--json"]) == 1
        printed = capsys.readouterr()
        error = json.loads(printed.out)["error"]
        assert error["code"] == code and printed.err == f"error: {error['message']}\n"


def test_ctrl_c_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TextTokenizer, "train", interrupted)
    assert main(["build", str(tmp_path / "data"), "--corpus", "python-topics"]) == 130
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.splitlines()[-1].startswith(
        "error: interrupted: the unfinished folder was removed"
    )
    assert list(tmp_path.iterdir()) == []


def test_corpora_are_listed_with_their_licences_and_remedies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpora", "--root", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert re.fullmatch(
        r"wordnet +general +WordNet-3.0 .*: absent \(.*apt-get install wordnet-base\)", lines["wordnet"]
    )
    assert re.fullmatch(r"python-sources +domain +PSF-2.0 .*: here", lines["python-sources"])


def test_a_model_s_tokenizer_and_markup_are_taken_from_its_folder(tmp_path: Path) -> None:
    markup = Markup("<|im_end|>", "<|im_start|>", "<|im_start|>")
    trained = TextTokenizer.train([document.text for document in PROSE.read()], 400, markup)
    trained.save(tmp_path)
    arguments = ["build", str(tmp_path / "data"), "--corpus", "python-topics", "--tokenizer", str(tmp_path)]
    assert main([*arguments, "--markup", "own"]) == 1
    assert main([*arguments, "--markup", "chatml"]) == 0
    tokenizer = open_data_folder(tmp_path / "data").tokenizer
    assert tokenizer.markup == CHATML and tokenizer.encode("prose") == trained.encode("prose")


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"python -m model.data {name}" in shown for name in ("build", "corpora", "stats", "show"))


def test_build_reports_progress_and_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the smallest built-in corpus that is always here."""
    arguments = ["build", str(tmp_path / "data"), "--corpus", "python-topics", "--vocab-size", "512"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert re.search(
        r"data is ready after \d+ s, with 512 tokens of vocabulary\n  general +train ", printed.out
    )
    assert re.search(r"^read python-topics: 1 documents$", printed.err, re.MULTILINE)
    assert re.search(r"^write: (\d+) documents of \1, 100 %$", printed.err, re.MULTILINE)
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--replace", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["corpora"][0]["licence"] == "PSF-2.0"
