"""Each example does what it says, as it is started from the command line."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import itertools
import json
import re
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.optim import SGD

from advnas_lightning import GDAS, AdvantageNAS, Fixed, MixedOp, SearchStrategy, Trial
from tests.support.command_line import write_images
from tests.support.speed import slow_but

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
Run = Callable[..., list[Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``run("classifier.py", "--epochs", "1")``: as on the command line; returns all that was fitted, in order."""
    fitted: list[LightningModule] = []
    fit = Trainer.fit

    @functools.wraps(fit)  # LightningCLI reads the signature
    def noted(trainer: Trainer, model: LightningModule, *arguments: Any, **keywords: Any) -> None:
        fitted.append(model)
        fit(trainer, model, *arguments, **keywords)

    def start(path: str, *arguments: object) -> list[LightningModule]:
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / path), run_name="__main__")
        return fitted

    monkeypatch.setattr(Trainer, "fit", noted)
    monkeypatch.chdir(tmp_path)
    return start


def is_plain(model: nn.Module) -> bool:
    return not any(isinstance(module, MixedOp) for module in model.modules())


def lr(search: SearchStrategy) -> float:
    """The learning rate that θ was left with."""
    return search.trainer.optimizers[-1].param_groups[0]["lr"]


# -- classifier.py, searchable_classifier.py ---------------------------------------------------------------------------


def test_the_classifier_trains(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = run("classifier.py", "--limit", 1, "--epochs", 1)
    assert type(model).__name__ == "Classifier"
    assert model.trainer.global_step == 1
    assert "test_accuracy" in capsys.readouterr().out


def test_ten_lines_make_it_searchable() -> None:
    before, after = ((EXAMPLES / name).read_text() for name in ("classifier.py", "searchable_classifier.py"))
    changes = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    added, removed = (sum(line.startswith(sign) for line in changes) for sign in "+-")
    assert added + removed <= 10  # which `diff` marks with > and <
    assert removed <= 2
    assert "advnas" not in before


@pytest.mark.parametrize("images", slow_but([True, False], [True]))
def test_the_searchable_classifier_trains_what_it_found(
    run: Run, images: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if images:
        write_images(tmp_path / "images")
    search, found = run(
        "searchable_classifier.py", "--epochs", 2, "--limit", 2, *(["--data", "images"] if images else [])
    )
    assert type(search).__name__ == "AdvantageNAS"
    assert search.architecture_steps == search.weight_steps == (2 if images else 4)  # 17 images are one batch
    assert search.theta.ne(1).any()
    genotype = search.genotype()
    _, table = capsys.readouterr().out.split("Found, and now trained from scratch:\n")
    assert table.startswith(str(search.probabilities()))
    assert set(genotype) == {f"{edge} {width}" for edge in ("conv", "act") for width in (16, 32, 64)}
    assert is_plain(found)
    assert found.net[-1].out_features == (3 if images else 10)
    activations = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}
    for block in found.net[1:7]:
        width = block.conv2.out_channels
        assert genotype[f"conv {width}"] == f"{block.conv2.kernel_size[0]}x{block.conv2.kernel_size[1]}"
        assert isinstance(block.act, activations[genotype[f"act {width}"]])
    assert 0 <= found.trainer.callback_metrics["test_accuracy"] <= 1


def test_each_of_its_edges_gets_credit() -> None:
    torch.manual_seed(0)
    model = runpy.run_path(str(EXAMPLES / "searchable_classifier.py"))["Classifier"](10)
    search = AdvantageNAS(model, architecture_optimizer=partial(SGD, lr=0.1))
    draw = search.sample()
    gates = draw.gates.clone().requires_grad_()
    with search.space.bind(draw, gates):
        loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8))
    (gradient,) = torch.autograd.grad(loss, gates)
    credits = (gradient * draw.gates).sum(-1)  # [E]
    assert credits.abs().min() > 1e-3  # with a normalization right behind an edge: some 1e-6


# -- new_strategy.py ---------------------------------------------------------------------------------------------------


@pytest.fixture
def new_strategy() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "new_strategy.py"))


