"""Measures speed and memory, and prints a table.

    python -m benchmarks [CASE ...] [--small] [--output FILE.json] [--against OTHER.json]

A search runs through Trainer.fit. In turns with it, in one process, a loop of the best plain PyTorch that we know does
the same work. A ratio is the median of the ratios of pairs. Memory is the peak while a side trains alone, beyond its
network and its data: by PyTorch's allocator on a GPU, and of all tensors on a CPU.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

from advnas_lightning.cli.process import keep_memory
from benchmarks.cases import CASES
from benchmarks.cases.scaling import AXES, figure
from benchmarks.rows import HEADER, Results, markdown


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("cases", nargs="*", metavar="CASE", help=f"all, or some of {', '.join(CASES)}")
    made.add_argument("--small", action="store_true", help="tiny sizes: try whether it runs; the numbers say nothing")
    made.add_argument("--output", type=Path, metavar="FILE.json", help="write the rows, and the figures beside them")
    made.add_argument("--against", type=Path, metavar="OTHER.json", help="compare with the file of another commit")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Measure the cases, print each row when it is there, and write the file after each case.

    Raises:
        ValueError: A case or a file is wrong.
    """
    unknown = [case for case in arguments.cases if case not in CASES]
    if unknown:
        raise ValueError(f"there is no case {unknown[0]}: give some of {', '.join(CASES)}")
    output: Path | None = arguments.output
    if output is not None and not output.resolve().parent.is_dir():
        raise ValueError(f"there is no folder {output.resolve().parent}: make it first")
    before = None if arguments.against is None else Results.read(arguments.against)
    results = Results.here(small=arguments.small)
    if before is not None and before.small != results.small:
        results.compared(before)
    hardware, versions = (", ".join(f"{key} {value}" for key, value in each.items() if value is not None)
                          for each in (results.hardware, results.versions))  # fmt: skip
    print(f"{hardware}; {versions}; commit {results.commit}")
    if results.small:
        print("tiny sizes: these numbers say nothing about speed")
    print()
    print(markdown([HEADER]), flush=True)
    for case in arguments.cases or CASES:
        rows = CASES[case](case, small=arguments.small)
        results.rows.extend(rows)
        print(markdown([row.cells() for row in rows], header=False), flush=True)
        if output is not None:
            results.write(output)
            if case in AXES:
                figure(case, rows).savefig(output.with_name(f"{output.stem}-{case}.svg"))
    for row in results.rows:
        for place, count in row.places.items():
            print(f"{row.what}: {count:.2f} {row.unit} at {place}")
    if before is not None:
        for difference in results.differences(before):
            print(f"not the same in {arguments.against}: {difference}")
        print(markdown(results.compared(before)))
        there = {row.key for row in before.rows}
        for row in results.rows:
            if row.key not in there:
                print(f"not in {arguments.against}: {', '.join(filter(None, row.key))}")


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: With the status 1 and one line, if something is wrong.
    """
    arguments = parser().parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    keep_memory()
    try:
        run(arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
