"""A run's file: every table, every wrong key, and what it makes of models, curricula and budgets."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.checkpoint import CheckpointError
from model.config import ConfigError
from model.data.batches.curriculum import one_mixture, three_stages
from model.presets import PRESETS
from model.training.config.changes import changes, shape_changes
from model.training.config.model_table import ModelTable
from model.training.config.recipe import Recipe
from model.training.config.run_config import Budget, read_run_config, run_config_from
from model.training.config.tables import convert, read_table
from tests.model.training.run.training_runs import run_config, run_document, toml

OUT = Path("out")
KINDS = ("general", "domain", "instruction")
EXAMPLES = sorted((Path(__file__).parents[4] / "examples" / "training").glob("*.toml"))


def test_a_file_becomes_a_run(tmp_path: Path) -> None:
    file = tmp_path / "my-run.toml"
    file.write_text(toml(run_document(OUT, recipe={"optimizer": "muon", "ema_decay": 0.99})))
    config = read_run_config(file)
    assert config.name == "my-run" and config.output == OUT and config.seed == 3
    assert config.recipe == Recipe(warmup_steps=2, learning_rate=0.01, optimizer="muon", ema_decay=0.99)
    assert config.budget == Budget(steps=6)
    assert config.data.batch_tokens == 64 and config.saving.every_steps == 2
    shape = config.model.shape(300)
    assert shape.vocab_size == 300 and shape.n_layers == 1 and shape.moe is not None
    assert shape.moe.bias_balancing and shape.moe.n_experts == 8 and shape.name == "my-run"


def test_the_name_may_be_given() -> None:
    assert run_config_from(run_document(OUT, name="other"), name="file").name == "other"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"recipe": {"lerning_rate": 1}},
            r"\[recipe\] has no key 'lerning_rate': did you mean 'learning_rate'",
        ),
        ({"budgett": {}}, r"the file has no key 'budgett': did you mean 'budget'"),
        ({"model": {"n_layer": 2}}, r"\[model\] has no key 'n_layer': did you mean 'n_layers'"),
        ({"model": {"moe": {"topk": 2}}}, r"\[model.moe\] has no key 'topk': did you mean 'top_k'"),
        ({"model": {"preset": "tinny"}}, r"preset cannot be 'tinny': did you mean 'tiny'"),
        ({"compute": {"precision": "bf61"}}, r"\[compute\] precision cannot be 'bf61': did you mean 'bf16'"),
        ({"compute": {"precision": "int8"}}, r"cannot be 'int8'; it takes auto, bf16, fp16, fp32"),
        ({"recipe": {"optimizer": "adam"}}, r"optimizer cannot be 'adam': did you mean 'adamw'"),
        ({"recipe": {"learning_rate": "fast"}}, r"\[recipe\] learning_rate must be a number, not 'fast'"),
        ({"recipe": {"warmup_steps": 2.5}}, r"warmup_steps must be a whole number, not 2.5"),
        ({"recipe": {"warmup_steps": True}}, r"warmup_steps must be a whole number, not True"),
        ({"compute": {"compile": 1}}, r"compile must be true or false, not 1"),
        ({"recipe": {"learning_rate": -1}}, r"Recipe.learning_rate must be above zero"),
        ({"model": {"n_heads": 3}}, r"ModelConfig.n_heads must be a multiple"),
        ({"data": {"batch_tokens": 0}}, r"\[data\] batch_tokens must be at least 2"),
        ({"compute": {"micro_batches": 0}}, r"micro_batches must be at least 1"),
        ({"compute": {"threads": 0}}, r"threads must be at least 1"),
        ({"compute": {"threads": 100_000}}, r"\[compute\] threads must be at least 1 and at most 1024"),
        ({"saving": {"keep": 0}}, r"keep must be at least 1"),
        ({"evaluation": {"every_steps": -1}}, r"every_steps must be at least 0"),
        ({"budget": {"steps": 0}}, r"\[budget\] must be above 0"),
        ({"seed": "one"}, r"seed must be a whole number"),
        ({"curriculum": {"plann": "one_stage"}}, r"\[curriculum\] has no key 'plann': did you mean 'plan'"),
        ({"model": 3}, r"\[model\] must be a table"),
        ({"recipe": 3}, r"\[recipe\] must be a table, not 3"),
        (
            {"recipe": {"learning_rate": math.inf}},
            r"\[recipe\] learning_rate must be a finite number, not inf",
        ),
        ({"recipe": {"learning_rate": 10**400}}, r"\[recipe\] learning_rate must fit in 64 bits"),
        ({"budget": {"seconds": math.nan}}, r"\[budget\] seconds must be a finite number, not nan"),
        (
            {"distillation": {"teacher": "x", "temperature": math.inf}},
            r"\[distillation\] temperature must be a finite",
        ),
        ({"model": {"norm_eps": math.nan}}, r"\[model\] norm_eps must be a finite number"),
        ({"parallel": {"dp": 2, "timeout_s": math.inf}}, r"\[parallel\] timeout_s must be a finite number"),
        ({"seed": 2**63}, r"seed must fit in 64 bits"),
    ],
)
def test_what_is_wrong_is_named(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(OUT, **tables)


@pytest.mark.parametrize("missing", ["output", "model", "data", "budget"])
def test_what_is_missing_is_named(missing: str) -> None:
    document = run_document(OUT)
    del document[missing]
    with pytest.raises(ConfigError, match=f"needs '{missing}'"):
        run_config_from(document, name="x")


def test_missing_keys_of_a_table_are_named() -> None:
    document = run_document(OUT)
    document["data"] = {"folder": "x"}
    with pytest.raises(ConfigError, match=r"\[data\] needs a value for 'batch_tokens'"):
        run_config_from(document, name="x")
    document = run_document(OUT)
    document["model"] = {"d_model": 64}
    with pytest.raises(ConfigError, match=r"\[model\] needs a value for 'n_layers'"):
        run_config_from(document, name="x")


def test_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("output = [")
    with pytest.raises(ConfigError, match=r"run.toml is not TOML"):
        read_run_config(file)
    file.write_text('outptu = "x"')
    with pytest.raises(ConfigError, match=r"run.toml: the file has no key 'outptu'"):
        read_run_config(file)
    file.write_bytes('name = "größe"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run.toml is not TOML: it is not in UTF-8 \(.* at byte 10\)"):
        read_run_config(file)
    with pytest.raises(FileNotFoundError):
        read_run_config(tmp_path / "none.toml")


def test_experts_of_a_preset_have_the_width_that_the_file_gives_the_model() -> None:
    config = ModelTable.read({"preset": "tiny", "d_model": 32}, name="narrow").shape(50)
    assert config.moe is not None and (config.d_model, config.moe.d_model) == (32, 32)
    with pytest.raises(ConfigError, match=r"moe\.d_model must equal d_model"):
        ModelTable.read({"preset": "tiny", "d_model": 32, "moe": {"d_model": 64}}, name="narrow")


def test_a_shape_of_one_s_own_needs_no_preset() -> None:
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_head": 8, "d_ff": 64}
    moe = {"d_expert": 16, "n_experts": 4, "top_k": 1}
    document = run_document(OUT)
    document["model"] = {
        **shape,
        "max_context": 64,
        "moe": moe,
        "dense_layers": [0],
        "attention_owners": [0, 0],
    }
    config = run_config_from(document, name="own").model.shape(100)
    assert config.moe is not None and config.moe.d_model == 32  # taken from the model's
    assert config.dense_layers == (0,) and config.attention_owners == (0, 0) and config.vocab_size == 100


def test_a_preset_s_fields_stay_where_nothing_is_said() -> None:
    config = run_config(OUT).model.shape(261)
    preset = PRESETS["tiny"]
    assert (config.d_model, config.d_ff, config.n_heads) == (preset.d_model, preset.d_ff, preset.n_heads)
    assert preset.moe is not None and config.moe is not None
    assert config.moe.top_k == preset.moe.top_k and not preset.moe.bias_balancing


def test_a_vocabulary_of_its_own_may_be_larger_but_not_smaller() -> None:
    config = run_config(OUT, model={"vocab_size": 320})
    assert config.model.shape(300).vocab_size == 320
    with pytest.raises(ConfigError, match="320 tokens, the data's tokenizer 400"):
        config.model.shape(400)


def test_a_checkpoint_has_its_shape_already(tmp_path: Path) -> None:
    document = run_document(OUT)
    document["model"] = {"checkpoint": str(tmp_path), "n_layers": 3}
    with pytest.raises(ConfigError, match="leave the other keys out"):
        run_config_from(document, name="x")
    document["model"] = {"checkpoint": str(tmp_path)}
    with pytest.raises(CheckpointError, match="has no model"):
        run_config_from(document, name="x").model.shape(10)


def test_one_stage_draws_from_all_sources_alike_and_never_ends() -> None:
    short, long = run_config(OUT), run_config(OUT, budget={"steps": 9999})
    curriculum = short.curriculum(KINDS)
    assert curriculum.stages[0].mixture == {"general": 1.0, "domain": 1.0, "instruction": 1.0}
    assert curriculum == long.curriculum(KINDS)  # so that a run can be prolonged
    mixed = run_config(OUT, curriculum={"mixture": {"general": 3, "domain": 1}}).curriculum(KINDS)
    assert mixed.source_tokens()["general"] == 3 * mixed.source_tokens()["domain"]


def test_three_stages_and_their_baseline_cover_the_budget() -> None:
    tables: dict[str, Any] = {"plan": "three_stages", "replay": 0.2}
    config = run_config(OUT, budget={"tokens": 51_000}, curriculum=tables)
    expected = three_stages(51_000, 16, replay=0.2)
    assert config.curriculum(KINDS) == expected
    assert [end for _, _, end in expected.spans] == [40_000, 50_000, 51_000]
    baseline = run_config(OUT, budget={"tokens": 51_000}, curriculum={**tables, "plan": "mixed_three_stages"})
    assert baseline.curriculum(KINDS) == one_mixture(expected)


def test_a_budget_in_steps_is_as_many_full_batches() -> None:
    config = run_config(OUT, budget={"steps": 100}, curriculum={"plan": "three_stages"})
    assert config.curriculum(KINDS).total_tokens == 6400


def test_a_plan_needs_to_know_how_long_it_is() -> None:
    document = run_document(OUT, curriculum={"plan": "three_stages"})
    document["budget"] = {"seconds": 60}
    with pytest.raises(ConfigError, match="needs total_tokens"):
        run_config_from(document, name="x").curriculum(KINDS)
    document["curriculum"]["total_tokens"] = 5100
    assert run_config_from(document, name="x").curriculum(KINDS).total_tokens == 5100


def test_stages_may_be_listed() -> None:
    stages = [
        {"name": "long", "share": 3, "mixture": {"general": 1}, "sequence_length": 32},
        {"name": "end", "share": 1, "mixture": {"domain": 1}, "learning_rate": [1, 0.1], "mask": "all"},
    ]
    warmup = {"start": 8, "tokens": 100}
    config = run_config(OUT, budget={"tokens": 4000}, curriculum={"stages": stages, "warmup": warmup})
    curriculum = config.curriculum(KINDS)
    assert [stage.sequence_length for stage in curriculum.stages] == [32, 16]
    assert curriculum.stages[1].learning_rate == (1.0, 0.1)
    assert [end for _, _, end in curriculum.spans] == [3000, 4000]
    assert curriculum.at(0).sequence_length == 8
    stages[0]["shares"] = 1
    config = run_config(OUT, curriculum={"stages": stages, "total_tokens": 100})
    with pytest.raises(ConfigError, match=r"stages 1\] has no key 'shares': did you mean 'share'"):
        config.curriculum(KINDS)
    with pytest.raises(ConfigError, match="leave plan out"):
        run_config(OUT, curriculum={"stages": [], "plan": "three_stages"}).curriculum(KINDS)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"plan": "stages"}, r"plan 'stages' needs the list \[\[curriculum.stages\]\]"),
        ({"stages": [1, 2]}, r"\[\[curriculum.stages\]\] must be a list of tables"),
        ({"stages": {"name": "a"}}, r"\[\[curriculum.stages\]\] must be a list of tables"),
        (
            {"plan": "three_stages", "mixture": {"general": 1}},
            r"mixture is for one_stage, not for plan 'three_stages': leave it out",
        ),
        ({"replay": 0.5}, r"replay is for three_stages and mixed_three_stages, not for plan 'one_stage'"),
        (
            {"stages": [{"name": "a", "share": 1, "mixture": {"general": 1}}], "replay": 0.5},
            r"replay is for .*, not for a list of stages",
        ),
        ({"total_tokens": "many"}, r"\[curriculum\] total_tokens must be a whole number, not 'many'"),
    ],
)
def test_what_a_plan_would_not_read_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(OUT, curriculum=table).curriculum(KINDS)


def test_the_longest_sequence_is_that_of_data_or_of_a_stage() -> None:
    def longest(*lengths: int | None) -> tuple[str, int]:
        stages = [{} if length is None else {"sequence_length": length} for length in lengths]
        return run_config(OUT, curriculum={"stages": stages} if stages else {}).longest_sequence

    assert longest() == longest(None, 8) == ("[data] sequence_length", 16)
    assert longest(8, None, 32, 24) == ("[[curriculum.stages]] sequence_length", 32)


def test_a_budget_is_done_at_the_first_of_its_ends() -> None:
    budget = Budget(tokens=1000, steps=10)
    assert budget.share_done(steps=2, tokens=100, seconds=0) == 0.2
    assert budget.share_done(steps=2, tokens=500, seconds=0) == 0.5
    assert Budget(seconds=2.0).share_done(steps=0, tokens=0, seconds=3.0) == 1.5
    with pytest.raises(ConfigError, match="tokens, steps or seconds"):
        Budget()


@given(value=st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans(), st.none()))
@pytest.mark.parametrize("hint", [int, float, str, bool, Path, float | None, tuple[float, float]])
def test_a_value_has_the_type_that_was_asked_for_or_is_refused(hint: Any, value: object) -> None:
    try:
        found = convert(hint, value, "x")
    except ConfigError as error:
        assert str(error).startswith("x")
        return
    if hint == float | None:
        assert found is None or type(found) is float
    elif hint is Path:
        assert isinstance(found, Path)
    else:
        assert type(found) is hint


def test_literals_of_other_kinds_and_tuples_are_checked() -> None:
    assert convert(Literal["a", "b"], "a", "x") == "a"
    assert convert(tuple[int, ...], [1, 2, 3], "x") == (1, 2, 3)
    for hint, value in ((tuple[int, int], [1]), (tuple[int, ...], 3), (tuple[int, ...], ["a"])):
        with pytest.raises(ConfigError, match="x"):
            convert(hint, value, "x")


def test_a_table_must_be_a_table() -> None:
    with pytest.raises(ConfigError, match=r"\[recipe\] must be a table, not \[1\]"):
        read_table(Recipe, [1], "[recipe]")


def test_a_configuration_survives_json_and_says_what_changed() -> None:
    before, after = run_config(OUT), run_config(OUT, recipe={"learning_rate": 0.02})
    machine = {"device": "CPU", "threads": 2}
    saved = {"config": before.to_dict(), "machine": machine}
    assert changes(saved, saved) == []
    other = {"config": after.to_dict(), "machine": {**machine, "threads": 4}}
    [changed, rounding] = changes(saved, other)
    assert changed == "recipe.learning_rate was 0.01 and is 0.02 from here on"
    assert "another threads" in rounding and "but not bit for bit" in rounding


def test_a_key_that_an_older_run_did_not_know_has_changed_where_it_is_on() -> None:
    def facts(moments: bool | None) -> dict[str, Any]:
        model = {"preset": "tiny"} | ({} if moments is None else {"moments": moments})
        return {"config": {"model": model}, "machine": {}}

    assert changes(facts(None), facts(False)) == []
    assert changes(facts(None), facts(True)) == ["model.moments was None and is True from here on"]
    assert changes(facts(True), facts(False)) == ["model.moments was True and is False from here on"]


def test_differing_shapes_are_named() -> None:
    one = run_config(OUT).model.shape(261)
    other = run_config(OUT, model={"d_ff": 256}, name="renamed").model.shape(261)
    assert shape_changes(one, one) == []
    assert shape_changes(one, other) == ["d_ff"]
    routed = run_config(OUT, model={"moe": {"bias_balancing": True, "top_k": 3}}).model.shape(261)
    assert shape_changes(one, routed) == ["moe.switch_loss", "moe.top_k"]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_can_be_read(file: Path) -> None:
    config = read_run_config(file)
    curriculum = config.curriculum(KINDS)
    if config.model.checkpoint is not None:
        return  # its shape is in a folder that is fetched
    shape = config.model.shape(4096)
    assert max(stage.sequence_length for stage in curriculum.stages) <= shape.max_context


def test_a_file_without_a_precision_leaves_it_open() -> None:
    document = run_document(OUT)
    for precision in ("auto", "fp32", "bf16", "fp16"):
        named = {**document, "compute": {"precision": precision}}
        assert run_config_from(named, name="named").compute.precision == precision
    del document["compute"]
    assert run_config_from(document, name="open").compute.precision == "auto"


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_reading_a_run_s_file_does_not_import_torch(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(toml(run_document(OUT)))
    code = (
        "import sys; from pathlib import Path; from model.training.config.run_config import read_run_config;"
        f"read_run_config(Path({str(file)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
