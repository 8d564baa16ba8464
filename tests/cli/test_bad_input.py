"""Bad input on the command line gives one clear line that names the value and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, write_images, write_ptb
from tests.support.speed import slow_but


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


BAD = [
    (["threads=0"], "threads=0"),
    (["threads=-1"], "threads=-1"),
    (["threads=100000"], "threads=100000 must be a whole number from 1 to"),
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
    (["trainer.enable_checkpointing=false"], "trainer.enable_checkpointing=false: a run saves checkpoints"),
    (["trainer.callbacks=[1]"], "trainer.callbacks"),
    (
        [lightnings("advnas_lightning.callbacks.ConvergenceStopping", "entropy: much")],
        "entropy=much: give a number",
    ),
    ([lightnings("lightning.pytorch.callbacks.StochasticWeightAveraging", "swa_lrs: 0.1")], "StochasticWeight"),
    (["task.optimization.warmup_epochs=-1"], "warmup_epochs=-1"),
    (["task.optimization.weight_clip=-1"], "weight_clip=-1"),
    (["task.optimization.architecture_clip=nan"], "architecture_clip=nan"),
    (["task.optimization.accumulate=0"], "accumulate=0"),
    (["task.optimization.weight_clip_algorithm=l1"], "weight_clip_algorithm=l1: give norm or value"),
    (["task.optimization.architecture_optimizer=null"], "architecture_optimizer=None"),
    (["task.optimization.architecture_optimizer.lr=fast"], "architecture_optimizer"),
    (["task.optimization.architecture_optimizer.lr=nan"], "nan"),
    (["task.optimization.architecture_optimizer.betas=[0.5]"], "betas=[0.5]"),
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
    ([*PTB, "strategy=darts", "strategy.second_order=no"], "second_order=no: give true or false"),
    ([*PTB, "task.data.root=none_train"], "ptb.train.txt"),
    ([*PTB, "task.data.root=none_valid"], "ptb.valid.txt"),
    ([*PTB, "task.data.root=bytes"], "bytes/ptb.train.txt"),
    ([*PTB, "task.data.batch_size=many"], "batch_size=many: give a whole number"),
    ([*PTB, "task.data.bptt=2.5"], "bptt=2.5"),
    ([*PTB, "task.model.hidden_size=big"], "hidden_size=big: give a whole number"),
    ([*SMALL_CIFAR10, "task.data.root=broken"], "broken/train/red/3.png"),
    ([*SMALL_CIFAR10, "task.zero_op=no"], "zero_op=no: give true or false"),
    (["ckpt_path=text"], "text"),
    (["ckpt_path=text/ptb.test.txt"], "text/ptb.test.txt is damaged"),
    (["strategy=fixed", "strategy.genotype=text"], "no genotype file at text"),
]


@pytest.mark.parametrize(
    ("arguments", "says"),
    slow_but(BAD, BAD[::4]),  # test_validate.py has most options by themselves
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


@pytest.mark.parametrize("arguments", [["strategy._target_=my_part.Search"], ["cost=my_part.count", "cost_penalty=1"]])
def test_a_module_in_the_current_folder_is_named_with_the_way_to_it(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hint = "my_part is in this folder: type PYTHONPATH=. before advnas"
    for is_there in (False, True):
        if is_there:
            (folder / "my_part.py").write_text("")
        with pytest.raises(SystemExit):
            launch(monkeypatch, *SMALL_TOY, *arguments)
        error = capsys.readouterr().err
        assert "No module named 'my_part'" in error
        assert (hint in error) is is_there


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
