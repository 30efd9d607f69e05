"""What a benchmark found: scores of contenders, cases of layers, and a report of all; as plain data and back."""

from convforge.bench.report.data import Case, Report, Score

__all__ = ["Case", "Report", "Score"]
