"""One run: build it from a configuration, fit, and write its results into its folder."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.errors import InstantiationException
from hydra.types import HydraContext, RunMode
from hydra.utils import get_method, instantiate
from lightning import Callback, LightningDataModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from advnas_lightning.callbacks import Findings, GenotypeFile, Stopwatch, write_json
from advnas_lightning.checkpoints import LastCheckpoint, whole_checkpoint
from advnas_lightning.config import CONFIG_PATH, check_trainer
from advnas_lightning.costs import UNITS, ArchitectureCost
from advnas_lightning.loggers import run_loggers
from advnas_lightning.pictures import ProbabilityPictures
from advnas_lightning.progress import progress_display
from advnas_lightning.report.drawing import draw_genotype
from advnas_lightning.space import count_parameters
from advnas_lightning.strategies import SearchStrategy
from advnas_lightning.strategies.base import whole
from advnas_lightning.sweeps import ERROR, RETRAINED, SUMMARY, has_summary, is_finished, save_error

# What a wrong key, value, path or file raises. HYDRA_FULL_ERROR=1 shows where.
USER_ERRORS = (
    FloatingPointError,
    InstantiationException,
    MisconfigurationException,
    OmegaConfBaseException,
    OSError,
    TypeError,
    ValueError,
)
LOST = "a process of this run has died: go on with the run's hydra.run.dir=… and ckpt_path=last"
FIRST_RANK = "ADVNAS_LIGHTNING_FIRST_RANK"  # its process, for those that Lightning starts from it


def run(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Search, or retrain, as configured.

    Args:
        config: the composed configuration, see ``conf/config.yaml``.
        folder: where the run's files go.

    Returns:
        What ``summary.json`` holds.
    """
    if config.threads is not None:
        torch.set_num_threads(whole("threads", config.threads, least=1))
    _quiet()
    keep_memory()
    end_with_first_rank()
    seed_everything(config.seed, verbose=False)
    saving = LastCheckpoint(folder / "checkpoints", **config.checkpoint)
    checkpoint = find_checkpoint(config.ckpt_path, saving)
    data: LightningDataModule = instantiate(config.task.data)
    data.prepare_data()
    data.setup("fit")
    strategy = build_strategy(config, data)
    watch = Stopwatch()
    callbacks = [watch, saving, GenotypeFile(folder / "genotype.json")]
    callbacks += [instantiate(callback) for callback in (config.task.callbacks or {}).values()]
    settings = OmegaConf.to_container(config.trainer, resolve=True)
    assert isinstance(settings, dict)
    check_trainer(settings)
    callbacks.append(ProbabilityPictures())
    if settings["enable_progress_bar"] is not False:
        callbacks.append(progress_display(parallel_job(folder)))
    for callback in instantiate(config.trainer.callbacks) or []:
        if not isinstance(callback, Callback):
            raise ValueError(f"trainer.callbacks has {callback!r}, which is no callback: give {{_target_: CLASS, …}}")
        callbacks.append(callback)
    with run_loggers(instantiate(config.logger), folder) as loggers:
        trainer: Trainer = instantiate({**settings, "callbacks": None}, callbacks=callbacks, logger=loggers)
        trainer.fit(strategy, datamodule=data, ckpt_path=checkpoint)
        findings = [callback for callback in callbacks if isinstance(callback, Findings)]
        summary = summarize(config, strategy, trainer, data, watch.seconds, findings)
        if trainer.is_global_zero:
            if strategy.cost is not None and strategy.cost.is_measured:
                write_json(folder / "costs.json", strategy.cost.content())
            genotype = strategy.genotype(strategy.selected)
            title = f"{summary['task']}, {summary['strategy']}, {summary['selected']}"
            draw_genotype(genotype, folder / "architecture.png", title=title)
            write_json(folder / SUMMARY, summary)  # the last file: a run that has it is finished
            show(summary, strategy, findings, folder)
    return summary


def parallel_job(folder: Path) -> str:
    """The name of a job that others run beside: its folder in the sweep's; of any other run: nothing."""
    settings = HydraConfig.get()
    alone = settings.mode != RunMode.MULTIRUN or settings.launcher._target_.endswith(".BasicLauncher")
    return "" if alone else os.path.relpath(folder, settings.sweep.dir)


