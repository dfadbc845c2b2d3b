"""What a run leaves to look at: log, event files, terminal lines; and the small figures that they show."""

from __future__ import annotations

import io
import json
import math
import mmap
import re
import struct
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.line_chart import Line, Panel, draw, nice_ticks, short
from model.config import LatentConfig, MoEConfig
from model.data.batches.batch import Batch
from model.layers import linear_fused
from model.layers.moe.metrics import ExpertMetrics
from model.layers.watched import torch_instead
from model.presets import PRESETS
from model.training.report import gemm_peak
from model.training.report.event_text import amount, describe, duration
from model.training.report.events import Evaluated, Event, Finished, Noticed, Saved, Started, Stepped
from model.training.report.flops import causal_pairs, training_cost
from model.training.report.gemm_peak import measure_gemm_peak
from model.training.report.layer_metrics import summary
from model.training.report.log import RunLog, cut_behind, read_log
from model.training.report.memory import memory_use
from model.training.report.pace import Pace
from model.training.report.progress import LiveProgress, PlainProgress, progress_on
from model.training.report.tensorboard import TensorBoardLog
from model.training.report.throughput import Speedometer
from model.transformer import Transformer
from tests.model.training.run.training_runs import DENSE, MOE, packed_batch

STARTED = Started(0, {"device": "CPU, 2 threads", "precision": "bf16"}, {"output": "x"}, 1000, 200, 5e9)


def stepped(step: int, **changed: object) -> Stepped:
    event = Stepped(
        step=step,
        tokens=100 * step,
        loss=4.0 / step,
        learning_rate=1e-3,
        gradient_norm=0.5,
        tokens_per_s=1234.5,
        mfu=0.25,
        seconds=float(step),
        progress=step / 10,
        eta_s=3725.0,
        memory_bytes=2**30,
        padding_share=0.1,
        metrics={"max_over_mean_load": 1.5},
    )
    return replace(event, **changed)  # type: ignore[arg-type]


def evaluated(step: int, loss: float = 2.0, *, is_average: bool = False) -> Evaluated:
    return Evaluated(step, 100 * step, loss, {"general": loss}, 64, 0.5, is_average)


def logged(file: Path, events: list[Event], step: int = 0) -> None:
    log = RunLog(file, step=step)
    for event in events:
        log.on(event)
    log.close()


def test_the_log_has_a_line_for_every_event(tmp_path: Path) -> None:
    file = tmp_path / "out" / "log.jsonl"
    events: list[Event] = [
        STARTED,
        stepped(1),
        evaluated(1),
        Saved(1, Path("a/b"), 0.1),
        Noticed(1, "hm"),
        Finished(1, 100, "done"),
    ]
    logged(file, events)
    rows = read_log(file)
    kinds = ["started", "stepped", "evaluated", "saved", "noticed", "finished"]
    assert [row["event"] for row in rows] == kinds
    assert rows[1]["loss"] == 4.0 and rows[1]["metrics"] == {"max_over_mean_load": 1.5}
    assert rows[3]["folder"] == "a/b" and all(row["at"].endswith("+00:00") for row in rows)
    assert read_log(file, "evaluated") == [rows[2]]


def test_a_resumed_run_logs_each_step_once(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    logged(file, [STARTED, *(stepped(step) for step in range(1, 6)), evaluated(4)])
    with file.open("a") as opened:
        opened.write('{"event": "stepped", "step": 6, "lo')  # killed while it wrote
    logged(file, [replace(STARTED, step=3), *(stepped(step, loss=9.0) for step in range(4, 7))], step=3)
    rows = read_log(file, "stepped")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in rows[3:]] == [9.0] * 3
    assert [row["step"] for row in read_log(file, "started")] == [0, 3]
    assert read_log(file, "evaluated") == []
    assert all(json.loads(line) for line in file.read_text().splitlines())


