"""The clock: calls take turns, slow ones less often, and medians come out."""

import time

import pytest

from convforge.bench import timing, units


def busy(seconds):
    def call():
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return call


def test_medians_are_of_single_calls():
    short, long = timing.interleave([busy(20e-6), busy(2e-3)], budget=0.3)
    assert 20e-6 <= short.low <= short.seconds <= short.high
    assert long.seconds >= 2e-3
    assert min(short.rounds, long.rounds) >= timing.ROUNDS


def test_calls_take_turns():
    order = []

    def record(name, seconds):
        wait = busy(seconds)

        def call():
            order.append(name)
            wait()

        return call

    found = timing.interleave([record(name, 1e-3) for name in "abc"], rounds=7, budget=1e-6 + 0.021 * 3)
    turns = order[-3 * found[0].rounds :]
    rounds = [turns[i : i + 3] for i in range(0, len(turns), 3)]
    assert len(rounds) >= 7
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert {each[0] for each in rounds} == {"a", "b", "c"}


def test_a_slow_call_does_not_eat_the_budget():
    slow, fast = timing.interleave([busy(0.12), busy(1e-3)], budget=0.2)
    assert slow.rounds == 1
    assert fast.rounds >= timing.ROUNDS


def test_progress_ends_at_one():
    told = []
    timing.interleave([busy(1e-4)] * 2, budget=0.01, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.0, "2.00 s"), (0.0123, "12.3 ms"), (999.7e-6, "1.00 ms"), (123.4e-6, "123 µs"), (4.56e-7, "456 ns")],
)
def test_seconds(value, text):
    assert units.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (999, "999 B"), (1536, "1.50 KiB"), (64 << 20, "64.0 MiB")])
def test_sizes(value, text):
    assert units.size(value) == text
