"""The cases of the suite: what ``python -m benchmarks`` can measure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.cases import cifar10, elastic, many_runs, no_trace, offload, ptb, scaling, starting, toy, waiting
from benchmarks.rows import Row

#: By name. Each is a function ``(name, *, small) -> rows``.
CASES: dict[str, Callable[..., list[Row]]] = {
    **{
        f"cifar10-{strategy}{ending}": partial(cifar10.pair, strategy=strategy, precision=precision)
        for ending, precision in (("", "32-true"), ("-bf16", "bf16-mixed"))
        for strategy in cifar10.STRATEGIES
    },
    "ptb": partial(ptb.steps, precision="32-true"),
    "ptb-bf16": partial(ptb.steps, precision="bf16-mixed"),
    "toy": toy.iteration,
    "elastic": elastic.steps,
    **{axis: scaling.scaling for axis in scaling.AXES},
    "import": starting.importing,
    "help": starting.help_text,
    "first-step": starting.first_step,
    "waits": waiting.waits,
    "no-trace": no_trace.shares,
    "offload": offload.memory,
    "many-runs": many_runs.report,
}
