"""The clock: calls take turns, slow ones less often, and medians come out."""

import pytest

from convforge.bench import timing, units


class Clock:
    """A clock that only calls move on."""

    def __init__(self):
        self.now = 0.0
        self.order = []

    def call(self, name, *seconds):
        """A call that takes these seconds, the last of them from then on."""
        durations = list(seconds)

        def run():
            self.now += durations.pop(0) if len(durations) > 1 else durations[0]
            self.order.append(name)

        return run


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(timing, "perf_counter", lambda: made.now)
    return made


def test_medians_are_of_single_calls(clock):
    short, long = timing.interleave([clock.call("short", 20e-6), clock.call("long", 2e-3)], budget=0.1)
    assert short.seconds == pytest.approx(20e-6)
    assert long.seconds == pytest.approx(2e-3)
    assert short.rounds == long.rounds >= timing.ROUNDS
    assert clock.order.count("short") >= 10 * short.rounds  # a sample is many short calls


def test_median_and_quartiles(clock):
    (found,) = timing.interleave([clock.call("a", *[1e-3] * 3, *[5e-3] * 2, *[2e-3] * 2, 9e-3, 1e-3)], budget=1e-9)
    assert found.rounds == 1
    (found,) = timing.interleave(
        [clock.call("a", *[1e-3] * 3, 5e-3, 1e-3, 2e-3, 9e-3, 3e-3, 4e-3, 6e-3)], budget=7.01e-3
    )
    assert found.rounds == timing.ROUNDS
    assert [found.low, found.seconds, found.high] == pytest.approx([2.5e-3, 4e-3, 5.5e-3])


def test_calls_take_turns(clock):
    found = timing.interleave([clock.call(name, 1e-3) for name in "abc"], budget=0.021)
    assert [each.rounds for each in found] == [7, 7, 7]
    turns = "".join(clock.order[-21:])
    assert turns == "abcbcacababcbcacababc"


def test_a_slow_call_does_not_eat_the_budget(clock):
    slow, fast = timing.interleave([clock.call("slow", 0.12), clock.call("fast", 1e-3)], budget=0.2)
    assert slow.rounds == 1
    assert fast.rounds >= timing.ROUNDS
    assert clock.order.count("slow") == 2  # one warm-up, one sample


def test_what_is_left_of_the_budget_goes_into_rounds(clock):
    (found,) = timing.interleave([clock.call("a", 1e-3)], budget=20e-3)
    assert found.rounds == 20
    (found,) = timing.interleave([clock.call("a", 1e-3)], budget=20.0)
    assert found.rounds == 35


def test_progress_ends_at_one(clock):
    told = []
    timing.interleave([clock.call("a", 1e-4)] * 2, budget=0.01, progress=told.append)
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


def test_rounds_for_each_call_are_kept_to(clock):
    slow, fast = timing.interleave([clock.call("slow", 1.0), clock.call("fast", 1e-3)], rounds=[2, 7], budget=0.1)
    assert (slow.rounds, fast.rounds) == (2, 7)
    slow, fast = timing.interleave([clock.call("slow", 1.0), clock.call("fast", 1e-3)], rounds=[2, 7], budget=9.0)
    assert slow.rounds == 2  # what is left of the budget is for those that have most
    assert fast.rounds == 35


def test_a_short_call_after_settling_has_a_lead_in(clock):
    settle = clock.call("|", 1e-4)
    calls = [clock.call("a", 1e-3), clock.call("b", 10e-3)]
    short, _ = timing.interleave(calls, rounds=[7, 7], budget=1e-9, settle=settle)
    assert short.seconds == pytest.approx(1e-3)
    order = "".join(clock.order)
    assert "||aaaa|b|b|aaaa" in order
