"""Bad input gives one clear line that names the value and what to do: what no other test file says already.

Said elsewhere: of spaces and candidates in test_space.py and test_searchable.py, of a strategy's arguments in
strategies/test_engine.py and strategies/test_accumulation.py, of loaders in test_loaders.py and
data/test_search_loaders.py, of a user's module in strategies/test_adopted.py, of checkpoints in test_crash.py and
test_resume.py, of losses that are not finite in strategies/test_bad_steps.py, of texts, images and tables in
data/test_ptb.py, data/test_cifar10.py and benchmarks/test_table.py, and of the command line in test_cli.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, write_images, write_ptb
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from advnas_lightning import (
    DARTS,
    ENAS,
    GDAS,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
    Fixed,
    Genotype,
    MixedOp,
    RandomSearch,
    SearchSpace,
    SearchStrategy,
)
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.objectives import Classification, Objective, Outcome
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.cifar10.nasbench201 import open_table
from advnas_lightning.tasks.ptb import RecurrentLM

Fit = Callable[..., Trainer]
NAN, INF = float("nan"), float("inf")
REFUSED = (ValueError, MisconfigurationException)


@contextmanager
def one_line(*parts: str) -> Iterator[None]:
    """Expect a refusal in one line that says all of this."""
    with pytest.raises(REFUSED) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def network() -> nn.Sequential:
    torch.manual_seed(0)
    linear = {"linear": nn.Linear(8, 8), "tanh": nn.Tanh()}
    return nn.Sequential(nn.Linear(4, 8), MixedOp("edge", linear), nn.Linear(8, 3))


def loader(batches: int = 3) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(6 * batches, 4), torch.arange(6 * batches) % 3), batch_size=6)


def pair() -> dict[str, Any]:
    return {"weights": loader(), "architecture": loader()}


OPTIMIZERS: dict[str, Any] = {
    "weight_optimizer": partial(SGD, lr=0.1),
    "architecture_optimizer": partial(Adam, lr=0.1),
}


# -- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (AdvantageNAS, {"gamma": INF}, "gamma=inf"),
        (AdvantageNAS, {"gamma": 1.5}, "gamma=1.5"),  # the share of the newest value in a mean
        (AdvantageNAS, {"gamma": None}, "gamma=None"),
        (REINFORCE, {"gamma": INF}, "gamma=inf"),
        (REINFORCE, {"gamma": NAN}, "gamma=nan"),
        (REINFORCE, {"gamma": 2}, "gamma=2"),
        (GDAS, {"tau_max": INF}, "tau_max=inf"),
        (GDAS, {"tau_min": NAN}, "tau_min=nan"),
        (GDAS, {"tau_max": 0.1, "tau_min": 10}, "tau_max=0.1"),
        (SNAS, {"tau_max": INF}, "tau_max=inf"),
        (SNAS, {"tau_max": 1e-4}, "tau_max=0.0001"),
        (ENAS, {"temperature": INF}, "temperature=inf"),
        (ENAS, {"temperature": -1}, "temperature=-1"),
        (ENAS, {"tanh_constant": INF}, "tanh_constant=inf"),
        (ENAS, {"entropy_weight": INF}, "entropy_weight=inf"),
        (ENAS, {"entropy_weight": NAN}, "entropy_weight=nan"),
        (ENAS, {"hidden_size": True}, "hidden_size=True"),
        (PARSEC, {"scale": INF}, "scale=inf"),
        (PARSEC, {"scale": NAN}, "scale=nan"),
        (PARSEC, {"samples": NAN}, "samples=nan"),
        (DARTS, {"second_order": "no"}, "second_order='no'"),  # a text is true
        (DARTS, {"second_order": None}, "second_order=None"),
        (AdvantageNAS, {"warmup_epochs": True}, "warmup_epochs=True"),
        (AdvantageNAS, {"warmup_epochs": NAN}, "warmup_epochs=nan"),
        (AdvantageNAS, {"warmup_epochs": "1"}, "warmup_epochs='1'"),
        (AdvantageNAS, {"max_bad_steps": 0}, "max_bad_steps=0"),
        (AdvantageNAS, {"max_bad_steps": INF}, "max_bad_steps=inf"),
        (AdvantageNAS, {"accumulate": INF}, "accumulate=inf"),
        (AdvantageNAS, {"seed": True}, "seed=True"),
        (AdvantageNAS, {"seed": 2**70}, f"seed={2**70}"),
        (AdvantageNAS, {"seed": NAN}, "seed=nan"),
        (AdvantageNAS, {"weight_clip": NAN}, "weight_clip=nan"),
        (AdvantageNAS, {"weight_clip": INF}, "weight_clip=inf"),
        (AdvantageNAS, {"architecture_clip": True}, "architecture_clip=True"),
        (AdvantageNAS, {"select": 1}, "select=1"),
        (AdvantageNAS, {"objective": "classification"}, "objective='classification'"),
        (AdvantageNAS, {"objective": Classification}, "objective="),  # not the class, but one made from it
        (AdvantageNAS, {"weight_optimizer": "sgd"}, "weight_optimizer is a str: give a factory"),
        (AdvantageNAS, {"weight_scheduler": StepLR(SGD([nn.Parameter(torch.ones(1))]), 1)}, "weight_scheduler is a"),
        (Fixed, {"genotype": 3}, "not 3"),
        (Fixed, {"genotype": {"other": "linear"}}, "no edge 'edge'"),
    ],
)
def test_bad_arguments_of_a_strategy_are_named(kind: type[SearchStrategy], options: dict[str, Any], named: str) -> None:
    with one_line(named):
        kind(network(), **{**OPTIMIZERS, **options})


@pytest.mark.parametrize("kind", [AdvantageNAS, RandomSearch, DARTS, ENAS, Fixed])
def test_an_unknown_option_is_named(kind: type[SearchStrategy]) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'entropy_wieght'") as caught:
        kind(network(), **OPTIMIZERS, **({"genotype": {"edge": "tanh"}} if kind is Fixed else {}), entropy_wieght=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "named"),
    [("network", "str"), (None, "NoneType"), ([nn.Linear(1, 1)], "list"), (nn.Linear, "Linear")],
    ids=["text", "none", "list", "class"],
)
def test_what_is_no_network_is_refused(model: Any, named: str) -> None:
    with one_line(named, "nn.Module"):
        AdvantageNAS(model, **OPTIMIZERS)


@pytest.mark.parametrize("name", [3, None, "", ("a", "b")])
def test_an_edge_needs_a_name_that_a_genotype_can_hold(name: Any) -> None:
    # Else a search runs, and fails where it writes down what it found.
    with one_line(repr(name)):
        MixedOp(name, {"tanh": nn.Tanh(), "skip": nn.Identity()})


def test_a_genotype_for_a_network_without_choices_says_so() -> None:
    with one_line("MixedOp"):
        Genotype({"edge": "tanh"}).apply(nn.Linear(1, 1))


@pytest.mark.parametrize("option", ["zero_op", "affine", "running_statistics"])
def test_a_switch_of_the_network_is_no_text(option: str) -> None:
    # Hydra reads "no" as a text, which is true.
    with one_line(f"{option}='no'"):
        NASBench201(cells=1, channels=2, **{option: "no"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"hidden_size": "big"}, "hidden_size='big'"),
        ({"nodes": 2.5}, "nodes=2.5"),
        ({"dropout": "much"}, "dropout='much'"),
        ({"hidden_max_norm": INF}, "hidden_max_norm=inf"),
        ({"hidden_max_norm": "big"}, "hidden_max_norm='big'"),
    ],
)
def test_bad_sizes_of_the_recurrent_network_are_named(options: dict[str, Any], named: str) -> None:
    with one_line(named):
        RecurrentLM(words=5, **options)


@pytest.mark.parametrize("option", ["every_n_minutes", "every_n_steps"])
@pytest.mark.parametrize("value", [NAN, "often", -1])
def test_a_bad_interval_of_checkpoints_is_named(option: str, value: Any, tmp_path: Path) -> None:
    with one_line(f"{option}={value!r}"):
        LastCheckpoint(tmp_path, **{option: value})


# -- factories -------------------------------------------------------------------------------------------------------


class Search(AdvantageNAS):
    def loss(self, batch: tuple[Tensor, Tensor]) -> Any:
        return F.cross_entropy(self.model(batch[0]), batch[1])


@pytest.mark.parametrize("role", ["weight", "architecture"])
@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (lambda _: None, "NoneType"),
        # Nothing would move, and nothing would tell.
        (lambda _: Adam([nn.Parameter(torch.ones(1))]), "parameters"),
    ],
    ids=["nothing", "others"],
)
def test_an_optimizer_factory_makes_an_optimizer_of_what_it_is_given(
    role: str, factory: Callable[..., Any], says: str, fit: Fit
) -> None:
    search = Search(network(), **{**OPTIMIZERS, f"{role}_optimizer": factory})
    with one_line(f"{role}_optimizer", says):
        fit(search, pair())


@pytest.mark.parametrize("role", ["weight", "architecture"])
def test_a_schedule_factory_makes_a_schedule(role: str, fit: Fit) -> None:
    with one_line(f"{role}_scheduler", "NoneType"):
        fit(Search(network(), **OPTIMIZERS, **{f"{role}_scheduler": lambda _: None}), pair())


# -- losses ----------------------------------------------------------------------------------------------------------

Spoil = Callable[[Tensor], Any]
LOSSES: dict[str, tuple[Spoil, str]] = {
    "one per sample": (lambda losses: losses, "[6]"),
    "detached": (lambda losses: losses.mean().detach(), "graph"),
    "of whole numbers": (lambda losses: losses.mean().long(), "int64"),
    "complex": (lambda losses: losses.mean().to(torch.complex64), "complex64"),
    "a number": (lambda losses: losses.mean().item(), "float"),
    "nothing": (lambda losses: None, "NoneType"),
    "a pair": (lambda losses: (losses.mean(), 6), "tuple"),
    "a text": (lambda losses: "loss", "str"),
    "a dict": (lambda losses: {"cost": losses.mean()}, "dict"),
}


def search_with(
    loss: Spoil, kind: type[SearchStrategy] = AdvantageNAS, net: nn.Module | None = None, **options: Any
) -> SearchStrategy:
    """A strategy whose overridden loss is spoilt."""

    def spoilt(self: SearchStrategy, batch: tuple[Tensor, Tensor]) -> Any:
        return loss(F.cross_entropy(self.model(batch[0]), batch[1], reduction="none"))

    return type("Search", (kind,), {"loss": spoilt})(network() if net is None else net, **{**OPTIMIZERS, **options})


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("step", ["weight", "architecture"])
def test_a_loss_that_cannot_be_descended_is_named(kind: str, step: str, fit: Fit) -> None:
    loss, named = LOSSES[kind]
    search = search_with(loss, **({"weight_optimizer": None} if step == "architecture" else {}))
    with one_line("loss", named):
        fit(search, pair())
    assert (search.weight_steps, search.architecture_steps) == (0, 0)


class Module(LightningModule):
    """A user's module whose ``training_step`` is spoilt."""

    def __init__(self, loss: Spoil) -> None:
        super().__init__()
        self.net, self.spoil = network(), loss

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Any:
        return self.spoil(F.cross_entropy(self.net(batch[0]), batch[1], reduction="none"))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("kind", [kind for kind in LOSSES if kind != "nothing"])  # that leaves a batch out
