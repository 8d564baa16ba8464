"""The time of a report on many runs.

The runs are made up: finished ones of all tasks and strategies with the paper's settings, with whole configurations and
logs.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from advnas_lightning.cli import config  # its import registers the schemas that conf/ needs
from advnas_lightning.report import palette
from advnas_lightning.runs import CHOICES, CONFIG, HYDRA, OVERRIDES, RunFolder
from advnas_lightning.tasks.cifar10.model import EDGES
from advnas_lightning.tasks.cifar10.operations import OPERATIONS
from benchmarks.rows import Row

STRATEGIES = tuple(name for name in palette.STRATEGIES if name != "fixed")
CELL_OPERATIONS = tuple(OPERATIONS)
SPACES = (("toy", False), ("cifar10", False), ("cifar10", True), ("ptb", False))


def composed(strategy: str, task: str, zero_op: bool) -> dict[str, str]:
    """The texts of the files in a run's ``.hydra`` folder, all with the seed 0."""
    overrides = [f"strategy={strategy}", f"task={task}", *(["task.zero_op=true"] if zero_op else [])]
    whole = compose("config", overrides, return_hydra_config=True)
    hydra = whole.hydra
    hydra.runtime.choices = {"strategy": strategy, "task": task}
    OmegaConf.set_struct(whole, False)
    del whole["hydra"]
    return {
        CONFIG: OmegaConf.to_yaml(whole),
        CHOICES: OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})),
        OVERRIDES: OmegaConf.to_yaml(overrides),
    }


def write(folder: Path, strategy: str, task: str, seed: int, texts: dict[str, str]) -> None:
    """Write the folder of one run."""
    files = RunFolder(folder)
    dice = random.Random(f"{folder.parent.name} {strategy} {seed}")
    (folder / HYDRA).mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text.replace("seed: 0\n", f"seed: {seed}\n", 1))
    epochs = {"toy": 20, "cifar10": 100, "ptb": 30}[task]
    rows = ["entropy,epoch,nasbench201/argmax,nasbench201/process_best,seconds,step,test/loss,train/loss"]
    for epoch in range(epochs):
        if task == "toy":
            rows += [
                f",{epoch},,,,{step},{0.04 * math.exp(-step / 300) * dice.random()},"
                for step in range(100 * epoch + 10, 100 * epoch + 101, 10)
            ]
        step = 100 * (epoch + 1)
        rows.append(f"{1.4 - epoch / epochs},{epoch},,,,{step},,{dice.random()}")
        rows.append(f",{epoch},,,{60 * (epoch + dice.random())},{step},,")
        if task == "cifar10":
            rows.append(f",{epoch},{90 + 3 * epoch / epochs + dice.random()},{92 + dice.random()},,{step},,")
    files.metrics.write_text("\n".join(rows) + "\n")
    genotype = {edge: dice.choice(CELL_OPERATIONS) for edge in EDGES}
    files.genotype.write_text(
        json.dumps({"selected": "argmax", "argmax": genotype, "process_best": genotype}, indent=2)
    )
    summary = {
        "strategy": strategy, "task": task, "seed": seed, "preset": "paper", "epochs": epochs, "seconds": 60.0 * epochs,
        "entropy": 0.4, "argmax/cifar10_test": 93 + dice.random(), "process_best/cifar10_test": 92 + dice.random(),
        "val/perplexity": 95 + dice.random(), "test/perplexity": 91 + dice.random(), "params_millions": 1.0,
        "argmax/params_millions": dice.random(),
    }  # fmt: skip
    files.summary.write_text(json.dumps(summary, indent=2))


def report(case: str, *, small: bool) -> list[Row]:
    """Measure the CPU time of ``python -m advnas_lightning.report``, with that of its imports."""
    count = 4 if small else 1000
    grid = list(itertools.product(SPACES, STRATEGIES))[:count]
    conf = Path(config.__file__).parents[2] / "conf"
    with tempfile.TemporaryDirectory() as place, initialize_config_dir(str(conf), version_base="1.3"):
        texts = {(space, strategy): composed(strategy, *space) for space, strategy in grid}
        for number in range(count):
            (task, zero_op), strategy = grid[number % len(grid)]
            folder = Path(place) / "multirun" / f"{task}{'_zero' * zero_op}" / strategy / str(number)
            write(folder, strategy, task, number // len(grid), texts[(task, zero_op), strategy])
        command = [sys.executable, "-m", "advnas_lightning.report", f"{place}/multirun", "--output", f"{place}/report"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        size = (Path(place) / "report" / "report.html").stat().st_size
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [
        Row(case, f"CPU time of a report on {count} runs", seconds, "s"),
        Row(case, f"its page on {count} runs", size / 1e6, "MB"),
    ]
