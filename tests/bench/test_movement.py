"""What moved from one report to the next."""

import pytest

from convforge.bench.report import text
from convforge.bench.report.movement import movement
from convforge.bench.table import without_colours

from .reports import SMALL, made, made_report


def test_only_what_is_beyond_the_noise_has_moved():
    old = made_report(made("a", 1, {"torch": 2}), made("b", 1, {"torch": 2}), made("c", 1, {"torch": 2}, noise=0.2))
    new = made_report(made("a", 1.2, {"torch": 2}), made("b", 1.01, {"torch": 2}), made("c", 1.2, {"torch": 2}))
    found = movement(old, new)
    assert [(each.case.layer, each.beyond_noise) for each in found.moves] == [("a", True), ("c", False), ("b", False)]
    assert found.moves[0].change == pytest.approx(1 / 1.2)
    assert "1 of 3 moved beyond the noise" in without_colours(text.render_movement(found))


def test_a_slower_machine_moves_nothing():
    old, new = made_report(made("a", 1, {"torch": 2})), made_report(made("a", 3, {"torch": 6}))
    (move,) = movement(old, new).moves
    assert not move.beyond_noise
    assert move.change == pytest.approx(1)


def test_the_yardstick_is_a_peer_of_both_or_the_peak():
    old = made_report(made("a", 1, {"torch": 2, "ncnn": 1.5}))
    new = made_report(made("a", 1, {"torch": 2, "openvino": 1}))
    (move,) = movement(old, new).moves
    assert (move.yardstick, move.before, move.after) == ("torch fast", pytest.approx(2), pytest.approx(2))
    (move,) = movement(made_report(made("a", 4, {})), made_report(made("a", 5, {}))).moves
    assert (move.yardstick, move.change) == ("peak", pytest.approx(0.8))


def test_layers_of_one_report_and_other_machines_are_said():
    old = made_report(made("a", 1, {"torch": 2}), made("b", 1, {"torch": 2}))
    host = {"cpu": "two", "isa": "avx2", "cores": 2}
    new = made_report(
        made("a", 1, {"torch": 2}), made("a", 1, {"torch": 2}, threads=2), host=host, peers={"torch": "3"}
    )
    found = movement(old, new)
    assert found.gone == (f"b {SMALL} on 1",)
    assert found.new == (f"a {SMALL} on 2",)
    assert found.notes == ("cpu: one then, two now", "torch: 2 then, 3 now")


def test_other_work_is_not_compared():
    with pytest.raises(ValueError, match="mode is prepared, and this run's is functional"):
        movement(made_report(), made_report(mode="functional"))
