"""The benchmark's arithmetic: medians, ratios, bars and the exit status."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from estoria_bench import Bar, Result, Workload, measure
from estoria_bench.__main__ import as_json, as_table, find_workloads


@asynccontextmanager
async def nothing():
    yield {}


def result(bars, **rates):
    return Result(Workload("group.name", "what", bars, nothing), rates)


def test_medians_are_compared():
    found = result([Bar("floor", 0.5)], ours=[1.0, 60.0, 1_000.0], floor=[100.0, 100.0, 1.0])

    assert found.ratio("floor") == pytest.approx(0.6)
    assert found.missed() == []


@pytest.mark.parametrize(("ours", "missed"), [(51.0, False), (49.0, True)])
def test_a_bar_is_met_or_missed(ours, missed):
    found = result([Bar("floor", 0.5)], ours=[ours], floor=[100.0])

    assert bool(found.missed()) is missed
    assert as_json(found)["missed"] == (["floor"] if missed else [])
    assert as_table(found).row_count == 2


@pytest.mark.parametrize(("ours", "missed"), [(12.6, False), (12.4, True)])
def test_a_bar_on_time_is_one_on_speed(ours, missed):
    found = result([Bar.time("decoding", at_most=8)], ours=[ours], decoding=[100.0])

    assert bool(found.missed()) is missed


def test_sides_take_turns():
    calls = []

    @asynccontextmanager
    async def sides():
        async def ours():
            calls.append("A")
            return 1

        async def floor():
            calls.append("B")
            return 2

        yield {"ours": ours, "floor": floor}

    found = asyncio.run(measure(Workload("x.y", "what", [], sides, rounds=1)))

    assert "".join(calls) == "AB" * 6
    assert {side: len(rates) for side, rates in found.rates.items()} == {"ours": 5, "floor": 5}


def test_every_workload_has_a_bar_or_says_that_it_has_none():
    found = find_workloads()

    assert {"memory", "sqlite"} <= {name.split(".")[0] for name in found}
    assert all(w.bars or w.what.endswith("(reported)") for w in found.values())
