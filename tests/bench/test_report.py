"""What a report sums up, and the files that it is written to."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from convforge.bench.report import Report, html, summary, text
from convforge.bench.table import without_colours

from .reports import GROUPED, QUICK, SMALL, made, made_report, report_on


def test_summary_by_family_and_library():
    cases = [
        made("a", 1.0, {"torch": 2.0, "ncnn": 4.0}),
        made("b", 1.0, {"torch": 8.0}),
        made("c", 1.0, {"torch": 0.5}, family="1x1"),
        made("p", 1.0, {"torch": 0.1}, family="pooling"),
    ]
    lines = {line.family.name: line for line in summary.by_family(cases, "convforge")}
    assert lines["3x3"].mean == pytest.approx(4)
    assert (lines["3x3"].worst, lines["3x3"].worst_layer) == (pytest.approx(2), "a")
    assert lines["all"].mean == pytest.approx(2)  # pools do not count
    assert lines["all"].count == 3
    found = summary.by_library(cases, "convforge")
    assert found["3x3"] == {"torch": pytest.approx(4), "ncnn": pytest.approx(4)}
    assert list(found) == ["3x3", "1x1", "pooling", "all"]


def test_disturbed_cases_are_warned_of():
    report = made_report(made("a", 1, {"torch": 1}), replace(made("b", 1, {"torch": 1}), others=0.6))
    printed = without_colours(text.render(report))
    assert "during 1 of 2 contests, 60% during b on 1 thread" in printed
    assert "60% during b" in html.page(report)
    assert "disturbed" not in without_colours(text.render(replace(report, cases=report.cases[:1])))


@pytest.mark.usefixtures("nothing_to_compile")
def test_json_round_trip():
    report = report_on(SMALL, GROUPED, rules=replace(QUICK, variants=True))
    again = Report.from_json(report.to_json())
    assert again.cases == report.cases
    assert again.to_json() == report.to_json()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.update(kind="compare"), "not what"),
        (lambda data: data.update(format=99), "format is 99"),
        (lambda data: data.pop("cases"), "damaged"),
        (lambda data: data.update(more=1), "damaged"),
        (lambda data: data["cases"][0].pop("flops"), "damaged"),
        (lambda data: data["cases"][0]["scores"][0].update(role="judge"), "unknown role"),
        (lambda data: data["cases"][0]["scores"][0].update(seconds="fast"), "no positive number"),
        (lambda data: data.update(cases=[3]), "damaged"),
    ],
)
def test_a_damaged_report_is_refused(spoil, message):
    data = json.loads(made_report(made("a", 1, {"torch": 2})).to_json())
    spoil(data)
    with pytest.raises(ValueError, match=message):
        Report.from_json(json.dumps(data))


class _Tags(HTMLParser):
    """Every tag closed, and what any of them would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe", "img", "object")

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else():
    cases = [made("a<b", 1, {"torch": 2, "ncnn": 4}), made("c", 3, {"torch": 1}, family="1x1")]
    page = html.page(made_report(*cases, *(replace(each, threads=2) for each in cases), missing={"scipy": "<none>"}))
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.loads == []
    assert "http" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert "a&lt;b" in page
    assert "<none>" not in page
    drawings = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert len(drawings) == 6  # three for each count of threads
    bars = [ElementTree.fromstring(each).findall("rect") for each in drawings]
    assert [len(each) for each in bars] == [2, 0, 0, 2, 0, 0]


def test_a_page_of_a_real_run_without_peers():
    report = report_on(SMALL, GROUPED)
    tags = _Tags()
    tags.feed(html.page(replace(report, peers={}, cases=report.cases[1:])))
    assert tags.open == []