def test_a_modules_loss_that_cannot_be_descended_is_named(kind: str, fit: Fit) -> None:
    loss, named = LOSSES[kind]
    search = AdvantageNAS(Module(loss), architecture_optimizer=partial(Adam, lr=0.1))
    with one_line("Module.training_step", *(["loss"] if kind == "a dict" else ["loss", named])):
        fit(search, pair())


@pytest.mark.parametrize("kind", [REINFORCE, ENAS, PARSEC])
@pytest.mark.parametrize("loss", ["one per sample", "detached"])
def test_strategies_without_a_gradient_name_it_too(kind: type[SearchStrategy], loss: str, fit: Fit) -> None:
    # Their architecture steps take a loss without a graph; their weight steps would all be left out unnoticed.
    spoil, named = LOSSES[loss]
    with one_line("loss", named):
        fit(search_with(spoil, kind), pair())


def test_edges_that_a_network_detaches_are_no_part_of_its_loss(fit: Fit) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = network(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x).detach())

    with one_line("loss", "do not detach"):
        fit(Search(Detached(), **OPTIMIZERS), pair())


def test_a_draw_without_parameters_is_no_loss_without_a_graph(fit: Fit) -> None:
    edge = MixedOp("edge", {"tanh": nn.Tanh(), "skip": nn.Identity()})
    search = Search(nn.Sequential(edge, nn.Softsign()), **OPTIMIZERS)
    fit(search, pair())
    assert (search.weight_steps, search.skipped_weight_steps, search.architecture_steps) == (0, 3, 3)


