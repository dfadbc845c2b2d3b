"""Loading, swapping and draining, around backends that do as they are told. No HTTP, no model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from model.serving.api.errors import ApiError, LoadError
from model.serving.node.backend import Backend, Piece, Running
from model.serving.node.host import Host, OnDeath
from tests.model.serving.node.scripted_backend import ScriptedBackend, ask


class Shelf:
    """Backends by name, and what became of loading them."""

    def __init__(self, *names: str) -> None:
        self.made: dict[str, ScriptedBackend] = {name: ScriptedBackend(name) for name in names}
        self.errors: dict[str, Exception] = {}
        self.deaths: dict[str, OnDeath] = {}
        self.before: Callable[[], None] = lambda: None
        self.failures = 0

    def load(self, name: str | None, on_death: OnDeath) -> Backend:
        wanted = name or next(iter(self.made))
        self.before()
        if wanted in self.errors:
            raise self.errors[wanted]
        self.deaths[wanted] = on_death
        return self.made[wanted]

    def failed(self) -> None:
        self.failures += 1


async def started(shelf: Shelf, drain_s: float = 5) -> Host:
    host = Host(shelf.load, drain_s=drain_s, on_failure=shelf.failed)
    await host.start()
    return host


async def texts(running: Running) -> list[Piece]:
    try:
        return [piece async for piece in running.pieces()]
    finally:
        running.cancel()


async def test_nothing_is_served_before_the_model_is_loaded() -> None:
    host = Host(Shelf("a").load, drain_s=1, on_failure=lambda: None)
    with pytest.raises(ApiError) as caught:
        host.accepting()
    assert (caught.value.status, caught.value.code, caught.value.headers) == (
        503,
        "loading",
        {"Retry-After": "1"},
    )
    await host.start()
    assert host.accepting().backend.name == "a"


async def test_a_failed_first_load_is_told() -> None:
    shelf = Shelf("a")
    shelf.errors["a"] = LoadError(422, "model_not_usable", "broken")
    host = await started(shelf)
    assert shelf.failures == 1 and str(host.failure) == "broken"


async def test_a_swap_switches_new_requests_and_lets_old_ones_end() -> None:
    shelf = Shelf("a", "b")
    host = await started(shelf)
    running = await host.accepting().start(ask())
    answering = asyncio.create_task(texts(running))
    await asyncio.sleep(0)
    swapped = await host.swap("b")
    assert (swapped.model, swapped.previous, host.n_swaps) == ("b", "a", 1)
    assert host.accepting().backend.name == "b" and not shelf.made["a"].is_stopped
    with pytest.raises(ApiError, match="still answers requests"):
        await host.swap("a")
    shelf.made["a"].gate.set()
    assert len(await answering) == 3
    for _ in range(10):
        await asyncio.sleep(0)
    assert shelf.made["a"].is_stopped and not shelf.made["b"].is_stopped


async def test_an_answer_given_out_whole_holds_no_swap_up_before_it_is_closed() -> None:
    shelf = Shelf("a", "b")
    host = await started(shelf)
    deployment = host.accepting()
    running = await deployment.start(ask())
    await host.swap("b")
    shelf.made["a"].gate.set()
    assert len([piece async for piece in running.pieces()]) == 3
    assert (await host.swap("b")).previous == "b"
    running.cancel()
    assert deployment.n_answering == 0


async def test_an_old_model_that_takes_too_long_is_broken_off() -> None:
    shelf = Shelf("a", "b")
    host = await started(shelf, drain_s=0.05)
    answering = asyncio.create_task(texts(await host.accepting().start(ask())))
    await host.swap("b")
    with pytest.raises(ApiError) as caught:
        await answering
    assert caught.value.code == "shutting_down"


@pytest.mark.parametrize(
    ("status", "code"), [(404, "model_not_found"), (422, "model_not_usable"), (507, "out_of_memory")]
)
async def test_a_swap_that_fails_leaves_the_old_model_serving(status: int, code: str) -> None:
    shelf = Shelf("a", "b")
    host = await started(shelf)
    shelf.errors["b"] = LoadError(status, code, "why it failed")
    with pytest.raises(ApiError) as caught:
        await host.swap("b")
    assert (caught.value.status, caught.value.code) == (status, code)
    assert "why it failed" in caught.value.message and "a still serves" in caught.value.message
    shelf.made["a"].gate.set()
    assert len(await texts(await host.accepting().start(ask()))) == 3
    assert shelf.failures == 0
    del shelf.errors["b"]
    assert (await host.swap("b")).model == "b"


async def test_an_unforeseen_failure_of_a_swap_is_answered_too(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf("a", "b")
    host = await started(shelf)
    shelf.errors["b"] = ZeroDivisionError("a bug")
    with pytest.raises(ApiError, match="a still serves") as caught:
        await host.swap("b")
    assert caught.value.code == "swap_failed" and "a bug" in caplog.text
    assert host.accepting().backend.name == "a"


async def test_one_swap_at_a_time() -> None:
    shelf = Shelf("a", "b")
    host = await started(shelf)
    results = await asyncio.gather(host.swap("b"), host.swap("b"), return_exceptions=True)
    refused = [result for result in results if isinstance(result, ApiError)]
    assert [(error.status, error.code) for error in refused] == [(409, "swap_in_progress")]
    assert host.n_swaps == 1


async def test_draining_refuses_new_requests_and_waits_for_running_ones() -> None:
    shelf = Shelf("a")
    host = await started(shelf)
    answering = asyncio.create_task(texts(await host.accepting().start(ask())))
    draining = asyncio.create_task(host.drain())
    await asyncio.sleep(0.01)
    with pytest.raises(ApiError) as caught:
        host.accepting()
    assert (caught.value.code, caught.value.headers["Retry-After"]) == ("shutting_down", "2")
    assert not draining.done() and not shelf.made["a"].is_stopped
    shelf.made["a"].gate.set()
    assert len(await answering) == 3
    await draining
    assert shelf.made["a"].is_stopped


async def test_draining_breaks_off_what_does_not_end() -> None:
    host = await started(Shelf("a"), drain_s=0.05)
    answering = asyncio.create_task(texts(await host.accepting().start(ask())))
    await host.drain()
    with pytest.raises(ApiError, match="early"):
        await answering


async def test_a_node_told_to_end_while_it_swaps_does_not_switch() -> None:
    shelf = Shelf("a", "b")
    host = await started(shelf)
    shelf.before = lambda: setattr(host, "is_draining", True)
    with pytest.raises(ApiError) as caught:
        await host.swap("b")
    assert (caught.value.status, caught.value.code) == (503, "shutting_down")
    assert shelf.made["b"].is_stopped and host.current.backend.name == "a"
    shelf.before = lambda: pytest.fail("nothing is loaded for a node that ends")
    with pytest.raises(ApiError, match="shutting down"):
        await host.swap("b")


async def test_only_the_current_models_death_ends_the_node() -> None:
    shelf = Shelf("a", "b")
    host = await started(shelf)
    await host.swap("b")
    shelf.deaths["a"](RuntimeError("old"))
    await asyncio.sleep(0.01)
    assert shelf.failures == 0 and host.failure is None
    await asyncio.to_thread(shelf.deaths["b"], RuntimeError("new"))
    await asyncio.sleep(0.01)
    assert shelf.failures == 1 and str(host.failure) == "new"


async def test_a_refused_request_does_not_count_as_being_answered() -> None:
    shelf = Shelf("a")
    host = await started(shelf)
    shelf.made["a"].refusal = ApiError(429, "queue_full", "full")
    with pytest.raises(ApiError):
        await host.accepting().start(ask())
    assert host.current.n_answering == 0
    shelf.made["a"].refusal = None
    running = await host.accepting().start(ask())
    assert host.current.n_answering == 1
    running.cancel()
    running.cancel()
    assert host.current.n_answering == 0
