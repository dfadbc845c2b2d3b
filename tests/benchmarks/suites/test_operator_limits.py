"""What the judge concludes from which step answered whom."""

from benchmarks.suites.operator_limits import Request, Served, broken_limit

STEP_TOKENS, MAX_RUNNING = 100, 2


def served(requests: list[Request], *steps: list[int]) -> Served:
    found = Served(requests)
    for places in steps:
        assert found.take(places) is None
    return found


def limit(requests: list[Request], *steps: list[int]) -> str | None:
    return broken_limit(served(requests, *steps), STEP_TOKENS, MAX_RUNNING)


def test_a_prompt_that_is_read_in_as_many_steps_as_it_needs_is_within_the_limit() -> None:
    long = [Request(0, 250, 1, owner=1)]
    assert limit(long, [], [], [0]) is None
    assert limit([Request(0, 300, 1, owner=1)], [], [], [0]) is None


def test_a_prompt_that_is_read_in_fewer_steps_than_its_tokens_allow_is_not() -> None:
    broken = limit([Request(0, 250, 1, owner=1)], [], [0])
    assert broken is not None and "250 tokens in 2 steps" in broken


def test_idle_steps_before_a_prompt_came_are_no_credit() -> None:
    assert limit([Request(5, 250, 1, owner=1)], [], [], [], [], [], [], [0]) is not None
    assert limit([Request(5, 250, 1, owner=1)], [], [], [], [], [], [], [], [0]) is None


def test_tokens_of_running_answers_count_as_well() -> None:
    requests = [Request(0, 1, 9, owner=1), Request(1, 200, 1, owner=2)]
    assert limit(requests, [0], [0], [0, 1]) is not None  # 200 and two more in two steps
    assert limit(requests, [0], [0], [0], [0, 1]) is None


def test_more_answers_at_once_than_allowed_are_found() -> None:
    requests = [Request(0, 1, 3, owner=1) for _ in range(3)]
    assert limit(requests, [0, 1]) is None
    broken = limit(requests, [0, 1], [0, 1, 2])
    assert broken is not None and "3 answers were in progress" in broken


def test_one_that_ended_in_an_earlier_step_leaves_its_place() -> None:
    requests = [Request(0, 1, 1, owner=1), *[Request(0, 1, 3, owner=1) for _ in range(2)]]
    assert limit(requests, [0, 1], [1, 2]) is None
    assert limit(requests, [0, 1, 2]) is not None


def test_the_lower_of_two_priorities_is_not_answered_first() -> None:
    pair = [Request(0, 10, 2, owner=1, priority=0), Request(0, 10, 2, owner=2, priority=1)]
    assert limit(pair, [1]) is None and limit(pair, [0, 1]) is None and limit(pair, [1], [0]) is None
    broken = limit(pair, [0])
    assert broken is not None and "priority" in broken


def test_priorities_of_prompts_that_did_not_come_together_say_nothing() -> None:
    assert limit([Request(0, 10, 2, 1), Request(1, 10, 2, 2, priority=1)], [0]) is None
    assert limit([Request(0, 10, 2, 1), Request(0, 11, 2, 2, priority=1)], [0]) is None


def test_an_answer_to_no_request_is_told() -> None:
    early = Served([Request(1, 10, 2, owner=1)])
    assert early.take([0]) is not None
    ended = served([Request(0, 10, 1, owner=1)], [0])
    assert ended.is_done and ended.take([0]) is not None
