"""A search ranks its architectures: losses against plain PyTorch, budgets against enumeration, and no trace is left."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import ENAS, AdvantageNAS, Fixed, MixedOp, RandomSearch, SearchStrategy
from advnas_lightning.cost import CostPlan, measure_costs
from advnas_lightning.objectives import Classification, LanguageModelling, Window
from advnas_lightning.ranking import Evolution, Ranking
from advnas_lightning.ranking.workers import Workers
from tests.support.refusals import one_line
from tests.support.small_search import CLASSES, FEATURES, GENOTYPE, SAME_ENGINE, STRATEGIES, SmallNet, few

ROOT = Path(__file__).parents[2]
Batch = tuple[Tensor, Tensor]
pytestmark = pytest.mark.filterwarnings("ignore:.*running statistics of all")


def batches_of(sizes: Sequence[int] = (8, 8, 8, 3), seed: int = 5) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, FEATURES, generator=generator), torch.randint(CLASSES, (size,), generator=generator))
        for size in sizes
    ]


def made(kind: type[SearchStrategy] = AdvantageNAS, *, seed: int = 0, **options: Any) -> SearchStrategy:
    """A search whose θ and running statistics are other than at the start."""
    torch.manual_seed(seed)
    net = SmallNet()
    if kind not in (RandomSearch, Fixed):
        options.setdefault("architecture_optimizer", partial(Adam, lr=0.1))
    search = kind(net, objective=Classification(CLASSES), seed=seed, **options)
    with torch.no_grad():
        if isinstance(getattr(search, "theta", None), nn.Parameter):
            search.theta.add_(torch.randn(search.theta.shape))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean += 0.1 * torch.randn(5)  # type: ignore[operator]
    return search


def state(search: SearchStrategy) -> dict[str, Any]:
    """All that a ranking must not change."""
    return {
        "state": {name: value.clone() for name, value in search.state_dict().items() if isinstance(value, Tensor)},
        "modes": [module.training for module in search.modules()],
        "generator": search.generator.get_state(),
        "random": [torch.get_rng_state(), random.getstate()],
        "metrics": search.objective.mean_loss.update_called,
        "gradients": [parameter.grad for parameter in search.parameters()],
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return first.shape == second.shape and bool(((first == second) | (first.isnan() & second.isnan())).all())
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def numbers(ranking: Ranking) -> list[Any]:
    return [(row.rank, row.choice, row.score, row.loss, row.halves, row.log_prob) for row in ranking]


# -- what is computed ------------------------------------------------------------------------------------------------


def test_losses_and_metrics_are_those_of_the_derived_networks_in_eval_mode() -> None:
    search, batches = made(), batches_of()
    ranking = search.rank(batches, top=None)
    assert len(ranking) == 8
    for row in ranking:
        network = row.genotype.apply(search.model).eval()
        with torch.no_grad():
            losses = [F.cross_entropy(network(x), y, reduction="sum") for x, y in batches]
            right = sum(int((network(x).argmax(-1) == y).sum()) for x, y in batches)
        assert row.loss == pytest.approx(float(sum(losses)) / 27, rel=1e-5)
        assert row.halves[0] == pytest.approx(float(losses[0] + losses[2]) / 16, rel=1e-5)
        assert row.halves[1] == pytest.approx(float(losses[1] + losses[3]) / 11, rel=1e-5)
        assert row.metrics == {"accuracy": pytest.approx(right / 27)}
        p = search.probabilities()
        assert row.log_prob == pytest.approx(math.log(math.prod(p[edge][name] for edge, name in row.genotype.items())))
    assert [row.rank for row in ranking] == list(range(1, 9))
    assert [row.score for row in ranking] == sorted((row.score for row in ranking), reverse=True)


def test_running_statistics_are_those_of_each_architecture_on_training_batches() -> None:
    search, batches, training = made(), batches_of(), batches_of((9, 9, 7), seed=8)
    for row in search.rank(batches, top=None, training_batches=training):
        network = row.genotype.apply(search.model).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
                module.momentum = None
                module.train()
        with torch.no_grad():
            for x, _ in training:
                network(x)
            network.eval()
            loss = sum(float(F.cross_entropy(network(x), y, reduction="sum")) for x, y in batches) / 27
        assert row.loss == pytest.approx(loss, rel=1e-5)
    with pytest.warns(UserWarning, match="give training_batches=loader"):
        search.rank(batches, top=1)


def test_the_most_probable_come_first_and_a_sample_and_what_was_found_beside_them() -> None:
    search = made()
    probable = sorted(product(range(4), range(2)), key=lambda choice: -search.log_prob([choice])[0])
    search.best.choice.copy_(torch.tensor(probable[-1]))
    search.best.loss.fill_(0.5)
    ranking = search.rank(batches_of(), top=2, sample=0)
    assert {row.choice: row.source for row in ranking} == {
        probable[0]: "probable", probable[1]: "probable", probable[-1]: "found",
    }  # fmt: skip
    assert ranking.named == {"argmax": probable[0], "process_best": probable[-1]}
    more = search.rank(batches_of(), top=2, sample=3, seed=4)
    assert sum(row.source == "sample" for row in more) >= 1
    assert len({row.choice for row in more}) == len(more)
    assert numbers(more) == numbers(search.rank(batches_of(), top=2, sample=3, seed=4))


def test_the_order_of_the_architectures_does_not_change_their_scores() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.cell = MixedOp("cell", {"tanh": nn.Tanh(), "relu": nn.ReLU(), "skip": nn.Identity()})
            self.head = nn.Linear(4, 5)

        def forward(self, ids: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
            hidden = torch.zeros(ids.shape[1], 4) if carried is None else carried
            outputs = []
            for step in self.embedding(ids):
                hidden = self.cell(step + 0.5 * hidden)
                outputs.append(hidden)
            return self.head(torch.stack(outputs)), hidden

    torch.manual_seed(0)
    objective = LanguageModelling()
    search = RandomSearch(Recurrent(), objective=objective)
    ids = torch.randint(5, (6, 7, 2))
    windows = [Window(part[:-1], part[1:], position=place, text="valid", tokens=12) for place, part in enumerate(ids)]
    objective(lambda inputs, carried: (torch.zeros(6, 2, 5), torch.ones(2, 4)), windows[0])  # a search goes on with it
    before = objective.get_extra_state()["valid"].clone()
    ranking = search.rank(windows)
    for row in ranking:
        network = row.genotype.apply(search.model).eval()
        carried, total = None, 0.0
        for window in windows:
            logits, carried = network(window.inputs, carried)
            total += float(F.cross_entropy(logits.flatten(0, 1), window.targets.flatten()).detach())
        assert row.loss == pytest.approx(total / 6, rel=1e-5)
        assert row.metrics["perplexity"] == pytest.approx(math.exp(total / 6), rel=1e-4)
    assert torch.equal(objective.get_extra_state()["valid"], before)


@pytest.mark.parametrize("name", few(name for name in STRATEGIES if name not in (*SAME_ENGINE, "fixed")))
def test_a_ranking_leaves_no_trace(name: str) -> None:
    kind, options = STRATEGIES[name]
    search = made(kind, **options)
    search.train()
    search.model.head.eval()  # a user's own mode
    before = state(search)
    ranking = search.rank(batches_of(), top=3, sample=2, evolution=Evolution(1, population=2), costs=["params"])
    assert len(ranking) >= 3
    assert same(state(search), before)
    ranking = search.rank(batches_of(), top=3, jobs=2)
    assert same(state(search), before)


# -- several processes, and going on -----------------------------------------------------------------------------------


def test_several_processes_find_the_same() -> None:
    search, batches = made(), batches_of()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = search.rank(batches, top=None)
        assert numbers(search.rank(batches, top=None, jobs=3)) == numbers(alone)
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_another_process_is_raised_here() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two is no number")
        return number

    with pytest.raises(ValueError, match="two is no number"), Workers(work, jobs=2) as workers:
        list(workers.map([1, 2]))


def test_a_killed_process_is_told_whether_it_worked_or_waited() -> None:
    def work(number: int) -> int:
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    ended = partial(pytest.raises, ChildProcessError, match="one of the 2 processes has ended")
    with ended(), Workers(work, jobs=2) as workers:
        list(workers.map([1, 0, 1]))
    with Workers(work, jobs=2) as workers:
        assert list(workers.map([1, 2])) == [1, 2]
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        with ended():
            list(workers.map([3]))


def test_a_handler_of_sigterm_hears_it_at_once() -> None:
    class Ended(Exception): ...

    def end(*_: Any) -> None:
        raise Ended

    scored: list[int] = []

    def kill(*_: Any) -> None:
        scored.append(1)
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Ended):
            made().rank(batches_of(), on_progress=kill)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    assert scored == [1]


@pytest.mark.slow  # a process imports everything
def test_sigterm_ends_a_ranking_at_once() -> None:
    program = (
        "import signal; from tests.ranking.test_of_search import batches_of, made\n"
        "made().rank(batches_of(), on_progress=lambda *_: (print('scored', flush=True), signal.raise_signal(15)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert ended.returncode == -signal.SIGTERM, ended.stderr
    assert ended.stdout.splitlines() == ["scored"]


def test_scores_are_read_again_but_not_those_of_other_weights_or_batches(tmp_path: Path) -> None:
    file, evaluated = tmp_path / "scores.jsonl", []

    class Counting(Classification):
        def forward(self, model: nn.Module, batch: Any) -> Any:
            evaluated.append(len(batch[0]))
            return super().forward(model, batch)

    search, batches = made(), batches_of()
    search.objective = Counting(CLASSES)
    search.trainee.objective = search.objective  # type: ignore[union-attr]

    def count(batches: list[Batch], **options: Any) -> tuple[int, Ranking]:
        evaluated.clear()
        ranking = search.rank(batches, scores=file, sample=0, **options)
        return len(evaluated) // len(batches), ranking

    whole, first = count(batches, top=None)
    assert whole == 8
    assert len(file.read_text().splitlines()) == 8
    assert count(batches, top=None)[0] == 0
    content = file.read_bytes()
    for torn in (1, 30, len(content.splitlines()[-1])):  # a process was killed while it wrote
        file.write_bytes(content[:-torn])
        redone, ranking = count(batches, top=None)
        assert (redone, numbers(ranking)) == (1, numbers(first))
        assert file.read_bytes() == content
    lines = content.splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], b'{"key": 3}\n', b"\xff\n", *lines[3:]]))
    assert numbers(count(batches, top=None)[1]) == numbers(first)
    assert count(batches_of(seed=6), top=None)[0] == 8
    assert count(batches[:3], top=None)[0] == 8
    with torch.no_grad():
        search.model.head.bias[0] += 1e-3  # type: ignore[operator, union-attr, index]
    redone, ranking = count(batches, top=None)
    assert redone == 8
    assert [row.loss for row in ranking] != [row.loss for row in first]
    with torch.no_grad():
        search.theta[0, 0] += 1  # which decides no score  # type: ignore[operator, index]
    assert count(batches, top=None)[0] == 0


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_the_best_within_a_budget_is_the_best_of_those_within_it() -> None:
    search, batches = made(seed=2), batches_of()
    tables = measure_costs(["params", "macs"], search.model, search.evaluator, batches[0])
    everything = search.rank(batches, top=None, tables=tables)
    costs = sorted({row.costs["params"] for row in everything})
    for budget in costs:
        ranking = search.rank(batches, top=None, sample=0, costs=["params"], budgets={"params": budget})
        allowed = [row for row in everything if row.costs["params"] <= budget]
        assert {row.choice for row in ranking} == {row.choice for row in allowed}
        assert ranking.best.costs["params"] <= budget
        assert everything.within({"params": budget}).best.choice == allowed[0].choice
    both = search.rank(batches, top=1, sample=0, tables=tables, budgets=[{"params": costs[0]}, {"params": costs[-1]}])
    probable = sorted(everything, key=lambda row: -row.log_prob)
    cheap = [row for row in probable if row.costs["params"] == costs[0]]
    assert {row.choice for row in both} >= {cheap[0].choice, probable[0].choice}
    assert both.best.costs["params"] == costs[0]
    assert [entry["budget"] for entry in both.content()["budgets"]] == [{"params": costs[0]}, {"params": costs[-1]}]


def test_budgets_that_cannot_be_met_are_one_line_with_the_cheapest() -> None:
    search, batches = made(), batches_of()
    tables = measure_costs(["params", "macs"], search.model, search.evaluator, batches[0])
    cheapest = CostPlan(tables).tables["params"].cheapest
    with pytest.raises(ValueError, match=rf"params=1 is below what the cheapest architecture costs, {cheapest:.0f}"):
        search.rank(batches, tables=tables, budgets={"params": 1})
    with pytest.raises(ValueError, match=r"budget of 'latency'"):
        search.rank(batches, tables=tables, budgets={"latency": 1})
    with pytest.raises(ValueError, match=r"^there is a budget of 'macs', and no cost is known: .* costs=\['macs'\]$"):
        search.rank(batches, budgets={"macs": 1})
    with pytest.raises(ValueError, match=r"^costs='macs' must be a list, such as \['macs'\]$"):
        search.rank(batches, costs="macs")
    with pytest.raises(ValueError, match=r"^budgets=120.0 must say which cost is bounded, as in .*$"):
        search.rank(batches, costs=["macs"], budgets=120.0)
    with pytest.raises(ValueError, match=r"^evolution=5 must be an Evolution, such as Evolution\(generations=10\)$"):
        search.rank(batches, evolution=5)


@pytest.mark.parametrize("option", ["top", "sample"])
def test_a_number_above_that_of_all_architectures_is_all_of_them_and_too_many_are_refused(option: str) -> None:
    many = 10**11
    search, batches = made(), batches_of()
    everything = search.rank(batches, top=None, sample=0)
    assert len(search.rank(batches, **{"top": 1, "sample": 0, option: many})) == len(everything)
    edges = [MixedOp(f"edge {edge}", {"tanh": nn.Tanh(), "skip": nn.Identity()}) for edge in range(24)]
    large = RandomSearch(nn.Sequential(*edges, nn.Linear(FEATURES, CLASSES)), objective=Classification(CLASSES))
    says = rf"^{option}={many}: the space has 16 777 216 architectures, too many .* up to 1 000 000$"
    with pytest.raises(ValueError, match=says):
        large.rank(batches, **{option: many})


@pytest.mark.parametrize("kind", ["text", "tensor", "tuple", "mapping"])
def test_a_batch_or_a_text_is_no_list_of_batches(kind: str, tmp_path: Path) -> None:
    search, (x, y) = made(), batches_of()[0]
    given = {"text": "val", "tensor": x, "tuple": (x, y), "mapping": {"x": x, "y": y}}[kind]
    says = "batches come from a loader or a list of batches, and here is "
    for call in (search.rank, partial(search.export, tmp_path / "net.torchscript")):
        with one_line(says, "the text 'val'" if kind == "text" else "give [batch], or more of them"):
            call(given)


@pytest.mark.parametrize("name", ["tables", "costs", "training_batches"])
def test_a_number_in_the_place_of_a_list_or_mapping_is_named(name: str) -> None:
    with one_line(f"{name}=5 must "):
        made().rank(batches_of(), **{name: 5})


def test_evolution_reaches_what_is_improbable_and_stays_within_the_budget() -> None:
    search, batches = made(), batches_of()
    table = measure_costs(["params"], search.model, search.evaluator, batches[0])
    budget = sorted({CostPlan(table).of(choice)["params"] for choice in product(range(4), range(2))})[1]
    ranking = search.rank(
        batches, top=1, sample=0, tables=table, budgets={"params": budget}, evolution=Evolution(8, population=4)
    )
    allowed = [choice for choice in product(range(4), range(2)) if table["params"].of(choice) <= budget]
    assert {row.choice for row in ranking} <= set(allowed)
    assert "evolution" in {row.source for row in ranking}


# -- other searches ----------------------------------------------------------------------------------------------------


def test_the_joint_probabilities_of_enas_add_up_to_one_and_its_candidates_are_draws() -> None:
    search = made(ENAS, hidden_size=8)
    with torch.no_grad():
        for weight in search.architecture_parameters():
            weight.mul_(8)
    choices = list(product(range(4), range(2)))
    probabilities = [math.exp(value) for value in search.log_prob(choices)]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    drawn = search.draw_choices(1000, seed=1)
    for choice, p in zip(choices, probabilities, strict=True):
        assert drawn.count(choice) / 1000 == pytest.approx(p, abs=0.08)  # five standard deviations at most
    ranking = search.rank(batches_of(), top=3, sample=0)
    assert {row.source for row in ranking} <= {"drawn", "found"}
    top = sorted(choices, key=lambda choice: -search.log_prob([choice])[0])[:2]
    assert set(top) <= {row.choice for row in ranking}
    assert len(search.rank(batches_of(), top=None)) == 8


class Own(LightningModule):
    """Has its own steps, dropout and a metric of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallNet()
        self.accuracy = MulticlassAccuracy(CLASSES)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.net(batch[0])
        self.accuracy(logits, batch[1])
        loss = F.cross_entropy(logits, batch[1])
        self.log("train_loss", loss)
        self.log("accuracy", self.accuracy)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return 2 * batch[0], batch[1]

    def configure_optimizers(self) -> Adam:
        return Adam(self.parameters())


