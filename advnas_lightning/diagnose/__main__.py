"""``advnas diagnose RUN`` compares the estimators of ∇θ on a search, and ``task=linear`` on an example.

PyTorch is imported after the options are read, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advnas_lightning.cli.answering import reading_options, working
from advnas_lightning.cli.options import HELP
from advnas_lightning.diagnose.folders import RESULT, free_folder, new_folder
from advnas_lightning.diagnose.options import help_text, read_settings
from advnas_lightning.runs import RunFolder, checkpoint_in
from advnas_lightning.texts import encodable


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The arguments; by default those of the process.

    Raises:
        SystemExit: With status 1, after one line of explanation, if the input is bad.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if HELP & set(arguments):
        print(help_text())
        return
    with reading_options():
        options = read_settings(arguments)
        place = _checked_place(options)
    with working():
        folder = _diagnose_linear(options, place) if options["task"] == "linear" else _diagnose_run(options, place)
    print(encodable(str(folder / "diagnosis.png")))


def _checked_place(options: dict[str, Any]) -> Path:
    """The folder in which a new one will be made: the run's, or the current one."""
    place = Path()
    if options["RUN"] is not None:
        place = RunFolder.of(checkpoint_in(options["RUN"])).path
    free_folder(options["output"], place)  # refuses one that is not free before the work
    return place


def _diagnose_linear(options: dict[str, Any], place: Path) -> Path:
    """Diagnose the example, and write the files. The result is their folder."""
    from advnas_lightning.diagnose.linear import draw_linear, linear, show_linear
    from advnas_lightning.runs import write_json

    _set_threads(options["threads"])
    found = linear(options["strategies"], options["draws"], options["seed"])
    show_linear(found)
    folder = new_folder(options["output"], place)
    draw_linear(found, folder)
    write_json(folder / RESULT, found)
    return folder


def _diagnose_run(options: dict[str, Any], place: Path) -> Path:
    """Diagnose a run's search, and write the files. The result is their folder."""
    import logging
    import warnings
    from dataclasses import asdict
    from functools import partial

    from advnas_lightning.cli.loading import load
    from advnas_lightning.diagnose.output import draw, show
    from advnas_lightning.diagnose.quality import diagnose_fit
    from advnas_lightning.runs import write_json

    _set_threads(options["threads"])
    run = load(options["RUN"], trust=options["trust"])
    names = ("strategies", "draws", "exact_draws", "progress", "seed", "batches")
    on_progress = partial(print, "…", file=sys.stderr, flush=True)
    for name in ("lightning.pytorch", "lightning.fabric"):  # which one it is depends on what was imported last
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")  # about a fit, which is none here
    settings = {name: options[name] for name in names}
    truth, statistics, credit = diagnose_fit(run.search, datamodule=run.data, on_progress=on_progress, **settings)
    show(truth, statistics, credit)
    folder = new_folder(options["output"], place)
    draw(statistics, folder)
    kept = {"exact": truth.by, "exact_error": truth.error, "exact_raises": truth.raises, "credit": asdict(credit)}
    write_json(folder / RESULT, {**kept, "estimators": {each.name: asdict(each) for each in statistics}})
    return folder


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