@given(steps=st.lists(st.integers(1, 50), max_size=20), at=st.integers(0, 50), torn=st.booleans())
def test_cutting_leaves_exactly_what_lies_behind(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], at: int, torn: bool
) -> None:
    file = tmp_path_factory.mktemp("log") / "log.jsonl"
    file.write_text("".join(f'{{"event": "stepped", "step": {step}}}\n' for step in steps) + '{"st' * torn)
    cut_behind(file, at)
    assert [row["step"] for row in read_log(file)] == [step for step in steps if step <= at]
    assert list(file.parent.iterdir()) == [file]


def test_numbers_that_are_none_are_words_in_the_log(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    logged(file, [stepped(1, loss=math.nan, mfu=math.inf)])
    [row] = read_log(file)
    assert (row["loss"], row["mfu"]) == ("nan", "inf")


def records(folder: Path) -> list[bytes]:
    """The payloads of all event files: length, its checksum, payload, its checksum."""
    found = []
    for file in sorted(folder.iterdir()):
        content, start = file.read_bytes(), 0
        while start < len(content):
            [size] = struct.unpack_from("<Q", content, start)
            found.append(content[start + 12 : start + 12 + size])
            start += 16 + size
    return found


def test_tensorboard_s_files_hold_the_curves(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, step=0)
    for event in (STARTED, stepped(1), stepped(2), evaluated(2), evaluated(2, is_average=True)):
        log.on(event)
    log.close()
    payload = b"".join(records(tmp_path))
    assert payload.count(b"loss/train") == 2 and struct.pack("<f", 2.0) in payload
    for name in (b"held_out/all", b"held_out/general", b"held_out_average/all", b"speed/mfu"):
        assert name in payload
    assert b"model/max_over_mean_load" in payload and b"speed/memory_bytes" in payload


def test_a_resumed_run_tells_tensorboard_what_to_forget(tmp_path: Path) -> None:
    for step in (0, 3):
        TensorBoardLog(tmp_path / str(step), step=step).close()
    # SessionLog.START is field 7 of an event, with status 1 in field 1; its step is the first one to be forgotten.
    starts = [payload for payload in records(tmp_path / "3") if b"\x3a\x02\x08\x01" in payload]
    assert len(starts) == 1 and b"\x10\x04" in starts[0]
    assert not any(b"\x3a\x02\x08\x01" in payload for payload in records(tmp_path / "0"))
    TensorBoardLog(tmp_path / "0", step=0).close()  # the first start ended before it had saved anything
    starts = [payload for payload in records(tmp_path / "0") if b"\x3a\x02\x08\x01" in payload]
    assert len(starts) == 1 and b"\x10\x01" in starts[0]


def text_on(observer: type, events: list[Event], **options: object) -> str:
    stream = io.StringIO()
    shown = observer(Console(file=stream, width=200), **options)
    for event in events:
        shown.on(event)
    shown.close()
    return stream.getvalue()


def test_plain_lines_show_everything_but_not_every_step() -> None:
    now = iter([0.0, 1.0, 9.9, 10.0, 11.0])
    events: list[Event] = [STARTED, *(stepped(step) for step in range(1, 6)), evaluated(5)]
    text = text_on(PlainProgress, events, clock=lambda: next(now))
    lines = text.splitlines()
    assert [re.match(r"step (\d)", line)[1] for line in lines if "norm" in line] == ["1", "4"]  # type: ignore[index]
    assert "1k parameters, 200 active (20%)" in lines[0] and "5 GFLOP/s" in lines[0]
    assert "held-out loss 2.0000 (weights; general 2.0000; 64 targets)" in lines[-1]


def test_a_step_s_line_has_all_that_one_watches() -> None:
    text = describe(stepped(7, stage="domain", is_skipped=True))
    for part in (
        "step 7",
        "loss 0.5714",
        "lr 1.00e-03",
        "norm 0.50 (overflow, left out)",
        "tok/s 1,234",
        "MFU 25.0%",
        "expert load 1.50x",
        "memory 1.00 GiB",
        "stage domain",
        "done 70%",
        "ETA 1:02:05",
    ):
        assert part in text
    bare = describe(stepped(7, memory_bytes=None, eta_s=None, metrics={}))
    assert "expert" not in bare and "memory" not in bare and "ETA" not in bare


def test_the_other_events_in_words() -> None:
    assert describe(Noticed(3, "[x] was 1")) == "step 3  note: [x] was 1"
    assert describe(Saved(3, Path("a"), 1.0)) == "step 3  saved a"
    assert describe(Finished(3, 1200, "the budget is spent")) == "the budget is spent: 3 steps, 1,200 tokens"
    assert describe(replace(STARTED, step=3)).startswith("resuming after step 3: ")


def test_the_first_event_says_the_precision_and_why_where_the_file_leaves_it_open() -> None:
    named = "training: 1k parameters, 200 active (20%), CPU, 2 threads, bf16 at most 5 GFLOP/s"
    assert describe(STARTED) == named
    measured = replace(
        STARTED, precision_reason="products of one thread reach 61 GFLOP/s, against 48 in fp32"
    )
    assert describe(measured) == (
        f"{named}; precision bf16: products of one thread reach 61 GFLOP/s, against 48 in fp32"
    )


def test_a_terminal_gets_a_bar_and_keeps_the_lines_above_it() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    shown = progress_on(console)
    assert isinstance(shown, LiveProgress)
    for event in (STARTED, stepped(5), Noticed(5, "[red]not markup")):
        shown.on(event)
    shown.close()
    shown.close()  # again is no harm
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "━" in text and "step 5" in text and "500 tokens" in text and "[red]not markup" in text
    assert isinstance(progress_on(Console(file=io.StringIO())), PlainProgress)


def test_amounts_and_durations() -> None:
    assert [amount(n) for n in (999, 12_345_678, 1.5e9, 2e12)] == ["999", "12.3M", "1.5B", "2T"]
    assert [duration(s) for s in (0, 61, 3725, -3)] == ["0:00", "1:01", "1:02:05", "0:00"]
    assert [short(v) for v in (3_200_000, 0.001234, 1500, 2e9)] == ["3.2M", "0.00123", "1.5k", "2G"]


def test_points_lie_where_their_values_are() -> None:
    text = draw("t", [Panel("p", [Line("l", [0, 10], [1.0, 3.0])])], x_name="x")
    [points] = re.findall(r'polyline points="([^"]+)"', text)
    (x0, y0), (x1, y1) = (tuple(map(float, pair.split(","))) for pair in points.split())
    assert x0 == 70 and x1 == 740 and y0 > y1  # larger is higher


def test_on_a_logarithmic_axis_equal_ratios_are_equal_distances() -> None:
    line = Line("l", [1, 10, 1000], [1.0, 2.0, 3.0])
    text = draw("t", [Panel("p", [line])], x_name="x", is_x_log=True)
    [points] = re.findall(r'polyline points="([^"]+)"', text)
    xs = [float(pair.split(",")[0]) for pair in points.split()]
    assert xs[2] - xs[1] == pytest.approx(2 * (xs[1] - xs[0]), abs=0.2)
    assert [tick in text for tick in (">1<", ">10<", ">100<", ">1k<")] == [True] * 4
    with pytest.raises(ValueError, match="above zero"):
        draw("t", [Panel("p", [Line("l", [0, 1], [1.0, 2.0])])], x_name="x", is_x_log=True)


def test_long_curves_are_thinned_and_gaps_left_out() -> None:
    ys = [math.nan if k == 3 else float(k) for k in range(5000)]
    text = draw("t", [Panel("p", [Line("l", list(range(5000)), ys)])], x_name="x")
    [points] = re.findall(r'polyline points="([^"]+)"', text)
    assert 500 <= len(points.split()) <= 600 and "nan" not in text
    with pytest.raises(ValueError, match="nothing to draw"):
        draw("t", [Panel("p", [Line("l", [1.0], [math.nan])])], x_name="x")


@given(low=st.floats(-1e9, 1e9), span=st.floats(1e-6, 1e9), most=st.integers(2, 10))
@example(low=-900719926.0, span=1e-6, most=6)
def test_ticks_are_few_even_and_inside(low: float, span: float, most: int) -> None:
    high = low + span
    ticks = nice_ticks(low, high, most)
    assert len(ticks) <= most
    assert all(low - span * 1e-6 <= tick <= high + span * 1e-6 for tick in ticks)


def test_a_flat_curve_and_a_single_point_can_be_drawn() -> None:
    ET.fromstring(draw("t", [Panel("p", [Line("l", [1, 2], [5.0, 5.0])])], x_name="x"))
    assert "<circle" in draw("t", [Panel("p", [Line("l", [1], [0.0])])], x_name="x")


def matrix_flops(model: Transformer, batch: Batch) -> float:
    """Forward FLOPs of all matrix products as torch counts them; it does not know the CPU's fused attention, nor ours."""
    with (
        torch_instead(),
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        model(batch.tokens_BS)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "config",
    [
        DENSE,
        replace(DENSE, tie_embeddings=False),
        replace(DENSE, attention_owners=(0, 0), ffn_owners=(0, 0)),
        replace(DENSE, latent=LatentConfig(kv_rank=8, d_nope=8, d_rope=4, d_value=12)),
    ],
    ids=["tied", "untied", "shared", "latent"],
)
def test_a_third_of_the_counted_operations_is_what_torch_counts_forward(config: object) -> None:
    model = Transformer(config).eval()  # type: ignore[arg-type]
    batch = packed_batch(rows=2, length=16)
    cost = training_cost(model.config)
    all_pairs = 2 * 16 * 16  # torch counts the whole square, masked or not
    counted = cost.flops(32, dict.fromkeys(cost.layers, all_pairs)) / 3
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1) * 2 * 32
    assert counted - 2 * norms <= matrix_flops(model, batch) <= counted