def test_a_strategy_is_less_than_twenty_lines() -> None:
    tree = ast.parse((EXAMPLES / "new_strategy.py").read_text())
    (strategy,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert strategy.end_lineno is not None
    assert strategy.end_lineno - strategy.lineno + 1 < 20


def test_its_mean_over_all_draws_is_the_gradient_of_the_expected_loss(new_strategy: dict[str, Any]) -> None:
    losses = torch.tensor([0.3, 2.0, -1.0])
    net = MixedOp("edge", {name: nn.Identity() for name in "abc"})
    search = new_strategy["RLOO"](net, architecture_optimizer=partial(SGD, lr=0.1))
    with torch.no_grad():
        search.theta.copy_(torch.tensor([[0.2, -0.5, 0.9]]))
    mean = torch.zeros(1, 3)
    for choices in itertools.product(range(3), repeat=search.draws):
        trials = [Trial(search.one_hot([choice]), losses[choice], None, 1) for choice in choices]
        probability = search.probs[0, list(choices)].prod()
        mean += probability * search.theta_gradient(trials)
    (expected,) = torch.autograd.grad((search.log_probs.exp() * losses).sum(), search.theta)
    torch.testing.assert_close(mean, expected)


def test_it_finds_more_of_the_teacher_than_chance(new_strategy: dict[str, Any]) -> None:
    assert new_strategy["right_edges"](new_strategy["RLOO"], epochs=3, seed=0) >= 5  # 1 of 10 by chance


@pytest.mark.slow
def test_it_is_compared_with_others(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    searches = run("new_strategy.py", "--epochs", 1, "--teachers", 1)
    assert [search.architecture_steps for search in searches] == [100, 100, 100]
    rows = re.findall(r"^(\w+) +(\d+) of 10 edges are right, \d+ s$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _ in rows] == ["RLOO", "REINFORCE", "AdvantageNAS"]


# -- hydra_app ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def _as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package has its configuration in it; in a bare checkout that lies beside."""
    if importlib.util.find_spec("advnas_lightning.conf") is None:
        spec = importlib.util.spec_from_file_location("advnas_lightning.conf", ROOT / "conf" / "__init__.py")
        assert spec is not None
        monkeypatch.setitem(sys.modules, "advnas_lightning.conf", importlib.util.module_from_spec(spec))


@pytest.mark.usefixtures("_as_installed")
def test_a_hydra_app_trains_what_it_found(run: Run, tmp_path: Path) -> None:
    found = "{activation: tanh, second layer: skip}"
    (training,) = run(
        "hydra_app/app.py", "strategy@search=fixed", f"search.genotype={found}", "epochs=1", "hydra.run.dir=run"
    )
    assert isinstance(training, Fixed)
    assert dict(training.genotype()) == {"activation": "tanh", "second layer": "skip"}
    assert training.weight_steps == 20


@pytest.mark.usefixtures("_as_installed")
@pytest.mark.parametrize(
    ("overrides", "strategy", "options"),
    slow_but(
        [
            (["strategy@search=gdas", "search.tau_max=5"], GDAS, {"tau_max": 5, "tau_min": 0.1}),
            ([], AdvantageNAS, {"gamma": 0.05, "zero_op": "paper"}),
            (["search.gamma=0.1", "seed=3"], AdvantageNAS, {"gamma": 0.1, "seed": 3}),
        ],
        [(["strategy@search=gdas", "search.tau_max=5"], GDAS, {"tau_max": 5, "tau_min": 0.1})],
    ),
)
def test_a_hydra_app_takes_a_strategy_from_our_group(
    run: Run, overrides: list[str], strategy: type[SearchStrategy], options: dict[str, Any], tmp_path: Path
) -> None:
    small = ["epochs=2", "width=4", "search.architecture_optimizer.lr=0.2", "hydra.run.dir=run"]
    (search,) = run("hydra_app/app.py", *small, *overrides)
    assert type(search) is strategy
    assert {name: getattr(search, name) for name in options} == options
    assert search.model.net[0].out_features == 4
    assert search.weight_steps == search.architecture_steps == 40
    assert search.optimizations["architecture"].factory.keywords["lr"] == 0.2
    genotype = json.loads((tmp_path / "run" / "genotype.json").read_text())
    assert genotype == dict(search.genotype(search.selected))
    assert genotype["second layer"] in ("layer", "skip")
    assert is_plain(search.derive())


# -- lightning_cli.py --------------------------------------------------------------------------------------------------


def test_lightnings_cli_sets_every_option(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jsonargparse")
    pytest.importorskip("docstring_parser", reason="which jsonargparse[signatures] brings")
    options = {"gamma": 0.1, "depth": 1, "accumulate": 2, "architecture_optimizer.lr": 0.2}
    arguments = [f"--model.{name}={value}" for name, value in options.items()]
    (search,) = run("lightning_cli.py", "fit", "--config", EXAMPLES / "lightning_cli.yaml", *arguments)
    assert isinstance(search, AdvantageNAS)
    assert (search.gamma, search.accumulate) == (0.1, 2)  # from the command line
    assert (search.baseline, search.warmup_epochs, search.model[0].out_features) == ("ema", 2, 32)  # from the file
    assert search.max_bad_steps == 10  # by default
    assert lr(search) == 0.2
    assert (search.weight_steps, search.architecture_steps) == (100, 80)
    assert search.genotype()["layer 1"] in ("relu", "tanh")  # without a layer, no ring
    assert str(search.genotype()) in capsys.readouterr().out
    assert is_plain(search.derive())


# -- README.md ---------------------------------------------------------------------------------------------------------


def test_the_page_names_every_example() -> None:
    named = set(re.findall(r"[\w/]+\.(?:py|yaml)\b", (EXAMPLES / "README.md").read_text()))
    there = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".yaml")}
    assert {name.removeprefix("examples/") for name in named} == there
