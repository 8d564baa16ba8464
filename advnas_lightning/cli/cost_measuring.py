"""Measures the costs of a run's candidates on this machine, from the folder of the run alone."""

from __future__ import annotations

import os
import platform
import random
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from omegaconf import DictConfig
from torch import nn

from advnas_lightning.batch_description import (
    describe,
    make_batch,
    read_description,
    resized,
    tensors,
    write_description,
)
from advnas_lightning.cli.checks import function_at
from advnas_lightning.cli.cost_showing import described, found_architectures, show_costs
from advnas_lightning.cli.loading import saved_settings, saved_state
from advnas_lightning.cli.options import MORE_KINDS
from advnas_lightning.cli.run import build_data, build_strategy, data_arguments
from advnas_lightning.cost.additivity import Additivity
from advnas_lightning.cost.files import LOCK, Measurement, read_costs, write_costs
from advnas_lightning.cost.measuring import measure, measure_whole
from advnas_lightning.cost.meters import UNITS
from advnas_lightning.cost.table import CostTable
from advnas_lightning.engine.plain import PlainModel
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.folder_lock import turn_in
from advnas_lightning.runs import RunFolder
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.texts import plain

# The cost of the run itself plays no part here, and all weights are on one device.
WITHOUT = {"cost": None, "cost_file": None, "cost_penalty": None, "cost_budget": None, "offload": False}


def measure_run(options: Mapping[str, Any]) -> None:
    """Measure what the options of ``advnas cost measure`` ask for, write the file, and print it.

    Args:
        options: The value of each option.

    Raises:
        ValueError: There is no such device, the run cannot be loaded, it is no search, or the file is of another
            network.
    """
    device = usable_device(options["device"])
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    config, checkpoint = saved_settings(options["RUN"], trust=options["trust"], changes=WITHOUT)
    folder = RunFolder.of(checkpoint)
    meters = {name: name if name in UNITS else _own_meter(name) for name in options["kinds"]}
    search, batch = _search_and_batch(config, folder, trust=options["trust"], batch_size=options["batch_size"])
    if not mixed_ops(search.model):
        raise ValueError(f"{options['RUN']} trains one architecture, which has no candidates: give the run of a search")
    if options["check"] and not isinstance(search.trainee, PlainModel):
        raise ValueError("check: the network is a LightningModule with a loss of its own: leave check out")
    search.load_state_dict({name: value for name, value in saved_state(checkpoint).items() if not _of_cost(name)})
    output = Path(os.path.relpath(folder.costs)) if options["output"] is None else options["output"]
    _already_there(output, search)  # refuses a file of another network before the work
    search.to(device)
    batch = move_data_to_device(batch, device)
    how = {
        "device": options["device"],
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "batch": [each["shape"] for each in tensors(describe(batch))],
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    found = {}
    for name, meter in meters.items():
        print(f"measuring {plain(name)}", file=sys.stderr, flush=True)
        search.train(name == "memory")  # which is what a backward pass needs
        table = measure(meter, search.model, search.evaluator, batch)
        check = {}
        if options["check"] and name in UNITS:
            print(f"comparing with whole networks: {name}", file=sys.stderr, flush=True)
            check = {"check": check_sums(name, table, search, batch, options["check"]).content()}
        found[name] = Measurement(table, {**how, **check})
    with turn_in(output.parent, LOCK):
        before = _already_there(output, search)  # again, since another process may have added to it
        write_costs(output, {**before, **found})
    for name in sorted(before.keys() & found.keys()):
        print(f"replaced in {output}: {plain(name)}, {plain(described(before[name].measured))}")
    show_costs(found, {}, found_architectures(folder.path, found))
    print(plain(str(output)))


def usable_device(name: str) -> torch.device:
    """A device of this machine.

    Raises:
        ValueError: PyTorch finds no such device here.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    device = torch.device(name)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}[device.type]
    if (device.index or 0) >= count:
        raise ValueError(f"device={name}: PyTorch finds no such device here: use device=cpu, or another machine")
    return device


def device_name(device: torch.device) -> str:
    """The name of a device's hardware, as far as the system tells it; otherwise the kind of the machine.

    Example:
        >>> device_name(torch.device("cpu")) != ""
        True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine() or "unknown"


def check_sums(kind: str, table: CostTable, search: SearchStrategy, batch: Any, count: int) -> Additivity:
    """Compare the sums of a table with the costs of whole networks, for random architectures.

    Args:
        kind: The kind of the cost.
        table: The costs of the candidates.
        search: The search, in the mode in which they were measured, with an objective.
        batch: The batch on which they were measured.
        count: The number of architectures; fewer where the space has no more.
    """
    generator, space = random.Random(0), search.space
    choices: dict[Sequence[int], None] = {}
    while len(choices) < min(count, space.size):
        choices[tuple(generator.randrange(len(row)) for row in space.candidates)] = None
    whole = []
    for choice in choices:
        network: nn.Module = space.genotype(choice).apply(search.model)
        whole.append(measure_whole(kind, network, partial(search.objective, network, batch)))
    return Additivity([table.of(choice) for choice in choices], whole)


def _search_and_batch(
    config: DictConfig, folder: RunFolder, *, trust: bool, batch_size: int | None
) -> tuple[SearchStrategy, Any]:
    """The search of a run and a batch for it: by their description, or from the data if the run has left none."""
    if folder.batch.is_file():
        content = read_description(folder.batch)
        arguments = {name: content.get(name, {}) for name in ("model_arguments", "objective_arguments")}
        description = content["batch"] if batch_size is None else resized(content["batch"], batch_size)
        return build_strategy(config, SimpleNamespace(**arguments)), make_batch(description, trust=trust)
    try:
        data = build_data(config)
    except ValueError as error:
        raise ValueError(
            f"{os.path.relpath(folder.batch)} is missing, as in a run of an older version, and without it the data are"
            f" needed: {error}; or measure once where they are, which writes that file"
        ) from None
    batch = first_batch(data)
    write_description(folder.batch, batch, data_arguments(data))
    search = build_strategy(config, data)
    return search, batch if batch_size is None else make_batch(resized(describe(batch), batch_size), trust=trust)


def first_batch(data: Any) -> Any:
    """The first batch of the architecture steps, or of the weight steps if there are no other.

    Args:
        data: The data module, set up.
    """
    loaders = data.train_dataloader()
    loaders = getattr(loaders, "iterables", loaders)
    if isinstance(loaders, dict):
        loaders = loaders.get("architecture", loaders.get("weights"))
    return data.on_after_batch_transfer(data.on_before_batch_transfer(next(iter(loaders)), 0), 0)


def _already_there(output: Path, search: SearchStrategy) -> dict[str, Measurement]:
    """The costs in the file that will be written, which are kept."""
    if not output.is_file():
        return {}
    found = read_costs(output)
    rows = zip(search.space.edges, search.space.candidates, strict=True)
    ours = CostTable("own", {edge: dict.fromkeys(names, 0.0) for edge, names in rows}, 0.0)
    if not all(each.table.has_edges_of(ours) for each in found.values()):
        raise ValueError(f"{output} has the costs of another network: name another file, output=FILE")
    return found


def _own_meter(name: str) -> Any:
    path = MORE_KINDS[name][0] if name in MORE_KINDS else name
    return function_at(path, f"kinds has {name}, which is no function")


def _of_cost(name: str) -> bool:
    return name.startswith("cost.")
