"""Searches the channels of torchvision's ResNet-18 for small images.

    python examples/elastic_resnet.py --data DIR

Each residual block chooses how many channels it has inside. One supernet is trained for all of them together, and
`rank` takes the best network within each of three budgets of multiply-accumulates from it. Each of them is then trained
from scratch, and so are what it is compared with: the network in which all blocks have the same share of their
channels, and random networks of the search space that use at least nine tenths of the budget. All take the same steps
on the same batches. `DIR` has the images in `train/<class>/` and `test/<class>/`; without it they are random, and there
is nothing to learn. A tenth of the training images ranks.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from classifier import SIZE, Images
from lightning import LightningModule, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from size_comparison import Comparison, fit
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchvision.models import resnet18

from advnas_lightning import Genotype, RandomSearch, make_searchable, widths
from advnas_lightning.cost import count_macs
from advnas_lightning.ranking import Evolution

SHARES = [0.25, 0.375, 0.5, 0.75, 1.0]  # of the channels that a block has inside
SCALED = SHARES[1:4]  # whose networks are the budgets
EPOCHS = 10  # of the search
QUICK = dict(batch_size=4, batches=2, search_steps=10, train_steps=1, top=2, generations=0, random=1)


class Classifier(LightningModule):
    """A ResNet-18 and its training. It has no code for the search."""

    def __init__(self, classes: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.net = resnet18(num_classes=classes)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int = 0) -> Tensor:
        """The cross-entropy of a batch."""
        images, labels = batch
        return cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD with momentum, whose learning rate rises in the first 20 steps and falls to 0 until the last one."""
        optimizer = SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        schedule = LambdaLR(optimizer, lambda step: min((step + 1) / 20, 1) * (1 - step / self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def make_elastic(classifier: Classifier) -> Classifier:
    """Let each block choose its channels."""
    make_searchable(classifier.net, widths(channels=SHARES))
    return classifier


@torch.no_grad()
def accuracy(network: Any, batches: Iterable[Any]) -> float:
    """The percentage of images whose class is found."""
    network.eval()
    hits = [network.net(images).argmax(1) == labels for images, labels in batches]
    return 100 * float(torch.cat(hits).float().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a supernet, take the best network within each budget, train it and its rivals, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of the images; without it they are random")
    parser.add_argument("--output", type=Path, default=Path("elastic_resnet"), help="the folder of the results")
    parser.add_argument("--search-steps", type=int, default=300, help="the weight steps of the supernet")
    parser.add_argument("--train-steps", type=int, default=300, help="the steps of each network that is compared")
    parser.add_argument("--batch-size", type=int, default=32, help="the images of a batch")
    parser.add_argument("--batches", type=int, default=16, help="the batches of an evaluation")
    parser.add_argument("--top", type=int, default=10, help="the most probable networks that the ranking scores")
    parser.add_argument("--generations", type=int, default=5, help="the generations of the ranking's evolution")
    parser.add_argument("--random", type=int, default=2, help="the random networks of each budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="let the program run through in some seconds")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    data = Images(options.data, options.batch_size)
    data.setup()
    order = torch.Generator().manual_seed(options.seed)
    test = list(islice(DataLoader(data.test, options.batch_size, shuffle=True, generator=order), options.batches))
    new = partial(Classifier, data.classes, steps=options.train_steps)
    comparison = Comparison("multiply-accumulates", "accuracy on test images in %")

    seed_everything(options.seed, verbose=False)
    network = make_elastic(new(steps=options.search_steps))
    search = RandomSearch(network, sampling="sandwich", teacher="widest", seed=options.seed)
    loaders = {"weights": data.train_dataloader()}
    with comparison.timed("supernet"):
        fit(search, loaders, max_epochs=EPOCHS, limit_train_batches=options.search_steps // EPOCHS)

    def count(network: Any) -> float:
        return count_macs(network.net, torch.zeros(1, 3, SIZE, SIZE))

    def train(network: Any) -> None:
        seed_everything(options.seed, verbose=False)  # so that all networks see the same images
        fit(network, data.train_dataloader(), max_epochs=-1, max_steps=options.train_steps)

    def uniform(share: float) -> Any:
        index = SHARES.index(share)
        rows = zip(search.space.edges, search.space.candidates, strict=True)
        return Genotype({edge: names[index] for edge, names in rows}).apply(make_elastic(new()))

    scaled = {count(network): network for network in map(uniform, SCALED)}
    with comparison.timed("ranking"):
        ranking = search.rank(
            data.val_dataloader(),
            batches=options.batches,
            top=options.top,
            sample=options.top,
            evolution=Evolution(options.generations, population=10),
            costs=["macs"],
            budgets=[{"macs": budget} for budget in scaled],
            seed=options.seed,
        )
    comparison.train_all(
        search,
        {budget: ranking.within({"macs": budget}).best.genotype for budget in scaled},
        scaled,
        count=count,
        fresh=lambda: make_elastic(new()),
        train=train,
        quality=partial(accuracy, batches=test),
        number=options.random,
        seed=options.seed,
    )
    shared = (search.derive(genotype=each.genotype) for each in comparison.of("random"))
    batches = list(islice(data.val_dataloader(), options.batches))
    comparison.compare_supernet("sandwich, distilled", [accuracy(network, batches) for network in shared])
    comparison.report(options.output, vars(options))


if __name__ == "__main__":
    main()