@pytest.mark.parametrize("kind", ["one per sample", "a number"])
def test_a_bad_loss_of_an_evaluation_is_named(kind: str, fit: Fit) -> None:
    loss, named = LOSSES[kind]
    search = search_with(lambda losses: losses.mean() if torch.is_grad_enabled() else loss(losses))
    with one_line("loss", named):
        fit(search, pair(), loader())


@pytest.mark.parametrize("size", [0, -1])
def test_a_loss_is_the_mean_of_at_least_one_term(size: Any, fit: Fit) -> None:
    class Own(Objective):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
            return Outcome(F.cross_entropy(model(batch[0]), batch[1]), size)

    with one_line(f"size={size}"):
        fit(AdvantageNAS(network(), **OPTIMIZERS, objective=Own()), pair(), loader())


@pytest.mark.parametrize("kind", ["one per sample", "a number", "nothing"])
def test_a_tasks_loss_is_named_too(kind: str, fit: Fit) -> None:
    spoil, named = LOSSES[kind]

    class Own(Objective):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
            return Outcome(spoil(F.cross_entropy(model(batch[0]), batch[1], reduction="none")), 6)

    with one_line("loss", named):
        fit(AdvantageNAS(network(), **OPTIMIZERS, objective=Own()), pair(), loader())