def test_only_active_experts_and_ahead_modules_count() -> None:
    tiny = PRESETS["tiny"]
    assert tiny.moe is not None
    cost = training_cost(tiny)
    wider = replace(tiny, moe=replace(tiny.moe, n_experts=16))
    router = 8 * tiny.d_model * tiny.n_layers
    assert training_cost(wider).per_token - cost.per_token == 6 * router
    ahead = training_cost(replace(DENSE, n_ahead=2))
    block = DENSE.attention_parameters + 3 * 32 * 48
    assert ahead.per_token - training_cost(DENSE).per_token == 6 * 2 * (block + 2 * 32**2 + 32 * 32)
    assert sum(ahead.layers.values()) == DENSE.n_layers + 2


@given(length=st.integers(1, 60), window=st.one_of(st.none(), st.integers(1, 70)))
def test_pairs_are_those_of_the_mask(length: int, window: int | None) -> None:
    queries, keys = torch.arange(length)[:, None], torch.arange(length)[None]
    mask = (keys <= queries) & ((queries - keys < window) if window else torch.tensor(True))
    assert causal_pairs(length, window) == int(mask.sum())


def test_speed_counts_tokens_and_pairs_within_documents_but_no_padding() -> None:
    batch = packed_batch(rows=4, length=16)  # documents of 8 and 4 tokens, 4 of padding
    config = replace(MOE, sliding_window=3, full_attention_layers=(0,))
    speed = Speedometer(config, peak_flops=1e9).of(batch, seconds=0.5)
    cost = training_cost(config)
    full = 4 * (causal_pairs(8) + causal_pairs(4))
    windowed = 4 * (causal_pairs(8, 3) + causal_pairs(4, 3))
    assert dict(cost.layers) == {None: 1, 3: 1}
    assert speed.tokens_per_s == 48 / 0.5 and speed.padding_share == 0.25
    flops = cost.per_token * 48 + cost.per_pair * (full + windowed)
    assert speed.mfu == pytest.approx(flops / 0.5 / 1e9)


