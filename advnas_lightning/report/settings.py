"""Settings in words, as labels and badges show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from advnas_lightning.texts import counted, plain, shortened

__all__ = ["described", "in_order"]

LONGEST = 40  # characters of a value


def _batches(value: Any) -> str:
    if value in (None, 1.0) and not isinstance(value, int):
        return "all batches"
    return f"{value:.0%} of the batches" if isinstance(value, float) else f"{value} batches an epoch"


def _rate(of: str) -> Callable[[Any], str]:
    return lambda value: f"learning rate of {of} {value}"


def _clip(of: str) -> Callable[[Any], str]:
    return lambda value: f"no clipping for {of}" if value is None else f"gradients of {of} clipped at {value}"


ZERO_OPERATIONS = {"paper": "by Eq. (9)", "authors_code": "by the authors' code", "none": "untreated"}
# How the value of a setting is read. Of two settings that differ alike, a label shows the one that stands above.
WORDS: dict[str, Callable[[Any], str]] = {
    "preset": lambda value: "authors' code" if value == "authors_code" else f"preset {value}",
    "trainer.max_epochs": lambda value: counted(value, "epoch"),
    "task.epochs": lambda value: counted(value, "epoch"),
    "trainer.limit_train_batches": _batches,
    "task.data.batches": lambda value: f"{value} batches an epoch",
    "task.data.batch_size": lambda value: f"batches of {value}",
    "task.optimization.accumulate": lambda value: f"{value} batches count as one",
    "task.data.image_size": lambda value: "full-size images" if value is None else f"{value}-pixel images",
    "task.model.cells": lambda value: f"{counted(value, 'cell')} a stage",
    "task.model.channels": lambda value: counted(value, "channel"),
    "task.model.stages": lambda value: counted(value, "stage"),
    "task.model.nodes": lambda value: counted(value, "node"),
    "task.data.nodes": lambda value: counted(value, "node"),
    "task.data.candidates": lambda value: f"{value} candidates",
    "task.model.hidden_size": lambda value: f"hidden size {value}",
    "task.model.embedding_size": lambda value: f"embedding size {value}",
    "task.data.bptt": lambda value: f"windows of {value} words",
    "task.optimization.warmup_epochs": lambda value: f"{value or 'no'} warm-up epoch{'s' if value != 1 else ''}",
    "task.zero_op": lambda value: "with the zero operation" if value else "without the zero operation",
    "task.data.split": lambda value: f"{value} split",
    "task.data.architecture_share": lambda value: f"{value:.0%} of the images for θ",
    "task.data.architecture_data": lambda value: f"θ learns from the {value} text",
    "task.data.padding": lambda value: f"padding {value}",
    "task.optimization.weight_optimizer.lr": _rate("the weights"),
    "task.optimization.architecture_optimizer.lr": _rate("θ"),
    "task.optimization.weight_clip": _clip("the weights"),
    "task.optimization.architecture_clip": _clip("θ"),
    "select": lambda value: f"selects {_words(str(value))}",
    "cost": lambda value: "no cost" if value is None else f"cost: {value}",
    "cost_file": lambda value: "its own costs" if value is None else f"costs of {value}",
    "cost_penalty": lambda value: "no penalty" if value is None else f"penalty {value}",
    "cost_budget": lambda value: "no budget" if value is None else f"budget {value}",
    "trainer.limit_val_batches": lambda value: f"{value} validation batches",
    "trainer.precision": lambda value: f"precision {value or '32-true'}",
    "strategy.advantage": lambda value: f"{value} advantage",
    "strategy.zero_op": lambda value: f"zero operation: {ZERO_OPERATIONS.get(value, value)}",
}
PLACES = {key: place for place, key in enumerate(WORDS)}
DROPPED = {"task", "strategy", "trainer", "data", "model", "optimization", "objective"}  # they say little in a name


def described(key: str, value: Any) -> str:
    """A setting and its value in words.

    Args:
        key: The setting's dotted key.
        value: Its value.

    Example:
        >>> described("trainer.max_epochs", 1), described("trainer.limit_train_batches", None)
        ('1 epoch', 'all batches')
        >>> described("task.optimization.weight_optimizer.momentum", 0.5)
        'weight optimizer momentum 0.5'
    """
    try:
        words = WORDS[key](value)
    except (KeyError, TypeError, ValueError):  # an unknown setting, or a value of a kind that it does not have
        parts = [part for part in key.split(".") if part not in DROPPED]
        words = f"{_words(' '.join(parts) or key)} {_value(value)}"
    return plain(words)


def in_order(keys: Iterable[str]) -> list[str]:
    """The keys of settings, those first that say most.

    Example:
        >>> in_order(["strategy.gamma", "task.data.batch_size", "trainer.max_epochs"])
        ['trainer.max_epochs', 'task.data.batch_size', 'strategy.gamma']
    """
    return sorted(keys, key=lambda key: (PLACES.get(key, len(PLACES)), key))


def _words(name: str) -> str:
    return name.replace("_", " ").strip()


def _value(value: Any) -> str:
    """A value as a reader would write it: a class by its name alone, yes and no, and nothing for what is not set."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(dict(value) if isinstance(value, Mapping) else value)
    return shortened(text, LONGEST)
