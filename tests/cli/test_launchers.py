"""Every launcher runs a sweep on this machine: in parallel, with its share of the cores, and past a failing job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from tests.support.command_line import SMALL_TOY, has_plugin, runs

LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"],
}
CORES = len(os.sched_getaffinity(0))


class NoteThreads(Callback):
    """Leaves how many threads a job has."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (Path(trainer.logger.save_dir) / "threads.txt").write_text(str(torch.get_num_threads()))


@pytest.mark.slow  # its processes import everything
@pytest.mark.parametrize(
    "launcher",
    [pytest.param(each, marks=pytest.mark.skipif(not has_plugin(each), reason="no such plugin")) for each in LAUNCHERS],
)
def test_launcher(launcher: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    sweep = subprocess.run(
        [
            *(sys.executable, "-m", "advnas_lightning", "-m", f"launcher={launcher}", *LAUNCHERS[launcher]),
            *(*SMALL_TOY, "strategy=advantage,fixed,gdas", "task.threads=null", "hydra.sweep.dir=sweep"),
            "+trainer.callbacks=[{_target_: tests.cli.test_launchers.NoteThreads}]",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert sweep.returncode == 1, sweep.stderr
    finished = runs(tmp_path / "sweep")
    assert [run.relative_to(tmp_path / "sweep/toy") for run in finished] == [Path("advantage/0"), Path("gdas/2")]
    expected = str(max(1, CORES // 2)) if launcher == "joblib" else "1"
    assert [(run / "threads.txt").read_text() for run in finished] == [expected, expected]
    assert (tmp_path / "sweep/toy/fixed/1/error.txt").read_text().startswith("genotype=None: say what to train with")
    assert re.search(r"^job 1 failed: genotype=None: say what.* \(sweep/toy/fixed/1\)$", sweep.stdout, re.MULTILINE)
    assert "2 of 3 jobs have finished: sweep" in sweep.stdout
    for number, name in enumerate(("advantage", "fixed", "gdas")):
        assert f"job {number} ({name}) starts: sweep/toy/{name}/{number}\n" in sweep.stdout
    ended = re.findall(r"^job (\d) \(\w+\) (finished|failed).*\((\d) of 3 done", sweep.stdout, re.MULTILINE)
    assert sorted(state for _, state, _ in ended) == ["failed", "finished", "finished"]
    assert [done for *_, done in ended][-1] == "3"
    assert "HYDRA" not in sweep.stdout
    assert "epoch 1" not in sweep.stdout
