"""A search whose edges and candidates have names of any kind: what it prints, draws, writes and reads again."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Adam

from advnas_lightning import (
    AdvantageNAS,
    ArchitectureCost,
    Genotype,
    MixedOp,
    SearchSpace,
    SearchStrategy,
    choices,
    make_searchable,
)
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.callbacks.pictures import draw_probabilities
from advnas_lightning.callbacks.progress import EpochLines, cell
from advnas_lightning.callbacks.summary import GenotypeFile, SummaryCallback
from advnas_lightning.cli.ending import show
from advnas_lightning.cli.errors import explain
from advnas_lightning.diagnose import Credit, EstimatorStatistics, Truth
from advnas_lightning.diagnose.output import show as show_diagnosis
from advnas_lightning.objectives import Classification
from advnas_lightning.runs import write_json
from advnas_lightning.texts import plain
from tests.support.names import NAMES, OBEYED
from tests.support.speed import slow_but

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # the font lacks some
each_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
some_names = pytest.mark.parametrize("name", slow_but(NAMES.values(), list(NAMES.values())[::4]), ids=NAMES.keys())


class Named(nn.Module):
    """Two edges and candidates with a name; a dot is the only sign that a candidate's name cannot have."""

    def __init__(self, name: str) -> None:
        super().__init__()
        own = name.replace(".", "·")
        self.first = MixedOp(name, {own: nn.Linear(4, 4), "skip": nn.Identity()})
        self.second = MixedOp(f"second {name}", {"skip": nn.Identity(), own: nn.Linear(4, 4)})
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


def search_of(name: str, cost: Any = None) -> SearchStrategy:
    return AdvantageNAS(
        Named(name), architecture_optimizer=partial(Adam, lr=0.1), objective=Classification(3), cost=cost
    )


def printed_of(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().out
    assert not OBEYED.search(printed), printed
    return printed


@some_names
def test_a_search_with_any_names_ends_and_goes_on(
    name: str, tmp_path: Path, make_loaders: Any, fit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(epochs: int, **options: Any) -> SearchStrategy:
        search = search_of(name, ArchitectureCost("params", penalty=0.1))
        shown = [EpochLines(name), LastCheckpoint(tmp_path), GenotypeFile(tmp_path / "genotype.json")]
        fit(
            search,
            make_loaders(),
            max_epochs=epochs,
            callbacks=shown,
            enable_progress_bar=True,
            enable_checkpointing=True,
            default_root_dir=tmp_path,
            **options,
        )
        return search

    run(1)
    search = run(2, ckpt_path=tmp_path / "last.ckpt")
    lines = [line for line in printed_of(capsys).splitlines() if "epoch" in line]
    assert len(lines) == 2
    assert all(line.startswith(plain(name)) for line in lines)
    assert Genotype.load(tmp_path / "genotype.json") == search.genotype()
    assert not any(isinstance(module, MixedOp) for module in search.derive().modules())
    write_json(tmp_path / "costs.json", search.cost.result().content())
    again = search_of(name, ArchitectureCost(tmp_path / "costs.json", penalty=0.1))
    assert again.cost.result() == search.cost.result()


@each_name
def test_the_terminal_shows_any_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    search = search_of(name)
    choices(search.model)
    print(search.probabilities())
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    print(make_searchable(model, {nn.ReLU: lambda relu: {name.replace(".", "·"): relu}}, share=lambda *_: name))
    print(cell(search))
    printed = printed_of(capsys)
    assert printed.count(plain(name.replace(".", "·"))[:20]) >= 6 or len(name) > 100  # a long one is broken into lines


class Own(SummaryCallback):
    def __init__(self, name: str) -> None:
        self.name = name

    def columns(self, search: SearchStrategy) -> dict[str, list[str]]:
        return {self.name: [self.name, self.name]}

    def lines(self, search: SearchStrategy) -> dict[str, str]:
        return {self.name: self.name}


@each_name
@pytest.mark.parametrize("colours", [False, True])
def test_the_end_of_a_run_shows_any_names(
    name: str, colours: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = io.StringIO()
    system = "truecolor" if colours else None
    console = Console(file=output, width=4000, force_terminal=colours, color_system=system, no_color=not colours)
    monkeypatch.setattr("advnas_lightning.cli.ending.Console", lambda: console)
    summary = {"strategy": "mine", "task": name, "selected": "argmax", "entropy": 1.0, "params_millions": 1.0,
               "seconds": 1.0, f"selected/test/{name}": 1.0}  # fmt: skip
    show(summary, search_of(name), [Own(name)], Path("folder") / plain(name))
    shown = output.getvalue()
    assert shown.count(plain(name)) >= 8
    if not colours:
        assert not OBEYED.search(shown)


@each_name
def test_a_diagnosis_shows_any_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = dict.fromkeys(("seconds", "bias", "noise", "variance", "cosine", "draw_cosine", "snr"), 0.5)
    statistics = EstimatorStatistics("darts", draws=10, edges={name: {"raises": name}}, **numbers)
    show_diagnosis(Truth(torch.ones(1, 2), 0.0, "all", {name: name}), [statistics], Credit(0.5, 0.5, 10))
    assert f"raises most: {plain(f'{name} {name}')}." in printed_of(capsys)


@some_names
def test_a_picture_of_probabilities_has_any_names(name: str) -> None:
    rows = {name: {name: 0.5, "other": 0.5}, f"second {name}": {"only": 1.0}}
    picture = draw_probabilities(rows, title=name)
    assert picture.shape[2] == 3
    assert max(picture.shape) < 2000


def test_a_picture_of_very_many_edges_is_not_too_large() -> None:
    picture = draw_probabilities({f"edge {index}": {"only": 1.0} for index in range(1700)})
    assert 6000 < len(picture) < 10000


@each_name
def test_an_error_is_one_line_whatever_it_names(name: str) -> None:
    space = SearchSpace(Named(name))
    second = {f"second {name}": "skip"}
    with pytest.raises(ValueError, match="the genotype has no edge") as no_edge:
        space.choice(Genotype({"x": "y"}))
    with pytest.raises(ValueError, match="has no candidate") as no_candidate:
        space.choice(Genotype({name: "x", **second}))
    with pytest.raises(ValueError, match="the network has no edge") as too_many:
        space.choice(Genotype({name: "skip", "x": "y", **second}))
    own = name.replace(".", "·")
    with pytest.raises(ValueError, match="but differ") as differ:
        SearchSpace(nn.Sequential(*(MixedOp(name, {own: nn.ReLU(), other: nn.ReLU()}) for other in ("a 1", "b 2"))))
    for caught in (no_edge, no_candidate, too_many, differ):
        assert not OBEYED.search(str(caught.value)), str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_an_error_of_somebody_elses_is_one_line_without_signs_that_do_something() -> None:
    assert explain(ValueError("two\nlines \x1b[31mred")) == r"two lines \x1b[31mred"


def test_a_line_of_names_can_be_written_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    print(cell(search_of("0→1 \U0001f600")), flush=True)