def test_a_module_is_ranked_by_its_training_step_in_eval_mode_and_logs_nothing() -> None:
    torch.manual_seed(0)
    search = AdvantageNAS(Own(), architecture_optimizer=Adam)
    before = state(search)
    ranking = search.rank(batches_of(), top=None)
    for row in ranking:
        network = row.genotype.apply(search.model).net.eval()  # type: ignore[union-attr]
        losses = [len(y) * F.cross_entropy(network(2 * x), y) for x, y in batches_of()]
        assert row.loss == pytest.approx(float(sum(losses).detach()) / 27, rel=1e-5)
        assert row.metrics == {}
    assert same(state(search), before)
    assert not search.model.accuracy.update_called


class Scaled(Own):
    """Has its loss scaled in eval mode, unless its own hook sets the mode."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (1 if self.accuracy.training else 100)

    def on_validation_model_eval(self) -> None:
        self.eval()
        self.accuracy.train()


def test_the_modes_are_those_in_which_the_module_validates() -> None:
    losses = []
    for kind in (Own, Scaled):
        torch.manual_seed(0)
        search = AdvantageNAS(kind(), architecture_optimizer=Adam)
        before = state(search)
        losses.append({row.choice: row.loss for row in search.rank(batches_of(), top=None)})
        assert same(state(search), before)
    assert losses[0] == losses[1]


class Ageing(Own):
    """Its loss depends on how far the fit has come."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        done = self.current_epoch / (self.trainer.max_epochs or 1)
        return super().training_step(batch, batch_idx) + done + self.global_step


