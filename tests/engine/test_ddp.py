"""Two processes hold one search, and it is the search of one process with the doubled batch.

Run as a script, this file is both processes: ``python -m tests.engine.test_ddp FOLDER RUN …``.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import advnas_lightning
from advnas_lightning import SearchStrategy, search_loaders
from advnas_lightning.objectives import Classification
from tests.support.elastic_net import AttentionNet, ElasticNet
from tests.support.small_search import CLASSES, SAME_ENGINE, STRATEGIES, CountingData, SmallNet

BATCH, EPOCHS = 8, 3
WEIGHTS, ARCHITECTURE = 3, 2  # batches in each loader
TOLERANCE = 1e-6

ENGINES = [name for name in STRATEGIES if name not in SAME_ENGINE]
FIRST_ORDER = [name for name in ENGINES if name != "darts-second_order"]  # which accumulates nothing
OFFLOADED = ("advantage", "counterfactual", "darts-second_order", "proxylessnas")
OF_VALIDATION = ("advantage", "gdas", "darts", "parsec")

LINE_SEARCH = partial(LBFGS, max_iter=2, line_search_fn="strong_wolfe")  # which decides by the loss
SANDWICH = {"sampling": "sandwich", "teacher": "widest"}

# What the two processes run: each strategy, and each engine with everything that is done to it.
RUNS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in STRATEGIES},
    **{f"{name}, accumulating": {"name": name, "accumulate": 2} for name in FIRST_ORDER},
    **{f"{name}, offloaded": {"name": name, "offload": True} for name in OFFLOADED},
    "advantage, offloaded, accumulating": {"name": "advantage", "offload": True, "accumulate": 2},
    "advantage, offloaded, adopting": {"name": "advantage", "offload": True, "adopts": 0.4},
    **{f"{name}, one rank not finite": {"name": name, "broken": True} for name in ENGINES},
    "counterfactual, elastic": {"name": "counterfactual", "elastic": True},
    "counterfactual, elastic heads": {"name": "counterfactual", "heads": True},
    "advantage, elastic heads, offloaded": {"name": "advantage", "heads": True, "offload": True},
    "advantage, elastic, offloaded": {"name": "advantage", "elastic": True, "offload": True},
    "advantage, line search": {"name": "advantage", "weight_optimizer": LINE_SEARCH},
    "advantage, sandwich": {"name": "advantage", "elastic": True, **SANDWICH},
    "advantage, sandwich, accumulating": {"name": "advantage", "elastic": True, "accumulate": 2, **SANDWICH},
    "advantage, sandwich, adopting": {"name": "advantage", "elastic": True, "adopts": 0.4, **SANDWICH},
    **{f"{name}, adopting": {"name": name, "adopts": 0.4} for name in ENGINES},
    **{f"{name}, adopting, validation data": {"name": name, "adopts": "val"} for name in OF_VALIDATION},
    **{
        f"{name}, adopting, accumulating, one rank not finite": {
            "name": name,
            "adopts": 0.4,
            "accumulate": 2,
            "broken": True,
        }
        for name in OF_VALIDATION
    },
}
# Of those by default: every part of the engine that speaks to the other rank, once.
QUICK = [
    "advantage",
    "proxylessnas, offloaded",
    "advantage, line search",
    "advantage, sandwich, adopting",
    "parsec, adopting, accumulating, one rank not finite",
]


class Classifier(LightningModule):
    """As a user writes it for several devices."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("own/train", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("own/val", F.cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.1, momentum=0.9)
        # Only a loss that halves is taken for better, so that the rate does fall.
        schedule = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "own/val"}}


class Data(LightningDataModule):
    """As a user writes it: of a training set that a search shares out, or leaves to the weights."""

    def __init__(self, batches: int, batch_size: int, *, broken: bool) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.train = points(batches, seed=1, broken=broken)
        self.val = points(ARCHITECTURE, seed=2)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=self.batch_size)


def points(batches: int, *, seed: int, broken: bool = False) -> CountingData:
    """So many batches; a ``broken`` point is read by one rank alone."""
    data = CountingData(batches * BATCH, seed=seed)
    if broken:
        data.inputs[BATCH + 1] = torch.nan
    return data


def share_of(data: Dataset[Any], rank: int, ranks: int) -> DataLoader[Any]:
    """A rank's share of each batch of 8."""
    starts = range(0, len(data), BATCH)  # type: ignore[arg-type]
    return DataLoader(data, batch_sampler=[list(range(start + rank, start + BATCH, ranks)) for start in starts])


def joint(loader: DataLoader[Any]) -> DataLoader[Any]:
    """In one process, the batches that all ranks read together of what Lightning distributes, and always shuffles."""
    sampler: Any = DistributedSampler(loader.dataset, num_replicas=1, rank=0, shuffle=True, seed=0)
    return DataLoader(loader.dataset, batch_size=BATCH, sampler=sampler)


