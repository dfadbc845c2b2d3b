"""The curriculum: shares in tokens, lengths, learning rates, the baseline with equal tokens, and bad settings."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ConfigError
from model.data.batches.curriculum import Curriculum, LengthWarmup, Stage, one_mixture, three_stages

TOTAL = 51_000


def test_stages_take_40_to_10_to_1_of_the_tokens() -> None:
    curriculum = three_stages(TOTAL, 512)
    assert [(stage.name, end - start) for stage, start, end in curriculum.spans] == [
        ("general", 40_000),
        ("domain", 10_000),
        ("instruction", 1_000),
    ]
    for tokens, name in ((0, "general"), (39_999, "general"), (40_000, "domain"), (50_000, "instruction")):
        assert curriculum.at(tokens).stage.name == name
    assert curriculum.at(10 * TOTAL).stage.name == "instruction"  # it goes on where training does


def test_later_stages_replay_earlier_sources() -> None:
    general, domain, instruction = three_stages(TOTAL, 512, replay=0.2).stages
    assert general.mixture == {"general": 1.0}
    assert domain.mixture == {"general": 0.2, "domain": 0.8}
    assert instruction.mixture == pytest.approx({"general": 0.1, "domain": 0.1, "instruction": 0.8})
    assert instruction.mask == "answers"


def test_the_learning_rate_is_continuous_and_ends_at_a_tenth() -> None:
    curriculum = three_stages(TOTAL, 512)
    scales = [curriculum.at(tokens).learning_rate_scale for tokens in range(0, TOTAL, 10)]
    assert scales[0] == 1.0 and curriculum.at(40_000).learning_rate_scale == 1.0
    assert all(abs(after - before) < 1e-3 + 1e-9 for before, after in itertools.pairwise(scales))
    assert curriculum.at(TOTAL).learning_rate_scale == pytest.approx(0.1)
    assert curriculum.at(2 * TOTAL).learning_rate_scale == pytest.approx(0.1)
    middle = curriculum.at(45_000)
    assert middle.learning_rate_scale == pytest.approx(1 - 0.9 * 5_000 / 11_000)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 50), st.dictionaries(st.sampled_from("abc"), st.floats(0.01, 9), min_size=1)
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(10_000, 10**12),
)
def test_the_baseline_has_equal_tokens_of_every_source(
    parts: list[tuple[float, dict[str, float]]], total: int
) -> None:
    stages = [Stage(str(number), share, mixture, 64) for number, (share, mixture) in enumerate(parts)]
    curriculum = Curriculum(tuple(stages), total)
    baseline = one_mixture(curriculum)
    assert baseline.source_tokens() == pytest.approx(curriculum.source_tokens())
    assert sum(curriculum.source_tokens().values()) == pytest.approx(total)
    assert len({json.dumps(stage.mixture, sort_keys=True) for stage in baseline.stages}) == 1


def test_the_baseline_differs_in_the_order_of_data_alone() -> None:
    curriculum = three_stages(TOTAL, 512, warmup=LengthWarmup(64, 8_000))
    baseline = one_mixture(curriculum)
    for tokens in range(0, TOTAL + 1000, 500):
        mine, theirs = curriculum.at(tokens), baseline.at(tokens)
        assert mine.sequence_length == theirs.sequence_length
        assert mine.learning_rate_scale == theirs.learning_rate_scale
        assert mine.stage.mask == theirs.stage.mask
    assert baseline.at(0).stage.mixture == baseline.at(TOTAL).stage.mixture != curriculum.at(0).stage.mixture


def test_sequences_grow_in_equal_steps_of_tokens() -> None:
    curriculum = three_stages(TOTAL, 512, warmup=LengthWarmup(start=64, tokens=8_000, steps=4, multiple=8))
    assert [(part.start, part.sequence_length) for part in curriculum.segments[:5]] == [
        (0, 64),
        (2_000, 176),
        (4_000, 288),
        (6_000, 400),
        (8_000, 512),
    ]
    assert curriculum.at(1_999).sequence_length == 64
    assert curriculum.at(8_000).sequence_length == 512
    assert curriculum.at(0).stage.name == "general"


@settings(deadline=None)
@given(
    st.integers(2, 300), st.integers(0, 300), st.integers(1, 20_000), st.integers(1, 30), st.integers(1, 64)
)
def test_segments_follow_each_other_without_gaps(
    start: int, growth: int, tokens: int, steps: int, multiple: int
) -> None:
    full = start + growth
    warmup = LengthWarmup(start, tokens, steps, multiple)
    curriculum = three_stages(TOTAL, full, warmup=warmup)
    segments = curriculum.segments
    assert [segment.number for segment in segments] == list(range(len(segments)))
    assert segments[0].start == 0 and segments[-1].end is None
    for segment, following in itertools.pairwise(segments):
        assert segment.end == following.start > segment.start
        assert start <= segment.sequence_length <= following.sequence_length <= full
        assert curriculum.at(segment.start).segment == curriculum.at(following.start - 1).segment == segment
    assert [segment.stage for segment in segments if segment.sequence_length == full][-3:] == [0, 1, 2]


def test_a_curriculum_goes_through_json() -> None:
    curriculum = three_stages(TOTAL, 512, warmup=LengthWarmup(64, 8_000))
    assert Curriculum.from_dict(json.loads(json.dumps(curriculum.to_dict()))) == curriculum
    assert Curriculum.from_dict(replace(curriculum, warmup=None).to_dict()).warmup is None
    plain = {"name": "a", "share": 1, "mixture": {"a": 1}, "sequence_length": 8}
    read = Curriculum.from_dict({"stages": [plain], "total_tokens": 9})
    assert read.stages == (Stage(**plain),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "stages"),
        ({"stages": [{"name": "a"}], "total_tokens": 9}, "share"),
        (
            {
                "stages": [{"name": "a", "share": 1, "mixture": {"a": 1}, "sequence_length": 8, "lenght": 1}],
                "total_tokens": 9,
            },
            "lenght",
        ),
        (
            {"stages": [{"name": "a", "share": 1, "mixture": [1], "sequence_length": 8}], "total_tokens": 9},
            "values",
        ),
        ({"stages": 3, "total_tokens": 9}, "iterable"),
    ],
)
def test_a_bad_document_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"not a curriculum: .*{reason}"):
        Curriculum.from_dict(values)


GOOD = Stage("a", 1.0, {"a": 1.0}, 64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"share": 0}, "share of a must be above 0"),
        ({"sequence_length": 1}, "at least 2"),
        ({"mask": "questions"}, "one of all, answers"),
        ({"mixture": {}}, "a weight above 0"),
        ({"mixture": {"a": 0.0}}, "a weight above 0"),
        ({"mixture": {"a": 1.0, "b": -1.0}}, "none below"),
        ({"learning_rate": (1.0, -0.1)}, "none negative"),
        ({"learning_rate": (1.0,)}, "two factors"),
    ],
)
def test_a_bad_stage_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        replace(GOOD, **changes)


def test_a_bad_curriculum_is_refused() -> None:
    for stages, total, warmup, reason in (
        ((), 10, None, "at least one stage"),
        ((GOOD, GOOD), 10, None, "different names"),
        ((GOOD, replace(GOOD, name="b", share=1e-6)), 10, None, "b would get no token"),
        ((GOOD,), 10, LengthWarmup(65, 5), "must not exceed the first stage's 64"),
        ((GOOD,), 10, LengthWarmup(8, 11), "must not exceed the first stage's 10"),
    ):
        with pytest.raises(ConfigError, match=reason):
            Curriculum(stages, total, warmup)
    for field in ("tokens", "steps", "multiple"):
        with pytest.raises(ConfigError, match=f"LengthWarmup.{field}"):
            LengthWarmup(**{"start": 8, "tokens": 5, field: 0})
    with pytest.raises(ConfigError, match=r"LengthWarmup\.start"):
        LengthWarmup(1, 5)
    with pytest.raises(ConfigError, match="replay"):
        three_stages(TOTAL, 512, replay=1.0)
    with pytest.raises(ConfigError, match="exactly general, domain and instruction"):
        three_stages(TOTAL, 512, shares={"general": 1})
    with pytest.raises(ValueError, match="negative"):
        three_stages(TOTAL, 512).at(-1)


def test_sources_of_no_weight_are_not_needed() -> None:
    curriculum = Curriculum((replace(GOOD, mixture={"a": 1.0, "b": 0.0}),), 10)
    assert curriculum.sources == {"a"}
    assert curriculum.source_tokens() == {"a": 10}