# -- candidates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_a_module", [False, True])
@pytest.mark.parametrize("kind", [AdvantageNAS, DARTS])
def test_other_shapes_are_named_at_the_first_draw_that_shows_them(
    kind: type[SearchStrategy], of_a_module: bool, fit: Fit
) -> None:
    # What follows takes whatever comes, so that it is not the first to complain.
    edge = MixedOp("edge", {"narrow": nn.Linear(4, 8), "wide": nn.Linear(4, 16)})
    net = nn.Sequential(edge, nn.Flatten(), nn.Softmax(-1))
    if of_a_module:
        module = Module(lambda losses: losses.mean())
        module.net = net
        search = kind(module, architecture_optimizer=partial(Adam, lr=0.1))
    else:
        search = search_with(lambda losses: losses.mean(), kind, net)
    with one_line("edge 'edge'", "'narrow'", "[6, 8]", "'wide'", "[6, 16]", "equal shapes"):
        fit(search, pair(), max_epochs=5)
    if kind is DARTS:
        assert (search.weight_steps, search.architecture_steps) == (0, 0)


def test_what_ran_is_told_where_the_network_stumbles() -> None:
    # Before a second candidate has run there is nothing to compare the first one with.
    net = nn.Sequential(MixedOp("edge", {"narrow": nn.Linear(4, 8), "wide": nn.Linear(4, 16)}), nn.Linear(8, 3))
    space = SearchSpace(net)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught, space.bind(space.one_hot([1])):
        net(torch.zeros(2, 4))
    assert caught.value.__notes__ == ["The architecture was {'edge': 'wide'}."]


