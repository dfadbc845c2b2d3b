"""Who is credited with a saving: no gain for what another did, none above its own log, none for a second draw."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.canary.order import DECODE, MEMORY, PREFILL
from benchmarks.sharing.credits import Gain, line_credits, new_gains, without_effect
from benchmarks.sharing.lines import Measures
from benchmarks.sharing.savings import PRICED_LINES, Saving, Served, placed, saved_ppm

START = datetime(2026, 11, 1, tzinfo=UTC)
LOGS = st.integers(1, 3_000_000)
LINES = st.frozensets(st.sampled_from(PRICED_LINES))


def gain(name: str, log: int, *lines: str) -> Gain:
    return Gain(name, log, Measures(frozenset(lines)))


def part_of(name: str, log: int, *lines: str) -> Gain:
    return Gain(name, log, Measures(part=frozenset(lines)))


@st.composite
def gains(draw: st.DrawFn) -> list[Gain]:
    drawn = draw(st.lists(st.tuples(LOGS, st.builds(Measures, LINES, LINES)), max_size=5))
    return [Gain(f"g{number}", log, measures) for number, (log, measures) in enumerate(drawn)]


@st.composite
def savings(draw: st.DrawFn) -> Saving:
    before = draw(st.integers(0, 1_000_000))
    return Saving(draw(st.sampled_from(PRICED_LINES)), before, before + draw(LOGS))


def test_a_gain_that_measures_no_line_has_no_part() -> None:
    saving = Saving(DECODE, 0, 100_000)
    real, unrelated = gain("real", 110_000, DECODE), gain("unrelated", 2_000_000)
    assert line_credits(saving, [real, unrelated], {}) == {"real": saving.ppm}
    assert line_credits(saving, [unrelated], {}) == {}


def test_a_gain_of_another_line_has_a_part_where_no_gain_measures_this_one() -> None:
    saving = Saving(MEMORY, 0, 100_000)
    decode, memory = gain("decode", 110_000, DECODE), gain("memory", 200_000, MEMORY)
    assert line_credits(saving, [decode], {}) == {"decode": saving.ppm}
    assert line_credits(saving, [decode, memory], {}) == {"memory": saving.ppm}


def test_gains_of_a_part_share_what_is_above_the_gains_of_the_whole_line() -> None:
    """How much of a layer's gain reaches a step is not known: two nats of it take nothing from a real gain of decode."""
    saving = Saving(DECODE, 50_000, 150_000)
    layer = part_of("layer", 2_000_000, DECODE, PREFILL)
    assert line_credits(saving, [gain("real", 110_000, DECODE), layer], {}) == {
        "real": saving.ppm,
        "layer": 0,
    }
    both = line_credits(saving, [layer, gain("real", 40_000, DECODE)], {})
    assert both == {"real": saved_ppm(50_000, 90_000), "layer": saved_ppm(90_000, 150_000)}
    assert line_credits(saving, [layer, gain("memory", 40_000, MEMORY)], {}) == {"layer": saving.ppm}


def test_gains_share_by_their_logs_within_what_they_save_together() -> None:
    saving = Saving(DECODE, 50_000, 950_000)
    ours, theirs = gain("ours", 200_000, DECODE), gain("theirs", 100_000, DECODE, PREFILL)
    whole = saved_ppm(50_000, 350_000)
    assert line_credits(saving, [ours, theirs], {}) == {"ours": whole * 2 // 3, "theirs": whole // 3}


def test_a_gain_that_comes_again_has_its_earlier_credit_at_most() -> None:
    saving = Saving(DECODE, 0, 100_000)
    both = [gain("a", 100_000, DECODE), gain("b", 100_000, DECODE)]
    assert line_credits(saving, both, {"a": 20, "b": 0}) == {"a": 20, "b": 0}


@given(savings(), gains(), st.dictionaries(st.sampled_from(["g0", "g1"]), st.integers(0, 1_000_000)))
def test_no_credit_is_above_its_limits(saving: Saving, among: list[Gain], most: dict[str, int]) -> None:
    credited = line_credits(saving, among, most)
    before = saving.level_before_log_ppm
    logs = {each.id: each.log_ppm for each in among}
    assert 0 <= sum(credited.values()) <= saving.ppm
    assert sum(credited.values()) <= saved_ppm(before, before + sum(logs[name] for name in credited))
    for name, credit in credited.items():
        assert 0 <= credit <= saved_ppm(before, before + logs[name])
        assert credit <= most.get(name, credit)


@given(savings(), gains(), LOGS)
def test_a_gain_that_does_not_measure_the_line_changes_no_credit_of_one_that_does(
    saving: Saving, among: list[Gain], log: int
) -> None:
    measuring = [each for each in among if saving.line in each.measures.whole | each.measures.part]
    others = [gain("other", log, *(set(PRICED_LINES) - {saving.line})), gain("none", log)]
    if measuring:
        assert line_credits(saving, [*among, *others], {}) == line_credits(saving, measuring, {})


@given(savings(), st.integers(1, 1_000_000), st.integers(1, 5), gains())
def test_a_gain_in_pieces_is_credited_no_more_than_in_one(
    saving: Saving, log: int, pieces: int, others: list[Gain]
) -> None:
    whole = line_credits(saving, [gain("whole", pieces * log, DECODE), *others], {})
    parts = [gain(f"part{each}", log, DECODE) for each in range(pieces)]
    split = line_credits(saving, [*parts, *others], {})
    assert sum(split.get(part.id, 0) for part in parts) <= whole.get("whole", 0)
    assert all(split[name] == credit for name, credit in whole.items() if name != "whole")


def clocked(day: int, tree: str, decode: int, *, lost: int | None = None, **more: int) -> Served:
    lost_at = None if lost is None else START + timedelta(days=lost)
    return Served(str(day), tree, START + timedelta(days=day), {DECODE: decode, **more}, None, lost_at)


def test_gains_are_new_until_a_deployment_that_counts_serves_them() -> None:
    of = {"ab": frozenset("ab"), "abc": frozenset("abc")}.__getitem__
    kept = placed([clocked(1, "ab", 1), clocked(2, "abc", 1)])
    assert [new_gains(each, kept, of) for each in kept] == [frozenset("ab"), frozenset("c")]
    lost = placed([clocked(1, "ab", 1, lost=2), clocked(3, "abc", 1)])
    assert new_gains(lost[1], lost, of) == frozenset("abc")


@pytest.mark.parametrize(
    ("first", "useless"),
    [
        (clocked(1, "a", 0, lost=2), "a"),
        (clocked(1, "a", -5, lost=2), "a"),
        (clocked(1, "a", 5, lost=2), ""),
        (Served("1", "a", START, {PREFILL: 5}), ""),  # decode was not clocked
        (Served("1", "a", START), ""),
    ],
)
def test_a_gain_that_was_clocked_without_a_saving_has_no_effect(first: Served, useless: str) -> None:
    of = {"a": frozenset("a"), "ab": frozenset("ab")}.__getitem__
    history = placed([first, clocked(3, "ab", 9)])
    assert without_effect(DECODE, history[1], history, of) == frozenset(useless)
    assert without_effect(DECODE, history[0], history, of) == frozenset()


def test_a_later_tree_that_saves_nothing_says_nothing_of_a_gain_that_was_credited() -> None:
    of = {"a": frozenset("a"), "ab": frozenset("ab"), "abc": frozenset("abc")}.__getitem__
    history = placed([clocked(1, "a", 5, lost=4), clocked(2, "ab", 0, lost=3), clocked(5, "abc", 9)])
    assert without_effect(DECODE, history[2], history, of) == frozenset("b")