def build(
    name: str, *, adopts: bool = False, elastic: bool = False, heads: bool = False, **more: Any
) -> SearchStrategy:
    kind, options = STRATEGIES[name]
    torch.manual_seed(0)
    # what is random, or averaged over a rank's batch alone, would differ
    net: nn.Module = ElasticNet(norm=False) if elastic else SmallNet(dropout=0.0, norm=False)
    net = AttentionNet() if heads else net
    model = Classifier(net) if adopts else net
    own = (
        {} if adopts else {"weight_optimizer": partial(SGD, lr=0.1, momentum=0.9), "objective": Classification(CLASSES)}
    )
    return kind(
        model,
        # Adam's first steps are the signs of its gradients; with this ε a rounding error cannot turn one
        architecture_optimizer=partial(Adam, lr=0.1, eps=1e-2),
        weight_clip=1.0,
        architecture_clip=0.5,
        warmup_epochs=1,
        **{**own, **options, **more},
    )


def trainer_of(ranks: int, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="auto" if ranks == 1 else "ddp_find_unused_parameters_true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def result(
    name: str,
    *,
    rank: int = 0,
    ranks: int = 1,
    adopts: Literal["val"] | float | None = None,
    broken: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Fit a strategy and tell what it ends with.

    Args:
        name: of the strategy.
        rank: of this process.
        ranks: how many there are.
        adopts: search a user's module on a user's data module; and where the architecture steps' batches come from.
        broken: let the losses of some steps not be finite, on one rank alone.
        options: of the strategy.
    """
    search = build(name, adopts=adopts is not None, **options)
    if adopts is None:
        parts = {
            "weights": points(WEIGHTS, seed=1, broken=broken),
            "architecture": points(ARCHITECTURE, seed=2, broken=broken),
        }
        train: Any = {role: share_of(data, rank, ranks) for role, data in parts.items()}
        val = share_of(points(ARCHITECTURE, seed=2), rank, ranks)
        trainer = trainer_of(ranks, max_epochs=EPOCHS, use_distributed_sampler=False)
        trainer.fit(search, train, val)
    else:
        # either way, as many batches for either kind of step as above
        batches = WEIGHTS + (ARCHITECTURE if adopts != "val" else 0)
        data = search_loaders(Data(batches, BATCH // ranks, broken=broken), adopts)
        trainer = trainer_of(ranks, max_epochs=EPOCHS)
        if ranks > 1:
            trainer.fit(search, datamodule=data)
        else:
            loaders: Any = data.train_dataloader()
            trainer.fit(search, {role: joint(loader) for role, loader in loaders.items()}, data.val_dataloader())
    assert trainer.world_size == ranks
    state = search.state_dict()
    extra = state.pop("_extra_state")
    best = search.process_best
    return {
        "state": {key: value for key, value in state.items() if not key.startswith("task.")},
        "steps": extra["steps"],
        "bad_steps": extra["bad_steps"],
        "generator": extra["generator"],  # so many numbers were drawn
        "rates": [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups],
        "metrics": {key: value.double() for key, value in trainer.callback_metrics.items()},
        "argmax": dict(search.genotype()),
        "process_best": None if best is None else dict(best),
    }


def shares(ranks: int) -> dict[str, Any]:
    """How many points a rank reads where Lightning distributes them."""
    search = build("advantage")
    data = {"weights": points(WEIGHTS, seed=1), "architecture": points(ARCHITECTURE, seed=2)}
    loaders = {key: DataLoader(part, batch_size=2, shuffle=True) for key, part in data.items()}
    trainer_of(ranks, max_epochs=2).fit(search, loaders)
    return {"theta": search.theta.detach(), **{key: part.fetched for key, part in data.items()}}


def weights_of_the_first(rank: int) -> dict[str, Any]:
    """What ranks start from whose candidates' weights differ."""
    search = build("advantage", offload=True)
    with torch.no_grad():
        for parameter in search.model.parameters():
            parameter += rank
    loaders = {key: DataLoader(points(1, seed=1), batch_size=BATCH) for key in ("weights", "architecture")}

    class Look(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            distributed: Any = trainer.strategy.model
            candidates = {name for name, _ in search.named_parameters() if ".candidates." in name}
            assert distributed.parameters_to_ignore == candidates  # on a GPU it would refuse what lies beside it

    trainer_of(2, max_epochs=1, limit_train_batches=0, callbacks=[Look()]).fit(search, loaders)
    return {name: parameter.detach() for name, parameter in search.model.named_parameters()}


def uneven(rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """What accumulating ranks end with that read 3 and 5 of each batch of 8."""
    search = build("advantage", accumulate=2)
    first, end = {1: [(0, BATCH)], 2: [(0, 3), (3, BATCH)]}[ranks][rank]
    mine = [list(range(start + first, start + end)) for start in range(0, WEIGHTS * BATCH, BATCH)]
    loaders = {
        "weights": DataLoader(points(WEIGHTS, seed=1), batch_sampler=mine),
        "architecture": share_of(points(ARCHITECTURE, seed=2), rank, ranks),
    }
    trainer_of(ranks, max_epochs=2, use_distributed_sampler=False).fit(search, loaders)
    return {name: parameter.detach() for name, parameter in search.named_parameters()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks end with, by run."""
    return two_processes(tmp_path_factory.mktemp("ddp"), RUNS)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The same of a few runs."""
    return two_processes(tmp_path_factory.mktemp("few"), QUICK)


def two_processes(folder: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """What both ranks end with that run what is named, and the three that follow them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(advnas_lightning.__file__).parents[1]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PL_GLOBAL_SEED": "0",  # of the samplers that Lightning makes
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(folder), *names],
        env=shared,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def close(both: Any, one: Any, place: str, *, within: float, metric: bool = False) -> None:
    torch.testing.assert_close(
        both,
        one,
        rtol=within,
        atol=TOLERANCE,
        equal_nan=metric,  # a loss that was not finite is logged as it was
        msg=lambda text: f"{place}: {text}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_all_ranks_hold_the_same_search(
    run: str, ranks: list[dict[str, Any]], assert_same: Callable[..., None]
) -> None:
    first, second = (rank[run] for rank in ranks)
    assert_same(first, second)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* step is left out")
@pytest.mark.parametrize("run", RUNS)
def test_two_ranks_equal_one_process_with_the_doubled_batch(run: str, ranks: list[dict[str, Any]]) -> None:
    check_doubled_batch(run, ranks[0][run])


@pytest.mark.filterwarnings("ignore:.* step is left out")
@pytest.mark.parametrize("run", QUICK)
def test_two_ranks_hold_one_search_which_is_that_of_one_process(
    run: str, few: list[dict[str, Any]], assert_same: Callable[..., None]
) -> None:
    first, second = (rank[run] for rank in few)
    assert_same(first, second)
    check_doubled_batch(run, first)


def check_doubled_batch(run: str, both: dict[str, Any]) -> None:
    """What ``both`` ranks end with is what one process does."""
    options = RUNS[run]
    one = result(**options)
    for part in ("steps", "bad_steps", "rates", "argmax", "process_best"):
        assert both[part] == one[part], part
    per_epoch = -(-WEIGHTS // options.get("accumulate", 1))
    weight_steps, architecture_steps, skipped, batches = both["steps"]
    assert batches == EPOCHS * WEIGHTS
    bad = both["bad_steps"]["total"]
    assert weight_steps + skipped + bad["weight"] == EPOCHS * per_epoch
    searching = STRATEGIES[options["name"]][0].searches * (EPOCHS - 1)  # after the warm-up
    assert architecture_steps + bad["architecture"] == searching * per_epoch
    if not options.get("broken"):
        assert bad == {"weight": 0, "architecture": 0}
    elif options.get("adopts"):  # of the split, either part has the point
        assert sum(bad.values()) in (EPOCHS, EPOCHS - 1)
    else:
        assert bad == {"weight": EPOCHS, "architecture": searching}
    for key in both["state"]:
        close(both["state"][key], one["state"][key], key, within=TOLERANCE)
    assert both["metrics"].keys() == one["metrics"].keys()
    for key in both["metrics"]:
        close(both["metrics"][key], one["metrics"][key], key, within=1e-5, metric=True)


@pytest.mark.slow
def test_the_adopted_module_moves_its_schedule(ranks: list[dict[str, Any]]) -> None:
    assert all(ranks[0][f"{name}, adopting"]["rates"][0] < 0.1 for name in ENGINES)


def test_accumulating_ranks_may_have_batches_of_different_sizes(
    few: list[dict[str, Any]], assert_same: Callable[..., None]
) -> None:
    first, second = (rank["uneven"] for rank in few)
    assert_same(first, second)
    for name, parameter in uneven().items():
        close(first[name], parameter, name, within=TOLERANCE)


def test_offloaded_ranks_start_from_the_weights_of_the_first(few: list[dict[str, Any]]) -> None:
    for name, parameter in build("advantage").model.named_parameters():
        for rank in few:
            assert torch.equal(rank["start"][name], parameter), name


def test_lightning_distributes_both_loaders(few: list[dict[str, Any]]) -> None:
    first, second = (rank["shares"] for rank in few)
    assert torch.equal(first["theta"], second["theta"])
    for share in (first, second):
        assert share["weights"] == 2 * WEIGHTS * BATCH // 2
        assert share["architecture"] == WEIGHTS * BATCH // 2  # the epoch in which θ moves: as many batches of 2


def one_of_both(rank: int, folder: str, names: list[str]) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    results = {run: result(rank=rank, ranks=2, **RUNS[run]) for run in names}
    results |= {"shares": shares(ranks=2), "uneven": uneven(rank, 2), "start": weights_of_the_first(rank)}
    torch.save(results, f"{folder}/rank{rank}.pt")


if __name__ == "__main__":
    _, folder, *names = sys.argv
    # A fork, because the imports take longer than the runs.
    other = multiprocessing.get_context("fork").Process(target=one_of_both, args=(1, folder, names), daemon=True)
    other.start()
    one_of_both(0, folder, names)
    other.join()
    sys.exit(other.exitcode)