# -- loaders ---------------------------------------------------------------------------------------------------------


class Nothing(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(())


@pytest.mark.parametrize(
    "weights",
    [DataLoader(TensorDataset(torch.zeros(0, 4)), batch_size=6), range(0), DataLoader(Nothing(), batch_size=2)],
    ids=["loader", "iterable", "stream"],
)
def test_an_empty_weights_loader_is_refused(weights: Any, fit: Fit) -> None:
    search = Search(network(), **OPTIMIZERS)
    with one_line("weights loader", "empty"):
        fit(search, {"weights": weights, "architecture": loader()})


@pytest.mark.parametrize("of_a_module", [False, True])
def test_weights_that_are_to_be_trained_need_batches(of_a_module: bool, fit: Fit) -> None:
    search = (
        AdvantageNAS(Module(lambda losses: losses.mean()), architecture_optimizer=partial(Adam, lr=0.1))
        if of_a_module
        else Search(network(), **OPTIMIZERS)
    )
    with one_line('"weights"'):
        fit(search, {"architecture": loader()})


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_warm_up_without_an_end_is_no_search(epochs: int, fit: Fit) -> None:
    search = Search(network(), **OPTIMIZERS, warmup_epochs=3)
    with pytest.warns(UserWarning, match=rf"warmup_epochs=3.*max_epochs={epochs}"):
        fit(search, pair(), max_epochs=epochs)
    assert search.architecture_steps == 0


# -- tables ----------------------------------------------------------------------------------------------------------

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([f"{CELL},90", f"{CELL},91"], f"line 3: {CELL} is there twice"),
        ([f"{CELL},nan"], "line 2: a score is not finite"),
        ([f"{CELL},inf"], "line 2: a score is not finite"),
    ],
)
def test_a_table_that_contradicts_itself_names_the_line(rows: list[str], named: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["arch,cifar10_test", *rows]) + "\n")
    with one_line(str(path), named):
        open_table(path)


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NASBENCH201_TABLE", raising=False)
    for name in ("text", "none_train", "none_valid", "bytes"):
        write_ptb(tmp_path / name)
    (tmp_path / "none_train" / "ptb.train.txt").write_text("")
    (tmp_path / "none_valid" / "ptb.valid.txt").write_text("")
    (tmp_path / "bytes" / "ptb.train.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("images", "broken"):
        write_images(tmp_path / name)
    path = tmp_path / "broken" / "train" / "red" / "3.png"
    path.write_bytes(path.read_bytes()[:40])
    return tmp_path


PTB = [*SMALL_PTB, "task.data.root=text"]
FLAT = "{_target_: torch.optim.lr_scheduler.CosineAnnealingLR, _partial_: true, T_max: 0}"


def lightnings(name: str, arguments: str) -> str:
    return f"trainer.callbacks=[{{_target_: {name}, {arguments}}}]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["threads=0"], "threads=0"),
        (["threads=-1"], "threads=-1"),
        (["threads=1.5"], "threads"),
        (["seed=-1"], "-1 is not in bounds"),
        (["seed=1.5"], "seed"),
        (["trainer.max_epochs=-5"], "`max_epochs` must be a non-negative integer or -1. You passed in -5"),
        (["trainer.max_epochs=2.5"], "trainer.max_epochs=2.5"),
        (["trainer.max_steps=-7"], "-7"),
        (["trainer.val_check_interval=0"], "val_check_interval=0"),
        (["trainer.check_val_every_n_epoch=0"], "check_val_every_n_epoch=0"),
        (["trainer.limit_train_batches=nan"], "nan"),
        (["trainer.gradient_clip_val=1.0"], "weight_clip="),
        (["trainer.accumulate_grad_batches=2"], "accumulate=2"),
        (["trainer.callbacks=[1]"], "trainer.callbacks"),
        ([lightnings("advnas_lightning.callbacks.ConvergenceStopping", "entropy: much")], "entropy='much'"),
        ([lightnings("lightning.pytorch.callbacks.StochasticWeightAveraging", "swa_lrs: 0.1")], "StochasticWeight"),
        (["task.optimization.warmup_epochs=-1"], "warmup_epochs=-1"),
        (["task.optimization.weight_clip=-1"], "weight_clip=-1"),
        (["task.optimization.architecture_clip=nan"], "architecture_clip=nan"),
        (["task.optimization.accumulate=0"], "accumulate=0"),
        (["task.optimization.weight_clip_algorithm=l1"], "weight_clip_algorithm='l1'"),
        (["task.optimization.architecture_optimizer=null"], "architecture_optimizer=None"),
        (["task.optimization.architecture_optimizer.lr=fast"], "architecture_optimizer"),
        (["task.optimization.architecture_optimizer.lr=nan"], "nan"),
        (["task.optimization.architecture_optimizer.lr=inf"], "learning rate"),
        (["+task.optimization.architecture_optimizer.beta=3"], "beta"),
        (["task.data.nodes=0"], "nodes=0"),
        (["task.data.nodes=2.5"], "nodes=2.5"),
        (["task.data.candidates=1"], "second candidate"),
        (["task.model.nodes=3"], "the teacher is not of the student's space"),
        ([f"task.optimization.architecture_scheduler={FLAT}"], "the schedule CosineAnnealingLR of the architecture"),
        (["task.callbacks.periodic_test.every_n_batches=0"], "every_n_batches=0"),
        (["+strategy.foo=1"], "foo"),
        (["strategy.foo=1"], "foo"),
        (["strategy.gamma=inf"], "gamma=inf"),
        (["strategy=gdas", "strategy.tau_max=inf"], "tau_max=inf"),
        (["strategy=enas", "strategy.entropy_weight=inf"], "entropy_weight=inf"),
        (["strategy=parsec", "strategy.scale=inf"], "scale=inf"),
        ([*PTB, "strategy=darts", "strategy.second_order=no"], "second_order='no'"),
        ([*PTB, "task.data.root=none_train"], "ptb.train.txt"),
        ([*PTB, "task.data.root=none_valid"], "ptb.valid.txt"),
        ([*PTB, "task.data.root=bytes"], "bytes/ptb.train.txt"),
        ([*PTB, "task.data.batch_size=many"], "batch_size='many'"),
        ([*PTB, "task.data.bptt=2.5"], "bptt=2.5"),
        ([*PTB, "task.model.hidden_size=big"], "hidden_size='big'"),
        ([*SMALL_CIFAR10, "task.data.root=broken"], "broken/train/red/3.png"),
        ([*SMALL_CIFAR10, "task.zero_op=no"], "zero_op='no'"),
        (["ckpt_path=text"], "text"),
        (["ckpt_path=text/ptb.test.txt"], "text/ptb.test.txt is damaged"),
        (["strategy=fixed", "strategy.genotype=text"], "no genotype file at text"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("folder")
def test_the_command_line_says_it_in_one_line(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [] if any(argument.startswith("task=") for argument in arguments) else SMALL_TOY
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *small, *arguments)
    assert stop.value.code not in (0, None)
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    assert says in error
    ours = [line for line in error.splitlines() if line.startswith("error: ")]
    assert ours == error.splitlines() or "HYDRA_FULL_ERROR" in error  # our one line, or Hydra's own message


@pytest.mark.usefixtures("folder")
def test_a_task_may_have_no_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, *SMALL_TOY, "task.callbacks=null")


@pytest.mark.parametrize("argument", ["trainer.max_epochs=-5", "trainer.precision=half", "trainer.devices=0"])
@pytest.mark.usefixtures("folder")
def test_what_lightning_says_is_said_once(
    argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_TOY, argument)
    error = capsys.readouterr().err
    for word in re.findall(r"MisconfigurationException|ValueError", error):
        pytest.fail(f"{word} is no message: {error}")
    assert error.count(error[7:30]) == 1
