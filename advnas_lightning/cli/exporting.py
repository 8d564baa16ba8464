"""Exports what a run has found, and writes and prints what came of it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advnas_lightning import rng
from advnas_lightning.cli.known import training_line
from advnas_lightning.cli.loading import SavedRun, load
from advnas_lightning.cli.process import keep_memory, quiet
from advnas_lightning.cli.ranking import training_batches
from advnas_lightning.export.call import Call
from advnas_lightning.export.formats import FORMATS
from advnas_lightning.export.network import Exported, export_call
from advnas_lightning.export.of_search import SEEN, found_network
from advnas_lightning.folder_lock import turn_in
from advnas_lightning.ranking.batches import with_validation_batches
from advnas_lightning.reading import Unreadable, read_json
from advnas_lightning.runs import EXPORTED, RunFolder, sha256, write_json
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.texts import encodable, writable

NAME = "network"  # of the files
LOCK = ".export.lock"  # is there while a process notes what it has written


def export_run(options: Mapping[str, Any], *, shows: bool = True, advises: bool = True) -> None:
    """Export as the options of ``advnas export`` say.

    Each format is written by itself, so that those that can be written are there where another one cannot.

    Args:
        options: The value of each option, as :func:`~advnas_lightning.cli.export.read_settings` gives them.
        shows: Whether what was written is printed.
        advises: Whether it is said what to do next.

    Raises:
        ValueError: The run cannot be loaded, or its network cannot be written in one of the formats.
    """
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    keep_memory()
    quiet()
    run = load(options["RUN"], trust=options["trust"])
    checkpoint = sha256(run.checkpoint)
    target = _target(run.folder, options)
    if options["output"] is not None:
        _refuse_others(target, options["formats"], run.folder)
    genotype = _genotype(run, options)
    with rng.seeded(0):
        batches = training_batches(run, options["calibrate"])
        first = batches[:SEEN] if len(batches) >= SEEN else training_batches(run, SEEN)

    def found(_: Any) -> tuple[nn.Module, Call]:
        return found_network(
            run.search,
            batches,
            genotype=genotype,
            part=options["part"] or "",
            seen=first,
            batch_dims=options["batch_dims"],
        )

    _let_validate(run.data)  # while a Trainer does, the hooks of the data change the batches as in the run
    network, call = with_validation_batches(run.search, found, datamodule=run.data, batches=1)
    chosen = run.search.genotype(run.search.selected) if genotype is None else genotype
    further = {"genotype": dict(chosen), "checkpoint_sha256": checkpoint, "torch": str(torch.__version__)}
    is_written = False
    errors: list[str] = []
    for kind in options["formats"]:
        path = target.with_name(target.name + FORMATS[kind].suffix)
        try:
            exported = export_call(
                network,
                path,
                call,
                dynamic=options["dynamic"],
                tolerance=options["tolerance"],
                opset=options["opset"],
                choices=dict(chosen),
            )
        except ValueError as error:
            errors.append(str(error))
            continue
        note_export(run.folder, exported, further)
        is_written = True
        if shows:
            print(writable(_line(exported)))
    if advises and is_written and run.search.searches and run.search.trains_weights:
        print("note: these are the weights that all architectures share; a training from scratch is better as a rule")
        if options["genotype"] is None or Path(str(options["genotype"])).exists():
            print(encodable(f"next: {_training_line(run, options)}"))
    if errors:
        raise ValueError("; and ".join(errors))


def _let_validate(data: Any) -> None:
    """Let data without any for validation, as where a network is trained on all of them, validate on the test data."""
    own = data.val_dataloader

    def val_dataloader() -> Any:
        found = own()
        return data.test_dataloader() if found is None or found == [] else found

    data.val_dataloader = val_dataloader


def _genotype(run: SavedRun, options: Mapping[str, Any]) -> Genotype | None:
    """The architecture that was named, if one was.

    Raises:
        ValueError: There is no such architecture.
    """
    if options["genotype"] is not None:
        return Genotype.read(str(options["genotype"]))
    return None if options["select"] is None else Genotype.load(run.folder.path, options["select"])


def _target(run: RunFolder, options: Mapping[str, Any]) -> Path:
    """The path of the files, without their endings, and with a name that Python can import."""
    if options["output"] is not None:
        path: Path = options["output"]
        return path.with_suffix("") if path.suffix in {each.suffix for each in FORMATS.values()} else path
    which = options["select"] or options["genotype"] or ""
    stem = Path(str(which)).stem if not str(which).startswith(("|", "{")) else "given"
    words = [NAME, *re.findall(r"\w+", stem if which else ""), *re.findall(r"\w+", options["part"] or "")]
    return Path(os.path.relpath(run.path)) / "_".join(words)


def _refuse_others(target: Path, formats: Sequence[str], run: RunFolder) -> None:
    """Refuse to replace a file that no export of the run has written."""
    own = set()
    for name, content in _noted(run).items():
        own |= {name, *(os.path.join(os.path.dirname(name), each) for each in content.get("beside", ()))}
    for kind in formats:
        for suffix in (FORMATS[kind].suffix, *FORMATS[kind].beside):
            path = target.with_name(target.name + suffix)
            if os.path.lexists(path) and os.path.relpath(path, run.path) not in own:
                raise ValueError(
                    f"{path} is there, and no export of this run has written it: name another place, output=PATH, or"
                    " move it away"
                )


def _noted(run: RunFolder) -> dict[str, Any]:
    """What the run's folder says of the files that were written; nothing where that cannot be read."""
    with suppress(OSError, Unreadable):
        found = read_json(run.path / EXPORTED)
        return {name: each for name, each in found.items() if isinstance(each, dict)} if isinstance(found, dict) else {}
    return {}


def _line(exported: Exported) -> str:
    """What was written, in one line."""
    inputs = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in exported.inputs.items())
    beside = "".join(f" and {path.name}" for path in exported.beside)
    return (
        f"{exported.path}{beside}: takes {inputs}; differs from the network by {exported.difference:.2g}"
        f" (at most {exported.tolerance:g}) on batches of {', '.join(map(str, exported.sizes))}"
    )


def note_export(folder: RunFolder, exported: Exported, further: Mapping[str, Any]) -> None:
    """Note in a run's folder what was written, and name the file in its summary if it has one.

    Processes that export the same run take turns, so that none of them undoes what another has noted.

    Args:
        folder: The folder of the run.
        exported: What was written.
        further: What else there is to say of it, as values for JSON.
    """
    name = os.path.relpath(exported.path, folder.path)
    with turn_in(folder.path, LOCK):
        write_json(folder.path / EXPORTED, {**_noted(folder), name: {**exported.content(), **further}})
        if folder.has_summary:
            write_json(folder.summary, {**read_json(folder.summary), f"exported/{exported.format}": name})


def _training_line(run: SavedRun, options: Mapping[str, Any]) -> str:
    """What to type to train the architecture from scratch and to export it then."""
    given, formats = options["genotype"], options["formats"]
    wanted = formats[0] if len(formats) == 1 else f"[{','.join(formats)}]"
    own = {"select": options["select"] or run.search.selected} if given is None else {"genotype": Path(given)}
    return f"{training_line(run.folder, **own)} {shlex.quote(f'export={wanted}')}"