def test_a_step_that_asks_for_the_epoch_gets_that_of_the_fit() -> None:
    search = AdvantageNAS(Ageing(), architecture_optimizer=Adam)
    young = search.rank(batches_of(), top=None)
    search.trainer = trainer = Trainer(max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit_loop.epoch_progress.total.ready = trainer.fit_loop.epoch_progress.current.completed = 6
    trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = 2
    old = search.rank(batches_of(), top=None)
    assert {row.choice: row.loss for row in old} == pytest.approx({row.choice: row.loss + 2.75 for row in young})
    assert search.trainer is trainer


def test_a_step_of_a_loaded_or_an_evaluated_search_gets_the_epoch_of_its_fit(fit: Any, tmp_path: Path) -> None:
    def losses(search: SearchStrategy) -> dict[tuple[int, ...], float]:
        return {row.choice: row.loss for row in search.rank(batches_of(), top=None, training_batches=batches_of())}

    loader = DataLoader(batches_of(), batch_size=None)
    search = AdvantageNAS(Ageing(), architecture_optimizer=Adam)
    trainer = fit(search, {"weights": loader, "architecture": loader}, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    loaded = AdvantageNAS.load_from_checkpoint(tmp_path / "end.ckpt", model=Ageing(), architecture_optimizer=Adam)
    expected = losses(search)
    assert losses(loaded) == pytest.approx(expected)
    Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).validate(search, loader, verbose=False)
    assert losses(search) == pytest.approx(expected)  # though its Trainer is another one


def test_the_precision_is_that_of_the_fit_and_a_list_may_have_loaders() -> None:
    search = AdvantageNAS(Own(), architecture_optimizer=Adam)
    single = search.rank(batches_of(), top=1, sample=0)
    search.trainer = Trainer(precision="64-true", accelerator="cpu", logger=False, enable_checkpointing=False)
    loader = DataLoader(batches_of(), batch_size=None)
    double = search.double().rank([loader, loader], top=1, sample=0)
    assert double.best.loss == pytest.approx(single.best.loss, rel=1e-5)


def test_a_fixed_network_and_too_few_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="Fixed has one architecture, so there is nothing to rank"):
        made(Fixed, genotype=GENOTYPE).rank(batches_of())
    with pytest.raises(ValueError, match="batches=1 must be a whole number of at least 2"):
        made().rank(batches_of(), batches=1)
    with pytest.raises(ValueError, match="no validation batch"):
        made().rank([])


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_a_ranking_is_a_sequence_that_prints_as_a_table() -> None:
    search = made()
    ranking = search.rank(batches_of(), costs=["params"], known=lambda genotype: {"known": 3.0}, top=None)
    assert ranking[0] is ranking.best
    assert [row.rank for row in ranking[:2]] == [1, 2]
    lines = str(ranking).splitlines()
    assert lines[0].split() == ["rank", "score", "loss", "accuracy", "params", "known", "log", "p", "architecture"]
    assert len(lines) == 9
    assert any(line.endswith("argmax") for line in lines)
    assert [line.split()[1] for line in lines[1:]] == [f"{row.score:z.3f}" for row in ranking]
    content = json.loads(ranking.to_json())
    assert [row["rank"] for row in content["architectures"]] == list(range(1, 9))
    assert content["architectures"][0]["genotype"] == dict(ranking.best.genotype)
    assert content["architectures"][0]["cost/params"] == ranking.best.costs["params"]
    assert content["architectures"][0]["known/known"] == 3.0


def test_a_loss_that_is_not_finite_comes_last() -> None:
    search = made()
    with torch.no_grad():
        search.model.cells[0][0].candidates["linear"].weight.fill_(math.nan)  # type: ignore[index, union-attr]
    ranking = search.rank(batches_of(), top=None, known=lambda genotype: {"other": math.nan})
    assert [row.choice[0] == 0 for row in ranking] == [False] * 6 + [True] * 2
    last = json.loads(ranking.to_json())["architectures"][-1]
    assert (last["loss"], last["known/other"]) == (None, None)
    assert str(ranking).splitlines()[-1].split()[:3] == ["8", "-inf", "nan"]
    with torch.no_grad():
        search.model.head.bias.fill_(math.nan)  # type: ignore[operator, union-attr]
    with one_line("none of 8 architectures has a finite loss on the validation batches"):
        search.rank(batches_of(), top=None)