def retrain(folder: Path) -> None:
    """Train what a search found from scratch, as the same line with ``strategy=fixed`` does.

    Args:
        folder: the search's; the training is a run of its own in ``retrained`` below it.
    """
    search = HydraConfig.instance().cfg
    assert isinstance(search, DictConfig)
    # The search's own options mean nothing to strategy=fixed.
    line = [
        each for each in search.hydra.overrides.task if not re.match(r"[+~]*(strategy|retrain|cost(_\w+)?)\b", each)
    ]
    genotype = str(folder / "genotype.json").replace("'", r"\'")
    line += ["strategy=fixed", f"strategy.genotype='{genotype}'", "ckpt_path=last"]
    loader = GlobalHydra.instance().config_loader()
    config = loader.load_sweep_config(search, line)
    with open_dict(config):
        config.hydra.run.dir = str(folder / RETRAINED)
    job = run_job(
        task_function=lambda config: run(config, folder / RETRAINED),
        config=config,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
        hydra_context=HydraContext(loader, Callbacks()),
        configure_logging=False,
    )
    _ = job.return_value  # raises what the training raised


def find_checkpoint(ckpt_path: str | None, saving: LastCheckpoint) -> Path | None:
    """The checkpoint to go on from.

    Args:
        ckpt_path: a file; ``"last"``: the newest one of this run's own folder, if there is any; ``None``: no one.
        saving: has this run's own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged; or another run's checkpoints are in the folder.
    """
    if ckpt_path == "last":
        return saving.newest()
    found = None if ckpt_path is None else whole_checkpoint(ckpt_path)
    is_ours = found is not None and found.resolve().parent == saving.folder.resolve()
    if any(saving.folder.glob("*.ckpt")) and not is_ours:
        raise ValueError(
            f"{saving.folder} has a run's checkpoints: go on with ckpt_path=last, or set another hydra.run.dir"
        )
    return found


def build_strategy(config: DictConfig, data: LightningDataModule) -> SearchStrategy:
    """The strategy over the task's network."""
    model = instantiate(config.task.model, **getattr(data, "model_arguments", {}))
    strategy: SearchStrategy = instantiate(
        config.strategy,
        model=model,
        task=instantiate(config.task.objective, **getattr(data, "objective_arguments", {})),
        cost=build_cost(config),
        offload=config.offload,
        which=config.which,
        seed=config.seed,
        **instantiate(config.task.optimization, _convert_="all"),
    )
    return strategy


def build_cost(config: DictConfig) -> ArchitectureCost | None:
    """What architectures cost, if that counts."""
    options = {"weight": config.cost_weight, "budget": config.cost_budget}
    if config.cost is None:
        given = [f"cost_{name}={value}" for name, value in options.items() if value is not None]
        if given:
            raise ValueError(f"{' and '.join(given)} of what? Say cost={' or '.join(UNITS)}")
        return None
    kind = config.cost
    if kind not in UNITS and not Path(kind).exists() and "." in kind:
        try:
            kind = get_method(kind)
        except (ImportError, ValueError) as error:
            raise ValueError(f"cost={kind} is neither a file nor a function: {str(error).splitlines()[0]}") from None
    return ArchitectureCost(kind, rate=config.cost_rate, damping=config.cost_damping, **options)


def summarize(
    config: DictConfig,
    strategy: SearchStrategy,
    trainer: Trainer,
    data: LightningDataModule,
    seconds: float,
    findings: Sequence[Findings],
) -> dict[str, Any]:
    """Evaluate the selected architecture; one flat object."""
    metrics: dict[str, float] = {}
    for evaluate in (trainer.validate, trainer.test):
        for result in evaluate(strategy, datamodule=data, verbose=False):
            metrics |= result
    choices = HydraConfig.get().runtime.choices
    summary = {
        "strategy": choices["strategy"],
        "task": choices["task"],
        "seed": config.seed,
        "preset": config.preset,
        "selected": strategy.selected,
        "epochs": trainer.current_epoch,
        "weight_steps": strategy.weight_steps,
        "architecture_steps": strategy.architecture_steps,
        "seconds": round(seconds, 3),
        "entropy": float(strategy.entropy),
        "loss": metrics.get("test/loss"),
        **metrics,
        "params_millions": count_parameters(strategy.derive()) / 1e6,
    }
    if strategy.cost is not None and strategy.cost.is_measured:
        selected = strategy.one_hot(strategy.selected_choice()).weights
        costs = {"cost": selected, "expected_cost": strategy.cost_weights}
        summary |= {name: float(strategy.cost.expected(weights)) for name, weights in costs.items()}
        summary["cost_weight"] = float(strategy.cost.weight)
    for finding in findings:
        summary |= finding.summary(strategy)
    return summary


