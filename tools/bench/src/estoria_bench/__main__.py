"""``hatch run bench WORKLOAD... [--json FILE]``."""

import argparse
import asyncio
import json
import platform
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from rich.console import Console
from rich.table import Table

from estoria_bench import workloads
from estoria_bench._measure import Result, Workload, measure


def main() -> int:
    """Run the workloads that were named; 1 when one of them misses a bar."""
    known = find_workloads()
    parser = argparse.ArgumentParser(prog="hatch run bench", description=__doc__)
    parser.add_argument("workload", nargs="+", help="a group, a workload, or 'all'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.epilog = "Workloads: " + ", ".join(known)
    arguments = parser.parse_args()
    chosen = [
        workload
        for name, workload in known.items()
        if any(wanted in ("all", name, name.split(".")[0]) for wanted in arguments.workload)
    ]
    unknown = [
        wanted
        for wanted in arguments.workload
        if wanted != "all" and not any(wanted in (n, n.split(".")[0]) for n in known)
    ]
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(known)}")
    console = Console()
    results = []
    for workload in chosen:
        with console.status(f"{workload.name}: {workload.what}"):
            results.append(asyncio.run(measure(workload)))
        console.print(as_table(results[-1]))
    if arguments.json:
        arguments.json.write_text(json.dumps([as_json(result) for result in results], indent=1))
    missed = [result.workload.name for result in results if result.missed()]
    if missed:
        console.print(f"[red]missed a bar:[/] {', '.join(missed)}")
    return 1 if missed else 0


def find_workloads() -> dict[str, Workload]:
    """The workloads of every module in `estoria_bench.workloads`, as ``module.name``."""
    found = {}
    for module in iter_modules(workloads.__path__):
        for workload in import_module(f"{workloads.__name__}.{module.name}").WORKLOADS:
            found[workload.name] = workload
    return found


def as_table(result: Result) -> Table:
    """One line for each side: its speed, and our ratio to it beside the bar."""
    table = Table(title=f"{result.workload.name}: {result.workload.what}", title_justify="left")
    for heading in ("side", "per second", "ratio ours/side", "bar", ""):
        table.add_column(heading, justify="left" if heading in ("side", "") else "right")
    bars = {bar.against: bar for bar in result.workload.bars}
    for side in result.rates:
        bar = bars.get(side)
        limit, verdict = "", ""
        if bar is not None:
            limit = f"{bar.at_least:.3g}"
            if bar.at_most_times is not None:
                limit = f"{limit} ({bar.at_most_times:g} x the time)"
            verdict = "[red]missed[/]" if bar in result.missed() else "[green]met[/]"
        ratio = "" if side == "ours" else f"{result.ratio(side):.2f}"
        table.add_row(side, f"{result.rate(side):,.0f}", ratio, limit, verdict)
    return table


def as_json(result: Result) -> dict[str, object]:
    """Everything that was measured, and on what."""
    return {
        "workload": result.workload.name,
        "what": result.workload.what,
        "python": platform.python_version(),
        "per_second": {side: result.rate(side) for side in result.rates},
        "rounds": result.rates,
        "bars": [
            {"against": bar.against, "at_least": bar.at_least, "ratio": result.ratio(bar.against)}
            for bar in result.workload.bars
        ],
        "missed": [bar.against for bar in result.missed()],
    }


if __name__ == "__main__":
    sys.exit(main())
