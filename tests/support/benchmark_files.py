"""NAS-Bench-201's official files, made up, with four cells in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

NONE = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
SKIP = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
POOL = "|avg_pool_3x3~0|+|none~0|avg_pool_3x3~1|+|none~0|none~1|avg_pool_3x3~2|"
CONV = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
CELLS = [CONV, NONE, SKIP, POOL]


# (data set, epochs) -> seeds; the benchmark has one to three of them.
SEEDS = {
    ("cifar10-valid", "12"): (111, 777),
    ("cifar10", "12"): (777,),
    ("cifar100", "12"): (777,),
    ("ImageNet16-120", "12"): (777,),
    ("cifar10-valid", "200"): (777, 888),
    ("cifar10", "200"): (777, 888, 999),
    ("cifar100", "200"): (777, 888, 999),
    ("ImageNet16-120", "200"): (888, 999),
}
SETS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}
# Column -> (data set, epochs, set of pictures), as NAS-Bench-201's paper defines them.
MEANING = {
    "cifar10_test": ("cifar10", "200", "ori-test"),
    "cifar100_test": ("cifar100", "200", "x-test"),
    "imagenet16_test": ("ImageNet16-120", "200", "x-test"),
    "cifar10_valid_12ep": ("cifar10-valid", "12", "x-valid"),
    "cifar10_test_12ep": ("cifar10", "12", "ori-test"),
}


def accuracy(index: int, dataset: str, epochs: str, part: str, seed: int) -> float:
    """A number that no other cell, data set, training, part or seed has."""
    place = 10 * list(SEEDS).index((dataset, epochs)) + SETS[dataset].index(part)
    return 10 * index + place / 10 + (seed % 10) / 300


def expected(index: int) -> dict[str, float]:
    means = {}
    for column, (dataset, epochs, part) in MEANING.items():
        seeds = SEEDS[dataset, epochs]
        means[column] = sum(accuracy(index, dataset, epochs, part, seed) for seed in seeds) / len(seeds)
    return means


def results(index: int) -> dict[str, dict[str, Any]]:
    """What the benchmark's files hold of one cell."""
    from nats_bench import ArchResults, ResultsCount

    found = {}
    for epochs in ("12", "200"):
        arch = ArchResults(index, CELLS[index])
        last = int(epochs) - 1
        for (dataset, trained), seeds in SEEDS.items():
            for seed in seeds if trained == epochs else ():
                weights = {"weight": [0.0] * 10}
                config = {"channel": 16, "num_cells": 5, "arch_str": CELLS[index], "class_num": 10}
                train = {0: 99.0, last: 99.5}
                count = ResultsCount(dataset, weights, train, train, 1.0, 2.0, config, seed, last + 1, [0.01])
                for part in SETS[dataset]:  # the first epoch's must not be taken for the last one's
                    accuracies = {0: 1.0, last: accuracy(index, dataset, epochs, part, seed)}
                    count.update_OLD_eval(part, accuracies, {0: 3.0, last: 2.0})
                arch.update(dataset, seed, count)
        found[epochs] = arch.state_dict()
    return found


def save(content: Any, path: Path) -> None:
    from nats_bench import pickle_save

    pickle_save(content, str(path).removesuffix(".pbz2"))


def write_folder(parent: Path, indices: Iterable[int] = range(len(CELLS))) -> Path:
    folder = parent / "NATS-tss-v1_0-3ffb9-simple"
    folder.mkdir()
    meta = {"meta_archs": CELLS, "total_archs": len(CELLS), "arch2infos": None, "evaluated_indexes": set()}
    save(meta, folder / "meta.pickle.pbz2")
    for index in indices:
        save(results(index), folder / f"{index:06d}.pickle.pbz2")
    return folder


def write_file(parent: Path, indices: Iterable[int] = range(len(CELLS))) -> Path:
    path = parent / "NATS-tss-v1_0-3ffb9.pickle.pbz2"
    infos = {index: results(index) for index in indices}
    content = {"meta_archs": CELLS, "total_archs": len(CELLS), "arch2infos": infos, "evaluated_indexes": set(infos)}
    save(content, path)
    return path
