"""``advnas refine``, and the setting ``refine`` of a run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from advnas_lightning.cli import refining
from advnas_lightning.cli.refine import OPTIONS, main
from advnas_lightning.cli.refine_jobs import sharing
from advnas_lightning.cost.table import CostTable
from advnas_lightning.runs import sha256, write_json
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10 import CIFAR10
from advnas_lightning.tasks.cifar10.tables import CELL, OPERATIONS
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, launch, read, write_images, write_ptb
from tests.support.refining import needs_storage
from tests.support.refusals import one_line

pytestmark = needs_storage
TOY = ["task.epochs=1", "task.data.batches=5", "task.data.nodes=3", "task.data.candidates=3"]
FILES = {"refine.json", "refine.png", "refine.svg"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search, which nobody changes."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launch(patch, *TOY, "hydra.run.dir=run")
    return folder / "run"


@pytest.fixture
def run(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(toy, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def differing(one: dict[str, str], other: dict[str, str]) -> int:
    return sum(one[edge] != other[edge] for edge in one)


@pytest.mark.slow
def test_a_run_is_refined_and_a_second_call_trains_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    main(["run", "draws=2"])
    printed = capsys.readouterr()
    found = read(run, "refine.json")
    winner = found["trials"][found["winner"]]
    trials = [trial for trial in found["trials"] if trial["repeat"] == 0]
    # All one-edit neighbours of the winner were evaluated, and none is better.
    near = [trial for trial in trials if differing(trial["genotype"], winner["genotype"]) == 1]
    assert len(near) == 3 * 2
    assert all(trial["scores"]["1"] >= winner["scores"]["1"] for trial in near)
    assert read(run, "genotype.json") == {**json.loads(before["genotype.json"]), "refined": winner["genotype"]}
    assert trials[0]["proposed_by"] == "argmax"
    assert trials[0]["genotype"] == json.loads(before["genotype.json"])["argmax"]
    assert any(trial["proposed_by"].startswith("draw ") for trial in trials)
    assert all(line.startswith("… training ") for line in printed.err.splitlines())
    assert "no neighbour of the best architectures and no exchange is better" in printed.out
    assert printed.out.splitlines()[-1].startswith("next: ")
    assert "strategy=fixed strategy.genotype=run select=refined" in printed.out
    with Image.open(run / "refine.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=picture.width * picture.height)) > 50
    drawn, count = (run / "refine.svg").read_text(), len(found["trials"])
    assert f"<!-- {count} trainings, {count} of them to the end" in drawn
    assert count == len(trials) + 3  # the best ones once more: without weights that are trained, with the same scores
    assert found["deviation"] == 0
    assert "deviates by 0; " in printed.out
    kept = {name for name in contents(run) if name not in {*FILES, "genotype.json"} and not name.startswith("refine/")}
    assert {name: contents(run)[name] for name in kept} == {name: before[name] for name in before if name in kept}
    main(["run", "draws=2"])
    assert read(run, "refine.json") == found


def test_the_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: advnas refine RUN [OPTION=VALUE ...]")
    assert all(f"\n  {name}=" in printed for name in OPTIONS if name != "RUN")
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give the folder of a run: advnas refine RUN (advnas refine --help"),
        (["nowhere"], "nowhere: there is no such folder or checkpoint"),
        (["run", "minuts=3"], "minuts=3 is unknown: did you mean minutes=3?"),
        (["run", "rungs=1,3,4"], "rungs=1,3,4: give whole numbers of epochs, each the same factor times"),
        (["run", "minutes=0"], "minutes=0 must be a finite number above 0"),
        (["run", "jobs=0"], "jobs=0 must be a whole number from 1 to"),
        (["run", "threads=100000"], "threads=100000 must be a whole number from 1 to"),
        (["run", "neighbours=maybe"], "neighbours='maybe' must be"),
        (["run", "weights=old"], "weights='old' is unknown: use fresh or inherited"),
        (["run", "anneal=maybe"], "anneal='maybe' must be true or false"),
        (["run", "best=most"], "best='most' is unknown: use highest or lowest"),
        (["run", "oracle=nature"], "oracle='nature' is unknown: use table"),
        (["run", "finalists=nowhere.json"], "finalists=nowhere.json: there is no such file"),
        (["run", "output=run/summary.json"], "output=run/summary.json: summary.json is a file: name a folder"),
        (["run", "output=run"], "output=run has a run, whose files would be lost: name another folder"),
        (["run", "finalists=run/genotype.json", "draws=2"], "draws= has no effect with finalists="),
        (["run", "oracle=table", "rungs=1,2"], "rungs= has no effect with oracle=table"),
        (["run", "oracle=table"], "oracle=table needs the run's task.table: this run has none"),
        (["run", "top=3"], "ranking.json: run advnas rank first, or leave top= out"),
        (["run", "metric=val/los"], "metric=val/los is not validated: use val/loss"),
        (
            ["run", "proxy=[channels]"],
            "proxy has channels: give a list of settings, as in proxy=[task.model.channels=8]",
        ),
        (["run", "proxy=[task.model.node=2]"], "proxy has task.model.node=2, which is no setting of the run: did you"),
        (["run", "weights=inherited", "proxy=[task.model.nodes=2]"], "weights=inherited needs the network of the"),
        (["run", "rungs=2,4", "epochs=3"], "epochs=3 is less than one whole training: give at least 4"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    arguments: list[str], says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert contents(run) == before


@pytest.mark.slow
def test_other_settings_are_refused_and_another_folder_takes_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", "neighbours=false"])
    before = contents(run)
    with pytest.raises(SystemExit):
        main(["run", "neighbours=false", "seed=1"])
    assert "was begun with other settings (seed is 0, not 1)" in capsys.readouterr().err
    main(["run", "neighbours=false", "seed=1", "output=other"])
    assert contents(run) == before
    assert {path.name for path in Path("other").iterdir()} > FILES
    assert "strategy.genotype=other/genotype.json" in capsys.readouterr().out
    winner = read(Path("other"), "refine.json")["winner"]
    assert dict(Genotype.load("other")) == read(Path("other"), "refine.json")["trials"][winner]["genotype"]


def test_the_top_of_a_ranking_is_among_the_finalists(run: Path) -> None:
    names = ["filter0", "filter1", "filter2"]
    rows = [
        {"genotype": dict(zip(["input->1", "input->2", "input->3"], each, strict=True))}
        for each in product(names, repeat=3)
    ]
    settings = {"checkpoint_sha256": sha256(run / "checkpoints" / "last.ckpt")}
    write_json(run / "ranking.json", {"settings": settings, "architectures": rows})
    main(["run", "neighbours=false", "top=4"])
    trials = read(run, "refine.json")["trials"]
    assert {"ranked 1", "ranked 4"} <= {trial["proposed_by"] for trial in trials}
    assert all(row["genotype"] in [trial["genotype"] for trial in trials] for row in rows[:4])
    assert len([trial for trial in trials if trial["repeat"] == 0]) <= 6


def test_a_file_may_name_the_finalists(run: Path) -> None:
    rows = [{f"input->{node}": each for node in (1, 2, 3)} for each in ("filter2", "filter0", "filter2")]
    write_json(Path("listed.json"), rows)
    main(["run", "neighbours=false", "repeats=0", "finalists=listed.json"])
    trials = read(run, "refine.json")["trials"]
    assert [(trial["proposed_by"], trial["genotype"]) for trial in trials] == [
        ("listed 1", rows[0]),
        ("listed 2", rows[1]),
    ]


def test_a_budget_holds_for_all_that_is_trained(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(run, "genotype.json")["argmax"]
    edges, names = list(found), [f"filter{number}" for number in range(3)]
    # The arg max costs 3 on each edge, and every other candidate 1.
    rows = {edge: {name: 3.0 if name == found[edge] else 1.0 for name in names} for edge in edges}
    write_json(Path("costs.json"), CostTable("latency", rows, 0.0).content())
    main(["run", "cost_budget={latency: 5}", "costs=costs.json", "repeats=0"])
    trials = read(run, "refine.json")["trials"]
    assert trials[0]["proposed_by"] == "most probable within the budgets"
    same = [sum(trial["genotype"][edge] == found[edge] for edge in edges) for trial in trials]
    assert max(same) == same[0] == 1  # 3 + 1 + 1
    winner = trials[read(run, "refine.json")["winner"]]["genotype"]
    assert read(run, "genotype.json")["refined"] == winner
    every = [dict(zip(edges, each, strict=True)) for each in product(names, repeat=3)]
    near = [each for each in every if differing(each, winner) == 1]
    allowed = [each for each in near if sum(each[edge] == found[edge] for edge in edges) <= 1]
    assert len(allowed) < len(near)
    assert all(each in [trial["genotype"] for trial in trials] for each in allowed)
    with pytest.raises(SystemExit):
        main(["run", "repeats=0"])
    assert "was begun with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cost_budget={latency: 2}"], "the budget latency=2 is below what the cheapest architecture costs, 3 "),
        (["cost_budget={params: 2}"], "cost_budget has params, whose costs are not in run/costs.json: advnas cost"),
        (["cost_budget=5"], "cost_budget=5: give the kinds too"),
        (["cost_budget={latency: -1}"], "cost_budget: latency=-1 must be a finite number above 0"),
        ([], "costs= has no effect without cost_budget="),
    ],
)
def test_a_bad_budget_is_one_line(
    arguments: list[str], says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {f"input->{node}": {f"filter{number}": 1.0 for number in range(3)} for node in (1, 2, 3)}
    write_json(Path("costs.json"), CostTable("latency", rows, 0.0).content())
    before = contents(run)
    with pytest.raises(SystemExit):
        main(["run", "costs=costs.json", *arguments])
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert says in error
    assert contents(run) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "listed.json: there is no such file"),
        ("{}", "cannot be read: it is no list of architectures"),
        ("[]", "cannot be read: it is no list of architectures"),
        ('[["a"]]', "cannot be read: entry 1 is no architecture of the form {edge: candidate}"),
        ('[{"input->1": 3}]', "cannot be read: "),
        ('[{"input->1": "filter0"}]', "input->2"),
        ("[", "cannot be read: "),
    ],
)
def test_a_bad_file_of_finalists_is_one_line(
    content: str | None, says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("listed.json").write_text(content)
    before = contents(run)
    with pytest.raises(SystemExit):
        main(["run", "finalists=listed.json"])
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert says in error
    assert contents(run) == before


@pytest.mark.parametrize(("content", "says"), [("{", "cannot be read"), ("[1]", "is of another version of refine")])
def test_damaged_settings_are_named(content: str, says: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "refine").mkdir()
    (run / "refine" / "settings.json").write_text(content)
    with pytest.raises(SystemExit):
        main(["run", "neighbours=false"])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run}/refine" in line
    assert says in line


@pytest.mark.slow
def test_the_ranking_of_another_state_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(run / "ranking.json", {"settings": {"checkpoint_sha256": "0"}, "architectures": []})
    before = contents(run)
    with pytest.raises(SystemExit):
        main(["run"])
    assert "is of another state of the search: run advnas rank again, or give top=0" in capsys.readouterr().err
    assert contents(run) == before
    main(["run", "top=0", "neighbours=false"])
    assert read(run, "refine.json")["end"] == "finalists"


@pytest.mark.slow
def test_each_training_has_lines_of_its_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "neighbours=false"])
    lines = capsys.readouterr().err.splitlines()
    assert len(set(lines)) == len(lines)
    assert [line for line in lines if "begins" in line]
    main(["run"])
    assert not any("(argmax)" in line for line in capsys.readouterr().err.splitlines())


def test_a_search_that_was_interrupted_in_its_first_epoch_is_refined(run: Path) -> None:
    found = read(run, "genotype.json")
    (run / "genotype.json").unlink()
    main(["run", "epochs=2"])
    assert read(run, "genotype.json").items() >= found.items()
    assert "refined" in read(run, "genotype.json")


@pytest.mark.slow
def test_the_budget_may_be_raised(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "epochs=2"])
    assert "2 trainings, 2 epochs" in capsys.readouterr().out
    assert read(run, "refine.json")["end"] == "budget"
    main(["run"])
    assert read(run, "refine.json")["end"] == "optimum"


def test_a_search_that_went_on_meanwhile_gets_no_result(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = refining.climb

    def climb(*arguments: Any, **options: Any) -> Any:
        file = run / "checkpoints" / "last.ckpt"
        shutil.copyfile(run / "checkpoints" / "previous.ckpt", file)
        return real(*arguments, **options)

    monkeypatch.setattr(refining, "climb", climb)
    before = (run / "genotype.json").read_bytes()
    with pytest.raises(SystemExit):
        main(["run", "neighbours=false"])
    assert "has gone on meanwhile, and these finalists are old: refine anew" in capsys.readouterr().err
    assert (run / "genotype.json").read_bytes() == before
    assert not (run / "refine.json").exists()


# -- data that is trained on -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search on small images, with a table of made-up scores."""
    folder = tmp_path_factory.mktemp("cifar10")
    write_images(folder / "images")
    lines = [f"{CELL.format(*cell)},{90 + i % 7},{60 + i % 11}" for i, cell in enumerate(product(OPERATIONS, repeat=6))]
    (folder / "table.csv").write_text("\n".join(["arch,cifar10_test,cifar10_valid_12ep", *lines]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launch(patch, *SMALL_CIFAR10, "task.table=table.csv", "hydra.run.dir=run")
    return folder


@pytest.fixture
def images(cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it. Whoever asks for test images fails."""
    shutil.copytree(cifar10, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def refuse(data: CIFAR10) -> None:
        raise AssertionError("test images were asked for")

    monkeypatch.setattr(CIFAR10, "test_dataloader", refuse)
    return tmp_path / "run"


def test_a_cell_is_trained_on_the_weights_part_and_scored_on_the_other(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    real = CIFAR10.setup

    def setup(data: CIFAR10, stage: str | None = None) -> None:
        real(data, stage)
        made.append(data)

    monkeypatch.setattr(CIFAR10, "setup", setup)
    proxy = "[task.model.channels=1,task.model.cells=1,task.data.image_size=4,task.data.padding=1]"
    main(["run", "rungs=1,2", f"proxy={proxy}", "epochs=5", "threads=1"])
    printed = capsys.readouterr().out
    content = read(images, "refine.json")
    assert content["metric"] == "val/accuracy"
    assert content["proxy"] == proxy.strip("[]").split(",")
    assert content["best"] == "highest"
    assert 2 <= content["epochs"] <= 5
    assert all("cifar10_test" in trial["known"] for trial in content["trials"])
    assert "cifar10_test" in printed.splitlines()[0]
    data = made[0]
    parts = {role: set(loader.dataset.members.tolist()) for role, loader in data.train_dataloader().items()}
    assert parts["weights"].isdisjoint(parts["architecture"])
    assert set(data.val_dataloader().dataset.members.tolist()) == parts["architecture"]
    assert data.image_size == 4


@pytest.mark.slow
def test_the_shared_weights_may_be_inherited(images: Path) -> None:
    main(["run", "rungs=1", "proxy=none", "weights=inherited", "neighbours=false"])
    content = read(images, "refine.json")
    assert (content["weights"], len(content["checkpoint"])) == ("inherited", 64)
    main(["run", "rungs=1", "proxy=none", "neighbours=false", "output=fresh"])
    fresh = read(images.parent / "fresh", "refine.json")
    assert fresh["weights"] == "fresh"


@pytest.mark.slow
def test_the_table_stands_for_the_trainings(images: Path) -> None:
    main(["run", "oracle=table"])
    content = read(images, "refine.json")
    table = {}
    for line in (images.parent / "table.csv").read_text().splitlines()[1:]:
        arch, _, valid = line.split(",")
        table[Genotype.from_nasbench201(arch)] = float(valid)
    for trial in content["trials"]:
        assert trial["scores"] == {"12": table[Genotype(trial["genotype"])]}
    winner = Genotype(content["trials"][content["winner"]]["genotype"])
    near = [cell for cell in table if differing(cell, winner) == 1 and "none" not in cell.values()]  # type: ignore[arg-type]
    assert len(near) == 6 * 3
    assert all(table[cell] <= table[winner] for cell in near)


@pytest.mark.slow
def test_a_language_models_cell_is_refined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_ptb(tmp_path / "text")
    launch(monkeypatch, *SMALL_PTB, "task.data.root=text", "hydra.run.dir=run")
    main(["run", "rungs=1,2", "epochs=5"])
    content = read(tmp_path / "run", "refine.json")
    assert (content["metric"], content["best"]) == ("val/perplexity", "lowest")
    assert all(score > 1 for trial in content["trials"] for score in trial["scores"].values())


# -- as a setting of a run -------------------------------------------------------------------------------------------


def test_a_run_refines_what_it_has_found_and_then_trains_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, *TOY, "refine=neighbours", "retrain=true", "hydra.run.dir=run")
    refined = read(tmp_path / "run", "genotype.json")["refined"]
    content = read(tmp_path / "run", "refine.json")
    assert refined == content["trials"][content["winner"]]["genotype"]
    assert read(tmp_path / "run" / "retrained", "genotype.json")["argmax"] == refined
    launch(monkeypatch, *TOY, "refine=finalists", "hydra.run.dir=other")
    assert all(trial["round"] == 0 for trial in read(tmp_path / "other", "refine.json")["trials"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (["refine=neighbors"], "refine='neighbors' is unknown: use finalists or neighbours"),
        (["refine_minutes=3"], "refine_minutes=3.0 of what? Say refine=neighbours, or finalists"),
        (["refine=neighbours", "refine_minutes=0"], "refine_minutes=0"),
        (["refine=neighbours", "strategy=fixed", "strategy.genotype=x"], "so there is nothing to refine"),
        (["refine=neighbours", "trainer=ddp"], "trains in one process, and this run has several: use advnas refine"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(
    setting: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        launch(monkeypatch, *TOY, *setting)
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_command_and_the_setting_say_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from advnas_lightning.refine import packages

    def version(name: str) -> str:
        raise packages.PackageNotFoundError

    monkeypatch.setattr(packages, "version", version)
    for call in (lambda: main(["run"]), lambda: launch(monkeypatch, *TOY, "refine=neighbours", "hydra.run.dir=new")):
        with pytest.raises(SystemExit):
            call()
        assert capsys.readouterr().err == 'error: refine needs an extra: pip install "advnas-lightning[refine]"\n'
    assert not (run.parent / "new").exists()
    monkeypatch.setattr(packages, "version", {"optuna": "2.10.1", "sqlalchemy": "2.0.1"}.__getitem__)
    assert "SQLAlchemy 2" in str(packages.missing_package())


def test_a_process_that_fails_is_noticed(run: Path) -> None:
    with one_line("1 of the 2 processes failed"), sharing(["run", "minuts=3"], 2, 1):
        pass


@pytest.mark.slow
def test_a_killed_command_goes_on_with_the_same_trainings(run: Path) -> None:
    main(["run", "output=whole", "draws=1"])
    line = [sys.executable, "-m", "advnas_lightning", "refine", "run", "output=killed", "draws=1"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for _ in range(4):
        assert process.stderr.readline().startswith("… training ")
    process.kill()
    process.communicate()
    assert not Path("killed", "refine.json").exists()
    main(["run", "output=killed", "draws=1"])
    whole, killed = (read(Path(name), "refine.json") for name in ("whole", "killed"))
    for content in (whole, killed):
        del content["seconds"]
        for trial in content["trials"]:
            del trial["seconds"]
    assert killed == whole


@pytest.mark.slow
def test_two_jobs_find_what_one_finds(run: Path) -> None:
    main(["run", "output=one"])
    main(["run", "output=two", "jobs=2"])
    one, two = (read(Path(name), "refine.json") for name in ("one", "two"))
    assert two["end"] == "optimum"
    assert two["trials"][two["winner"]]["scores"] == one["trials"][one["winner"]]["scores"]
