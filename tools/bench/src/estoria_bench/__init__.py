"""Benchmarks that compare two sides in turn, in one run, and hold the ratio to a bar."""

from estoria_bench._measure import Bar, Result, Side, Workload, measure

__all__ = ["Bar", "Result", "Side", "Workload", "measure"]
