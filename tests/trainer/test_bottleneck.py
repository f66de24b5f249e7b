"""Which moment of a step belongs to what, on events written by hand, and which verdict follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.insight import bottleneck
from trainer.insight.bottleneck import Event

MAIN, OTHER = 1, 2
SEEN = st.tuples(
    st.sampled_from(
        ["aten::mm", "gloo:all_reduce", "c10d::allreduce_", "fairlead::data", "Optimizer.step#SGD.step", "a label"]
    ),
    st.integers(-20, 120),
    st.integers(0, 40),
    st.booleans(),
)


def step(begin: float, end: float) -> Event:
    return Event("ProfilerStep*", begin, end, MAIN, is_label=True)


def on_card(name: str, begin: float, end: float) -> Event:
    return Event(name, begin, end, 0, end - begin, on_card=True)


def label(name: str, begin: float, end: float, thread: int = MAIN) -> Event:
    return Event(name, begin, end, thread, end - begin, is_label=True)


def micros(events: list[Event]) -> dict[str, float]:
    return {kind: pytest.approx(s * 1e6) for kind, s in bottleneck.seconds(events).items() if s}


def test_seconds_on_a_host_computing_hides_the_exchange_and_reading_is_data() -> None:
    events = [
        step(0, 50),
        step(50, 100),
        label("fairlead::data", 0, 10),
        Event("aten::stack", 2, 8, MAIN),  # of the data set, which is read in this process
        Event("aten::mm", 10, 40, MAIN),
        Event("c10d::allreduce_", 30, 31, MAIN),
        label("gloo:all_reduce", 35, 60, OTHER),
        Event("aten::copy_", 36, 59, OTHER),  # gloo's own
        label("Optimizer.step#SGD.step", 60, 75),
        Event("aten::add_", 62, 70, MAIN),
    ]

    assert micros(events) == {"data": 10, "compute": 30, "communication": 20, "optimizer": 15, "overhead": 25}
    assert bottleneck.hidden_s(events) * 1e6 == pytest.approx(10)
    assert bottleneck.exposed(events) == 1


def test_seconds_exchange_that_a_thread_begins_late_counts_from_the_call_on() -> None:
    events = [step(0, 100), Event("c10d::allreduce_", 10, 12, MAIN), label("gloo:all_reduce", 30, 40, OTHER)]

    assert micros(events) == {"communication": 30, "overhead": 70}


def test_seconds_on_a_card_the_host_counts_only_while_the_card_is_idle() -> None:
    events = [
        step(0, 100),
        Event("aten::mm", 0, 5, MAIN),
        on_card("ampere_sgemm", 10, 40),
        on_card("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 30, 60),
        label("fairlead::data", 20, 80),
        label("fairlead::checkpoint", 90, 95),
        Event("ProfilerStep#3", 0, 100, 0, on_card=True, is_label=True),
    ]

    expected = {"compute": 30, "communication": 20, "data": 20, "checkpoint": 5, "overhead": 25}
    assert micros(events) == expected
    assert bottleneck.exposed(events) == pytest.approx(20 / 60)
    assert bottleneck.top(events)[0].name.startswith(("ampere", "nccl"))


def test_seconds_of_no_profiled_step_is_nothing() -> None:
    assert bottleneck.seconds([Event("aten::mm", 0, 5, MAIN)]) == {}


@given(st.lists(SEEN))
def test_seconds_whatever_was_seen_add_up_to_the_steps(seen: list[tuple[str, int, int, bool]]) -> None:
    events = [step(0, 60), step(60, 100)]
    for name, begin, lasts, aside in seen:
        is_label = not name.startswith(("aten", "c10d"))
        events.append(Event(name, begin, begin + lasts, OTHER if aside else MAIN, lasts, is_label=is_label))

    found = bottleneck.seconds(events)

    assert sum(found.values()) == pytest.approx(100e-6)
    assert min(found.values()) >= 0
    assert bottleneck.hidden_s(events) >= -1e-12


def test_shares_take_what_was_measured_and_divide_the_rest_as_in_the_sample() -> None:
    profiled = {"compute": 3.0, "communication": 1.0, "data": 5.0, "evaluation": 0.0, "checkpoint": 0.0}

    found = bottleneck.shares(profiled, {"data": 10.0, "checkpoint": 50.0}, total_s=100.0)

    assert found == pytest.approx(
        {"checkpoint": 0.5, "compute": 0.3, "communication": 0.1, "data": 0.1, "evaluation": 0.0}
    )
    assert next(iter(found)) == bottleneck.verdict(found) == "checkpoint"


def test_verdict_counts_the_optimizers_step_as_computing() -> None:
    assert bottleneck.verdict({"data": 0.4, "optimizer": 0.3, "compute": 0.3}) == "compute"


def test_top_adds_up_calls_and_leaves_labels_out() -> None:
    events = [
        step(0, 100),
        Event("aten::mm", 0, 5, MAIN, own_us=5),
        Event("aten::mm", 10, 12, MAIN, own_us=2),
        Event("aten::linear", 0, 6, MAIN, own_us=1),
        label("DistributedDataParallel.forward", 0, 50),
        label("gloo:all_reduce", 0, 90, OTHER),
    ]

    found = [(o.name, o.calls, round(o.own_s * 1e6)) for o in bottleneck.top(events)]

    assert found == [("gloo:all_reduce", 1, 90), ("aten::mm", 2, 7), ("aten::linear", 1, 1)]