def test_the_peak_is_a_speed_that_a_product_reaches() -> None:
    before = torch.get_rng_state()
    peak = measure_gemm_peak(torch.device("cpu"), torch.float32, seconds=0.0)
    assert 1e8 < peak < 1e14
    assert torch.equal(torch.get_rng_state(), before)  # else a resumed run would draw other random numbers


class BusyMachine:
    """Clock and products of a machine of 100 GFLOP/s that others use: half its speed for half a second, and no long turns."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def perf_counter(self) -> float:
        return self.now_ns / 1e9

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)

    def mm(self, left: torch.Tensor, _right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        assert torch.get_num_threads() == 1, "threads would wait for one another"
        own_ns = 2 * len(left) ** 3 // 100 * (2 if self.now_ns < 5e8 else 1)
        self.now_ns += own_ns + (10_000_000 if own_ns > 5_000_000 else 0)
        return out


def test_the_peak_of_a_machine_that_others_use_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = BusyMachine()
    monkeypatch.setattr(gemm_peak, "time", machine)
    monkeypatch.setattr(torch, "mm", machine.mm)
    monkeypatch.setattr(linear_fused, "_fast_formats", lambda: 0)  # its products take no time of this clock
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            peak = measure_gemm_peak(torch.device("cpu"), torch.float32)
            assert peak == pytest.approx(number * 100e9, rel=1e-3) and torch.get_num_threads() == number
            assert machine.perf_counter() < 1.0
            machine.now_ns = 0
    finally:
        torch.set_num_threads(threads)


def test_memory_grows_with_what_is_held() -> None:
    before = memory_use(torch.device("cpu"))
    held = mmap.mmap(-1, 64 * 2**20)  # not from the heap, which may have room left from earlier tests
    held.write(bytes(64 * 2**20))
    after = memory_use(torch.device("cpu"))
    assert before is not None and after is not None
    assert after.now_bytes - before.now_bytes > 48 * 2**20
    assert after.peak_bytes >= after.now_bytes
    held.close()


def test_time_left_is_at_the_pace_of_this_start() -> None:
    assert Pace(0.0, 0.0).left_s(0.25, 10.0) == pytest.approx(30.0)
    assert Pace(0.5, 100.0).left_s(0.75, 110.0) == pytest.approx(10.0)
    assert Pace(0.5, 100.0).left_s(0.5, 100.0) is None
    assert Pace(0.0, 0.0).left_s(1.2, 10.0) == 0.0


def test_many_layers_figures_become_few() -> None:
    def layer(top: float, entropy: float, dropped: float, losses: dict[str, float]) -> ExpertMetrics:
        return ExpertMetrics([1, 2], entropy, top, dropped, 2.0, losses, 3)

    layers = {"a": layer(1.5, 0.9, 0.0, {"z": 1.0}), "b": layer(2.0, 0.7, 0.1, {"z": 3.0, "switch": 1.0})}
    assert summary(layers) == {
        "max_over_mean_load": 2.0,
        "load_entropy": 0.7,
        "dropped_share": 0.1,
        "router_logit_rms": 2.0,
        "z_loss": 2.0,
        "switch_loss": 1.0,
    }
    assert summary({}) == {}


def test_the_cost_of_a_real_moe_is_that_of_its_active_parameters() -> None:
    config = replace(
        PRESETS["smollm2"], moe=MoEConfig(d_model=576, d_expert=96, n_experts=16, top_k=4, n_shared=1)
    )
    cost = training_cost(config)
    assert cost.per_token == 6 * config.active_parameters
    assert cost.per_pair == 6 * 2 * 9 * 64
