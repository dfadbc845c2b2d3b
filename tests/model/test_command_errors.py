"""Wrong command lines of the stack's commands: status 2, and with `--json` a document on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from model.data.__main__ import main as data
from model.distill.__main__ import main as distill
from model.growth.__main__ import main as growth
from model.hf.__main__ import main as hf
from model.smollm2.__main__ import main as smollm2
from model.training.run.command import main as training

Main = Callable[[list[str]], int]


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (training, ["--json"], "the following arguments are required: config"),
        (training, ["run.toml", "--steps", "x", "--json"], "argument --steps: invalid int value: 'x'"),
        (training, ["run.toml", "--js", "--export"], "argument --export: expected one argument"),
        (data, ["stats", "--json"], "the following arguments are required: folder"),
        (
            data,
            ["build", "folder", "--json", "--markup", "other"],
            "argument --markup: invalid choice: 'other'",
        ),
        (
            distill,
            ["fill", "--json", "a.toml", "b", "--k", "0"],
            "argument --k: '0' is not a whole number of at least 1",
        ),
        (distill, ["--json"], "the following arguments are required: command"),
        (growth, ["depth", "a", "b", "--json"], "one of the arguments --after --stack is required"),
        (growth, ["upcycle", "a", "b", "--nois", "x", "--json"], "'x' is not a number of at least 0"),
        (growth, ["upcycle", "a", "b", "--json", "--depth"], "unrecognized arguments: --depth"),
        (hf, ["import", "a", "b", "--dtype", "int9", "--json"], "argument --dtype: invalid choice: 'int9'"),
        (smollm2, ["fetch", "--json", "smollm2-moe", "more"], "unrecognized arguments: more"),
        (smollm2, ["fetch", "--json", "more"], "argument model: invalid choice: 'more'"),
    ],
)
def test_a_wrong_command_line_is_a_document_where_one_is_asked_for(
    main: Main, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2
    error = json.loads(out)["error"]
    assert error["code"] == "usage" and said in error["message"] and "--help` lists" in error["message"]
    assert err.startswith("usage: ") and err.endswith(f"error: {error['message']}\n")


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(training, []), (growth, ["upcycle", "a"]), (data, ["stats"]), (distill, ["show"])],
)
def test_without_it_standard_output_stays_empty(
    main: Main, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and "required" in err