def show(summary: dict[str, Any], strategy: SearchStrategy, findings: Sequence[Findings], folder: Path) -> None:
    """Print what was found as a small table, and what else there is to say about it."""
    console = Console()
    genotype = strategy.genotype(strategy.selected)
    columns = {"edge": list(genotype), "found": list(genotype.values())}
    lines: dict[str, str] = {}
    for finding in findings:
        columns |= finding.columns(strategy)
        lines |= finding.lines(strategy)
    table = Table(*columns, title=f"{summary['strategy']} on {summary['task']}: {summary['selected']} architecture")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(table)
    lines |= {name: f"{summary[name]:.6g}" for name in summary if name.startswith(("val/", "test/"))}
    if strategy.cost is not None and "cost" in summary:
        lines["cost"] = f"{summary['cost']:.6g} {strategy.cost.unit}, at a weight of {summary['cost_weight']:.4g}"
        lines["expected cost"] = f"{summary['expected_cost']:.6g}"
        if strategy.cost.budget is not None:
            lines["expected cost"] += f", of a budget of {strategy.cost.budget:.6g}"
    lines["entropy"] = f"{summary['entropy']:.4f}"
    lines["parameters"] = f"{summary['params_millions']:.6g} M"
    lines["time"] = f"{summary['seconds']:.1f} s"
    lines["files"] = os.path.relpath(folder)
    width = max(map(len, lines))
    for name, value in lines.items():
        console.print(f"{name:<{width}}  {value}", highlight=False, soft_wrap=True)


def _quiet() -> None:
    """Silence what Lightning says about hardware and loaders that a user of a ready-made run cannot change."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step.

    glibc gives the memory of a finished backward pass back to the system, which clears every page of it when the next
    step asks for it again: on a CPU that can make an architecture step dearer than a weight step.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if allocator is not None:
        trim_threshold, mmap_threshold = -1, -3  # glibc's malloc.h
        allocator(mmap_threshold, 2**30)
        allocator(trim_threshold, -1)  # never


def end_with_first_rank() -> None:
    """Let no process outlive the first one, which started it.

    Lightning ends the first one where another has died; but another would wait half an hour for a dead first one, where
    none of them has sent anything yet, or where a GPU waits for all of them.
    """
    if not HydraConfig.get().job.name.startswith("train_ddp_process_"):  # as Lightning calls those that it starts
        os.environ[FIRST_RANK] = str(os.getpid())
        return

    def watch() -> None:
        while os.getppid() == int(os.environ[FIRST_RANK]):
            time.sleep(1)
        time.sleep(10)  # a run that is over ends by itself, or has already said what it lacks
        print(f"error: {LOST}", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def lost_process(error: RuntimeError) -> str | None:
    """What to say of an error that comes of the death of another process; ``None`` for other errors.

    Example:
        >>> lost_process(RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:1] Read error: Connection reset."))
        "a process of this run has died (Read error: Connection reset): go on with the run's hydra.run.dir=… and \
ckpt_path=last"
        >>> lost_process(RuntimeError("shapes do not match"))
    """
    message = str(error)
    if not isinstance(error, torch.distributed.DistError) and "/gloo/" not in message:  # whose errors have no class
        return None
    reason = re.sub(r"^\[\S*\] ", "", message).split(". ")[0].splitlines()[0].rstrip(".")
    return LOST.replace("died", f"died ({reason})")


def explain(error: Exception) -> str | None:
    """In one line, what the user can do something about; ``None``: the error is a mistake in the code."""
    if not isinstance(error, USER_ERRORS):
        return lost_process(error) if isinstance(error, RuntimeError) else None
    # Hydra wraps what a constructor said; its own last line names the key.
    message = str(error.__cause__ or error).strip().replace("\n", " ")
    key = str(error).strip().splitlines()[-1] if isinstance(error, InstantiationException) else ""
    return message + (f" ({key})" if key.startswith("full_key") else "")


def quote_cells(argument: str) -> str:
    """Put NAS-Bench-201's cells in quotes: Hydra's grammar has no bare ``~``, which they are full of.

    Example:
        >>> quote_cells("strategy.genotype=|none~0|,|skip_connect~0|")
        'strategy.genotype="|none~0|","|skip_connect~0|"'
    """
    return re.sub(r"(?<=[=,])\|[^,'\"]*(?=,|$)", r'"\g<0>"', argument)


def main() -> None:
    """The command line."""
    sys.argv[1:] = map(quote_cells, sys.argv[1:])
    _main()


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="config")
def _main(config: DictConfig) -> None:
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    is_job = settings.mode == RunMode.MULTIRUN
    if is_job and is_finished(folder):
        print(f"{os.path.relpath(folder)} has finished before")
        return
    (folder / ERROR).unlink(missing_ok=True)
    try:
        if not (is_job and has_summary(folder)):
            run(config, folder)
        if config.retrain and not config.retraining:
            retrain(folder)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning's own exit would look like success
    except Exception as error:
        message = explain(error)
        if is_job:  # the others go on
            message = message or f"{type(error).__name__}: {error}".splitlines()[0]
            save_error(folder, message, error)
            print(f"error: {message} ({os.path.relpath(folder / ERROR)})", file=sys.stderr)
            return
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
