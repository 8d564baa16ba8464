"""Bad arguments are named: each check refuses each kind of bad value, and each option is given to its check."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from advnas_lightning import (
    DARTS,
    ENAS,
    GDAS,
    NASP,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
    CounterfactualNAS,
    DrNAS,
    Fixed,
    Genotype,
    MixedOp,
    ProxylessNAS,
    RandomSearch,
    SearchStrategy,
)
from advnas_lightning.callbacks import ConvergenceStopping, LastCheckpoint
from advnas_lightning.objectives import Classification, LanguageModelling
from advnas_lightning.tasks.cifar10 import CIFAR10, NASBench201
from advnas_lightning.tasks.ptb import PennTreebank, RecurrentLM
from advnas_lightning.tasks.toy import TeacherData
from advnas_lightning.tasks.toy.callbacks import PeriodicTest
from advnas_lightning.validate import (
    check_bool,
    check_factory,
    check_int,
    check_one_of,
    check_positive,
    check_seed,
    check_share,
    check_temperatures,
    check_workers,
)
from tests.support.refusals import one_line
from tests.support.spoilt import OPTIMIZERS, network

Check = Callable[[str, Any], Any]
NAN, INF = math.nan, math.inf

# -- the checks ------------------------------------------------------------------------------------------------------

NO_NUMBERS = [NAN, "1", "often", None, [1], True, False, 1j]
NO_COUNTS = [*NO_NUMBERS, INF, -INF, 0.5, 1.0, 2.5]

SIZE = partial(check_int, least=1)
COUNT = partial(check_int, least=0)
BOUNDED = partial(check_int, least=0, most=2**63 - 1)
RATE = partial(check_positive, most=1)
FROM_ZERO = partial(check_positive, zero=True)
UP_TO_HALF = partial(check_positive, zero=True, most=0.5)
BELOW_ONE = partial(check_share, zero=True)
WORD = partial(check_one_of, allowed=("taylor", "exact"))

REFUSED: dict[str, tuple[Check, list[Any], str]] = {
    "a size": (SIZE, [*NO_COUNTS, 0, -1], "must be a whole number of at least 1"),
    "a count": (COUNT, [*NO_COUNTS, -1], "must be a whole number of at least 0"),
    "a number of draws": (partial(check_int, least=2), [*NO_COUNTS, 1, 0], "must be a whole number of at least 2"),
    "a bounded number": (BOUNDED, [*NO_COUNTS, -1, 2**63, 2**70], f"must be a whole number from 0 to {2**63 - 1}"),
    "a seed": (check_seed, [*NO_COUNTS, -(2**63) - 1, 2**64], f"whole number from {-(2**63)} to {2**64 - 1}"),
    "a number of threads": (check_workers, [*NO_COUNTS, 0, -1, 100_000, 10**99], "must be a whole number from 1 to"),
    "a positive number": (
        check_positive,
        [*NO_NUMBERS, INF, -INF, 0, 0.0, -0.1, -1],
        "must be a finite number above 0",
    ),
    "a number from 0": (FROM_ZERO, [*NO_NUMBERS, INF, -INF, -0.1, -1], "must be a finite number of at least 0"),
    "a rate": (RATE, [*NO_NUMBERS, INF, -INF, 0, -0.1, 1.5, 2], "must be a finite number above 0 and at most 1"),
    "a share": (
        check_share,
        [*NO_NUMBERS, INF, -INF, 0, 0.0, 1, 1.0, -0.5, 1.5],
        "must be a number above 0 and below 1",
    ),
    "a share from 0": (BELOW_ONE, [*NO_NUMBERS, INF, 1, 1.0, -0.1], "must be a number at least 0 and below 1"),
    "a switch": (check_bool, ["no", "true", "", None, 0, 1, 0.0, NAN, []], "must be true or false"),
    "a word": (WORD, ["eq7", "", "Taylor", None, True, 1, NAN], "is unknown: use taylor or exact"),
}


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind, (_, values, _) in REFUSED.items() for value in values], ids=repr
)
def test_each_check_names_each_kind_of_bad_value(kind: str, value: Any) -> None:
    check, _, says = REFUSED[kind]
    with one_line(f"an_option={value!r} ", says):
        check("an_option", value)


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (SIZE, [1, 2, 10**9]),
        (COUNT, [0, 1]),
        (BOUNDED, [0, 2**63 - 1]),
        (check_seed, [0, -(2**63), 2**64 - 1]),
        (check_positive, [1e-300, 0.5, 3, 1e300]),
        (FROM_ZERO, [0, 0.0, 2.5]),
        (RATE, [1e-300, 1, 1.0]),
        (check_share, [1e-9, 0.5]),
        (BELOW_ONE, [0, 0.0, 0.5]),
        (check_bool, [True, False]),
        (WORD, ["taylor", "exact"]),
        (check_factory, [None, SGD, partial(SGD, lr=0.1)]),
    ],
)
def test_each_check_gives_back_what_is_good(check: Check, values: list[Any]) -> None:
    for value in values:
        assert check("an_option", value) == value


@pytest.mark.parametrize("name", ["tau_max", "tau_min"])
@pytest.mark.parametrize("value", [*NO_NUMBERS, INF, 0, -0.1], ids=repr)
def test_each_of_two_temperatures_is_a_positive_number(name: str, value: Any) -> None:
    with one_line(f"{name}={value!r} must be a finite number above 0"):
        check_temperatures(**{"tau_max": 1.0, "tau_min": 1.0, name: value})


def test_temperatures_fall_or_stay() -> None:
    assert check_temperatures(1, 1) == (1, 1)
    with one_line("tau_max=0.1 must not be below tau_min=10"):
        check_temperatures(0.1, 10)


@pytest.mark.parametrize("value", ["sgd", 0.1, {}], ids=type)
@pytest.mark.parametrize(("name", "made"), [("weight_optimizer", "Adam"), ("weight_scheduler", "StepLR")])
def test_a_factory_is_a_function_that_makes(value: Any, name: str, made: str) -> None:
    says = f"{name} is a {type(value).__name__}: give a factory, a callable such as partial({made}, …)"
    with one_line(says):
        check_factory(name, value)


def test_what_a_factory_would_make_is_no_factory() -> None:
    with one_line("a_scheduler is a StepLR: give a factory, a callable such as partial(StepLR, …)"):
        check_factory("a_scheduler", StepLR(SGD([nn.Parameter(torch.ones(1))]), 1))


# -- the options of the strategies -----------------------------------------------------------------------------------


def one_of(*words: str) -> Check:
    return partial(check_one_of, allowed=words)


# An option, a value that only just will not do, and the check that has to say so.
Row = tuple[str, Any, Check]
CLIPS = one_of("norm", "value")
EVERY: list[Row] = [
    ("weight_optimizer", "sgd", check_factory),
    ("architecture_optimizer", 0.1, check_factory),
    ("weight_scheduler", "cosine", check_factory),
    ("architecture_scheduler", StepLR(SGD([nn.Parameter(torch.ones(1))]), 1), check_factory),
    ("weight_clip", 0, check_positive),
    ("architecture_clip", 0, check_positive),
    ("weight_clip_algorithm", "l1", CLIPS),
    ("architecture_clip_algorithm", None, CLIPS),
    ("accumulate", 0, SIZE),
    ("warmup_epochs", -1, COUNT),
    ("warmup_sizes", "growing", one_of("all", "shrinking")),
    ("sampling", "widest", one_of("one", "sandwich")),
    ("sandwich_draws", -1, COUNT),
    ("max_bad_steps", 0, SIZE),
    ("beta_decay", -1, FROM_ZERO),
    ("calibrate", -1, COUNT),
    ("offload", "gpu", check_bool),
    ("select", "best", one_of("argmax", "process_best")),
    ("seed", -(2**63) - 1, check_seed),
    ("seed", 2**64, check_seed),
]

OWN: dict[type[SearchStrategy], list[Row]] = {
    AdvantageNAS: [
        ("advantage", "eq7", one_of("taylor", "exact")),
        ("baseline", "A2", one_of("none", "ema")),
        ("zero_op", True, one_of("paper", "authors_code", "none")),
        ("gamma", 0, RATE),
        ("gamma", 1.5, RATE),  # the share of the newest value in a mean
    ],
    CounterfactualNAS: [
        ("advantage", "eq7", one_of("taylor", "exact")),
        ("geometry", "euclid", one_of("softmax", "mirror")),
        ("mix", -0.1, UP_TO_HALF),
        ("mix_end", 0.6, UP_TO_HALF),
        ("zero_op", "authors_code", one_of("none", "paper")),
        ("gamma", 0, RATE),
        ("gamma", 1.5, RATE),
    ],
    REINFORCE: [
        ("gamma", -0.1, RATE),
        ("gamma", 2, RATE),
        ("baseline_init", "one", one_of("first", "zero")),
        ("baseline_update", "never", one_of("after", "before")),
    ],
    ENAS: [
        ("gamma", 2, RATE),
        ("baseline_init", "one", one_of("first", "zero")),
        ("baseline_update", "never", one_of("after", "before")),
        ("hidden_size", 0, SIZE),
        ("temperature", 0.0, check_positive),
        ("tanh_constant", 0.0, check_positive),
        ("entropy_weight", -1, FROM_ZERO),
    ],
    PARSEC: [
        ("samples", 0, SIZE),
        ("scale", 0, check_positive),
        ("scale", "tokens", check_positive),
        ("weighting", "authors", one_of("importance", "authors_code")),
    ],
    ProxylessNAS: [("gates", "three_hot", one_of("two_hot", "binary"))],
    GDAS: [
        ("inactive", "zeros", one_of("ones", "none")),
        ("rao", 0, SIZE),
        ("tau_max", 0, check_positive),
        ("tau_min", -0.1, check_positive),
    ],
    DARTS: [
        ("second_order", "no", check_bool),  # a text is true
        ("geometry", "euclid", one_of("softmax", "mirror")),
    ],
    SNAS: [("tau_max", INF, check_positive), ("tau_min", 0, check_positive)],
    NASP: [("projection", "simplex", one_of("affine", "clip"))],
    DrNAS: [("kl", -1, FROM_ZERO)],
    RandomSearch: [],
    Fixed: [],
}
# What is no plain value has a test of its own below, or in tests/cost.
ELSEWHERE = {"objective", "cost", "genotype", "teacher"}


def refusal(check: Check, name: str, value: Any) -> str:
    """What a check says to a bad value."""
    with pytest.raises(ValueError, match=r".") as caught:
        check(name, value)
    return str(caught.value)


def row_name(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else repr(value) if isinstance(value, str | int | float) else ""


@pytest.mark.parametrize(
    ("kind", "option", "value", "check"),
    [(kind, *row) for kind, rows in OWN.items() for row in [*(EVERY if kind is AdvantageNAS else ()), *rows]],
    ids=row_name,
)
def test_each_option_of_a_strategy_is_checked(
    kind: type[SearchStrategy], option: str, value: Any, check: Check
) -> None:
    with one_line(refusal(check, option, value)):
        kind(network(), **{**OPTIMIZERS, option: value})


@pytest.mark.parametrize("kind", OWN, ids=row_name)
def test_every_option_has_its_row(kind: type[SearchStrategy]) -> None:
    options = {
        name
        for base in kind.__mro__
        if issubclass(base, SearchStrategy)
        for name, parameter in inspect.signature(base.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    rows = {option for option, *_ in [*EVERY, *OWN[kind]]}
    assert options - ELSEWHERE == rows


@pytest.mark.parametrize("kind", [GDAS, SNAS], ids=row_name)
def test_a_strategys_temperatures_fall(kind: type[SearchStrategy]) -> None:
    with one_line("tau_max=0.0001 must not be below tau_min="):
        kind(network(), **OPTIMIZERS, tau_max=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in OWN if kind.searches], ids=row_name)
def test_a_search_needs_an_optimizer_of_its_architecture(kind: type[SearchStrategy]) -> None:
    with one_line("architecture_optimizer=None: a search needs one"):
        kind(network(), architecture_optimizer=None)


@pytest.mark.parametrize("objective", ["classification", Classification, nn.CrossEntropyLoss()], ids=repr)
def test_an_objective_is_made_from_its_class(objective: Any) -> None:
    with one_line("objective=", "must be an Objective"):
        AdvantageNAS(network(), **OPTIMIZERS, objective=objective)


@pytest.mark.parametrize(
    ("genotype", "named"),
    [
        (None, "genotype=None"),
        (3, "not 3"),
        ({}, "no edge 'edge'"),
        ({"other": "linear"}, "no edge 'edge'"),
        ({"edge": "relu"}, "edge 'edge' has no candidate 'relu'"),
        ({"edge": "relu"}, "linear, tanh"),
        ("missing.json", "missing.json"),
    ],
)
def test_a_fixed_architecture_is_one_of_the_space(genotype: Any, named: str) -> None:
    with one_line(named):
        Fixed(network(), **OPTIMIZERS, genotype=genotype)


@pytest.mark.parametrize("kind", OWN, ids=row_name)
def test_an_unknown_option_is_named(kind: type[SearchStrategy]) -> None:
    genotype = {"genotype": {"edge": "tanh"}} if kind is Fixed else {}
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'entropy_wieght'") as caught:
        kind(network(), **OPTIMIZERS, **genotype, entropy_wieght=1)
    assert "\n" not in str(caught.value)


# -- networks and edges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "named"),
    [("network", "str"), (None, "NoneType"), ([nn.Linear(1, 1)], "list"), (nn.Linear, "Linear")],
    ids=["text", "none", "list", "class"],
)
def test_what_is_no_network_is_refused(model: Any, named: str) -> None:
    with one_line(named, "nn.Module"):
        AdvantageNAS(model, **OPTIMIZERS)


@pytest.mark.parametrize("name", [3, None, "", ("a", "b")])
def test_an_edge_needs_a_name_that_a_genotype_can_hold(name: Any) -> None:
    # Else a search runs, and fails where it writes down what it found.
    with one_line(repr(name)):
        MixedOp(name, {"tanh": nn.Tanh(), "skip": nn.Identity()})


def test_a_genotype_for_a_network_without_choices_says_so() -> None:
    with one_line("MixedOp"):
        Genotype({"edge": "tanh"}).apply(nn.Linear(1, 1))


# -- the options of tasks and callbacks ------------------------------------------------------------------------------


PARTS: dict[Callable[..., Any], list[Row]] = {
    partial(NASBench201, channels=2, cells=1): [
        *((name, 0, SIZE) for name in ("classes", "channels", "cells", "stages")),
        *((name, "no", check_bool) for name in ("zero_op", "affine", "running_statistics")),  # a text is true
    ],
    partial(CIFAR10, root="images"): [
        ("batch_size", 0, SIZE),
        ("split", None, one_of("random", "first_half")),
        ("architecture_share", 0.0, check_share),
        ("padding", -1, COUNT),
        ("image_size", 0, SIZE),
        ("seed", "one", check_seed),
    ],
    partial(RecurrentLM, words=5): [
        *((name, 0, SIZE) for name in ("words", "embedding_size", "hidden_size", "nodes")),
        ("dropout", 1.0, BELOW_ONE),
        ("hidden_max_norm", 0.0, check_positive),
    ],
    partial(PennTreebank, root="text"): [
        ("batch_size", 0, SIZE),
        ("bptt", 0, SIZE),
        ("architecture_data", "test", one_of("train", "valid")),
    ],
    TeacherData: [(name, 0, SIZE) for name in ("batch_size", "batches", "test_batches", "nodes", "candidates")],
    LanguageModelling: [("loss_reduction", "sum", one_of("mean", "sum_time"))],
    PeriodicTest: [("every_n_batches", 0, SIZE)],
    partial(LastCheckpoint, "checkpoints"): [
        ("every_n_minutes", 0, check_positive),
        ("every_n_steps", 0, SIZE),
    ],
    ConvergenceStopping: [("entropy", 0, check_positive)],
}


@pytest.mark.parametrize(
    ("part", "option", "value", "check"),
    [(part, *row) for part, rows in PARTS.items() for row in rows],
    ids=row_name,
)
def test_each_option_of_a_task_or_callback_is_checked(
    part: Callable[..., Any], option: str, value: Any, check: Check
) -> None:
    with one_line(refusal(check, option, value)):
        part(**{option: value})
