"""Made-up run folders, as the command line leaves them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

OPERATIONS = ["skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
ACTIVATIONS = ["identity", "tanh", "sigmoid", "relu", "zero"]
EDGES = {
    "toy": [f"input->{node}" for node in range(1, 11)],
    "cifar10": ["0->1", "0->2", "1->2", "0->3", "1->3", "2->3"],
    "ptb": ["0->1", "0->2", "1->2", "0->3", "1->3", "2->3"],
}
DENSE = ("darts", "snas", "nasp", "drnas")
CLASSES = {
    path.stem: yaml.safe_load(path.read_text())["_target_"]
    for path in (Path(__file__).parents[2] / "conf" / "strategy").glob("*.yaml")
}
SKILL = ["nasp", "darts", "snas", "advantage", "proxylessnas", "parsec", "enas", "reinforce", "gdas", "random"]


def write_run(
    folder: Path,
    *,
    strategy: str = "advantage",
    task: str = "cifar10",
    seed: int = 0,
    zero_op: bool = False,
    epochs: int = 10,
    done: int | None = None,
    score: float | None = None,
    images: str = "test",
    timed: bool = True,
    settings: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> Path:
    """Write a run's folder.

    Args:
        folder: where.
        strategy: its name.
        task: toy, cifar10 or ptb.
        seed: of the run, and of what is made up.
        zero_op: of cifar10.
        epochs: of the whole run.
        done: of it; less than that is an unfinished run.
        score: accuracy of the arg-max cell in the end.
        images: of this accuracy, test or valid.
        timed: log ``seconds``.
        settings: more of the configuration, by dotted key.
        summary: more of the summary.
    """
    dice = random.Random(f"{strategy} {task} {seed}")
    done = epochs if done is None else done
    place = SKILL.index(strategy) if strategy in SKILL else 5
    operations = ACTIVATIONS if task == "ptb" else OPERATIONS + ["none"] * zero_op
    if task == "toy":
        operations = [f"filter{number}" for number in range(10)]
    genotype = {edge: dice.choice(operations) for edge in EDGES[task]}
    final = 94 - 0.1 * place - dice.random() * 0.6 if score is None else score
    warmup = epochs // 2 if task == "cifar10" else 0
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    config = {
        "seed": seed,
        "preset": "paper",
        "trainer": {"max_epochs": "${task.epochs}", "devices": 1},
        "task": {"epochs": epochs, "zero_op": zero_op, "optimization": {"warmup_epochs": warmup}},
        "strategy": {
            "_target_": CLASSES.get(strategy, strategy),
            **({"genotype": None} if strategy == "fixed" else {}),
        },
    }
    for key, value in (settings or {}).items():
        *path, last = key.split(".")
        inner: dict[str, Any] = config
        for part in path:
            inner = inner[part]
        inner[last] = value
    hydra = {"runtime": {"choices": {"strategy": strategy, "task": task}, "cwd": str(folder.parent)}}
    for name, content in (
        ("config", config),
        ("hydra", {"hydra": hydra}),
        ("overrides", [f"strategy={strategy}", f"seed={seed}"]),
    ):
        (folder / ".hydra" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    curves = {"test": "nasbench201", "valid": "nasbench201_valid"}[images]
    rows = [f"entropy,epoch,{curves}/argmax,{curves}/process_best,seconds,step,test/loss"]
    for epoch in range(done):
        if task == "toy":
            for step in range(100 * epoch + 10, 100 * epoch + 101, 10):
                loss = max(0.04 * 0.5 ** (step / (60 + 40 * place)) * dice.uniform(0.6, 1.4) - 1e-5, 0)
                rows.append(f",{epoch},,,,{step},{0.04 if strategy == 'random' else loss}")
        moved = max(epoch - warmup + 1, 0) / max(epochs - warmup, 1)
        accuracy = best = ""
        if task == "cifar10":
            accuracy = str(round(final - (1 - moved) * 5 * dice.random() - 0.5 * (1 - moved), 2))
            best = "" if strategy in ("darts", "snas", "proxylessnas") or not moved else str(round(final - 0.4, 2))
        entropy = 1.38 * (1 - (0.3 + 0.06 * (9 - place)) * moved)
        seconds = str((epoch + 1) * (30 if strategy in DENSE else 12) + dice.random()) if timed else ""
        rows.append(f"{entropy},{epoch},{accuracy},{best},,{100 * (epoch + 1)},")
        if timed:
            rows.append(f",{epoch},,,{seconds},{100 * (epoch + 1)},")
    (folder / "genotype.json").write_text(
        json.dumps({"selected": "argmax", "argmax": genotype, "process_best": None if strategy in DENSE else genotype})
    )
    if done >= epochs:
        rows.append(f",{epochs},,,,{100 * epochs},0.5")  # the evaluation at the end
        content: dict[str, Any] = {
            "strategy": strategy, "task": task, "seed": seed, "preset": "paper", "selected": "argmax", "epochs": epochs,
            "weight_steps": 100 * epochs, "seconds": 12.0 * epochs, "entropy": entropy, "loss": 0.5,
            "params_millions": 0.5 + dice.random(),
        }  # fmt: skip
        if task == "cifar10":
            content |= {f"argmax/cifar10_{images}": final, "argmax/params_millions": 0.5 + dice.random()}
            if strategy not in ("darts", "snas", "proxylessnas"):
                content[f"process_best/cifar10_{images}"] = final - 0.4
        if task == "ptb":
            content |= {"val/perplexity": 95 + place + dice.random(), "test/perplexity": 91 + place + dice.random()}
        (folder / "summary.json").write_text(json.dumps({**content, **(summary or {})}))
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    return folder
