"""What is of the package pytorch_lightning is refused at once, or becomes the same as what is of lightning."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from advnas_lightning import AdvantageNAS, Fixed, MixedOp, search_loaders
from advnas_lightning.objectives import Classification
from tests.support.classifier import GENOTYPE, Classifier, loader, make, pair, search_of

Fit = Callable[..., Trainer]
THETA = partial(Adam, lr=0.1)


def standing_in(*bases: type) -> type:
    """A class as that package has it, whether it is installed or not."""
    return type(bases[0].__name__, bases, {"__module__": "pytorch_lightning.core"})


@pytest.fixture(params=["stand-in", "installed"])
def package(request: pytest.FixtureRequest) -> Any:
    """What there is in the package."""
    if request.param == "installed":
        return pytest.importorskip("pytorch_lightning")

    class Package:
        LightningModule = standing_in(nn.Module)
        LightningDataModule = standing_in(object)
        Callback = type("Callback", (object,), {"__module__": "pytorch_lightning.callbacks.callback"})

        class callbacks:
            EarlyStopping = type(
                "EarlyStopping",
                (Callback,),
                {
                    "__module__": "pytorch_lightning.callbacks",
                    "__init__": lambda self, monitor: None,
                    "state_key": "it",
                },
            )

    return Package


def module_of(package: Any) -> Any:
    class Theirs(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
            self.net = nn.Sequential(nn.Linear(4, 8), edge, nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), lr=0.1)

    return Theirs()


def assert_refused(build: Callable[[], Any], *words: str) -> None:
    with pytest.raises(MisconfigurationException) as caught:
        build()
    said = str(caught.value)
    assert "\n" not in said
    for word in (*words, "pytorch_lightning", "import lightning.pytorch", "use_one_lightning()"):
        assert word in said


@pytest.mark.parametrize("wrap", [lambda module: module, torch.compile], ids=["itself", "compiled"])
def test_a_module_is_refused_in_the_constructor(package: Any, wrap: Callable[[Any], Any]) -> None:
    assert_refused(lambda: AdvantageNAS(wrap(module_of(package)), architecture_optimizer=THETA), "module Theirs")
    assert_refused(lambda: Fixed(wrap(module_of(package)), genotype={"edge": "linear"}), "module Theirs")


def test_a_data_module_is_refused(package: Any) -> None:
    class Data(package.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader()

    assert_refused(lambda: search_loaders(Data(), 0.5), "data module Data")


def test_a_callback_that_lightning_does_not_know_is_refused(package: Any, fit: Fit) -> None:
    class Stopping(package.callbacks.EarlyStopping):
        """As a project extends it."""

    assert_refused(lambda: fit(search_of(), pair(), callbacks=[Stopping("loss")]), "callback Stopping")

    class Adding(Classifier):
        def configure_callbacks(self) -> list[Any]:
            return [Stopping("loss")]

    assert_refused(lambda: fit(Fixed(make(Adding), genotype=GENOTYPE), loader()), "callback Stopping")


def test_a_network_of_it_with_a_loss_of_ones_own_is_a_network(package: Any, fit: Fit) -> None:
    class Search(AdvantageNAS):
        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

    class Outer(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = module_of(package)

    own = {"architecture_optimizer": THETA, "weight_optimizer": partial(SGD, lr=0.1)}
    for search in (
        Search(module_of(package), **own),
        AdvantageNAS(module_of(package), **own, objective=Classification(3)),
        AdvantageNAS(Outer(), architecture_optimizer=THETA),
    ):
        fit(search, pair())
        assert search.weight_steps == 6


def test_a_users_own_callback_is_called(fit: Fit) -> None:
    package = pytest.importorskip("pytorch_lightning")

    class Counting(package.Callback):
        batches = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.batches += 1

    fit(search_of(), pair(), callbacks=[counting := Counting()])
    assert counting.batches == 6


def test_a_modules_own_callbacks_are_looked_at_as_the_trainers_are(fit: Fit) -> None:
    class Averages(Classifier):
        def configure_callbacks(self) -> Callback:
            return StochasticWeightAveraging(0.05)

    with pytest.raises(MisconfigurationException, match="StochasticWeightAveraging is for automatic optimization"):
        fit(search_of(make(Averages)), pair())


SCRIPT = """
import sys

from advnas_lightning import AdvantageNAS, MixedOp, search_loaders, use_one_lightning

use_one_lightning()
use_one_lightning()  # a second time does nothing

import lightning.pytorch
import lightning.fabric
import lightning_fabric
import pytorch_lightning as pl
import pytorch_lightning.callbacks.early_stopping
from lightning_fabric.utilities.seed import seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.types import STEP_OUTPUT

assert pl is lightning.pytorch and lightning_fabric is lightning.fabric
assert EarlyStopping is lightning.pytorch.callbacks.EarlyStopping
assert pytorch_lightning.callbacks.early_stopping is sys.modules["lightning.pytorch.callbacks.early_stopping"]
assert lightning.pytorch.callbacks.__spec__.name == "lightning.pytorch.callbacks"
try:
    import pytorch_lightning.not_there
except ModuleNotFoundError:
    pass
else:
    raise AssertionError

from tests.test_other_lightning import data_of, module_of

search = AdvantageNAS(module_of(pl), architecture_optimizer=__import__("torch").optim.Adam)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
stopping = EarlyStopping("entropy")
pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[stopping], **quiet).fit(search, search_loaders(data_of(pl), 0.5))
print("steps", search.weight_steps, float(stopping.best_score) > 0)
"""


def data_of(package: Any) -> Any:
    """A data module of the package, for the script."""

    class Points(package.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader()

    return Points()


def run(script: str) -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_both_packages_can_be_one() -> None:
    assert "steps 2 True" in run(textwrap.dedent(SCRIPT))


@pytest.mark.slow
def test_it_is_too_late_once_the_other_is_there() -> None:
    pytest.importorskip("pytorch_lightning")
    said = run("""
import pytorch_lightning
from advnas_lightning import use_one_lightning
try:
    use_one_lightning()
except Exception as error:
    print(type(error).__name__, error)
""")
    assert said.startswith("MisconfigurationException pytorch_lightning has been imported already: call use_one")
    assert said.count("\n") == 1
