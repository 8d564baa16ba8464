"""Searches the sizes of a network for small images: a vision transformer's or ResNet-18's.

    python examples/elastic_images.py --network vit --data DIR
    python examples/elastic_images.py --network resnet --data DIR

Both networks are torchvision's. In each layer of the transformer the number of heads and the feed-forward width are
searched, and the number of layers; in each residual block of ResNet-18 the channels that it has inside. One supernet is
trained for all sizes together, and `rank` takes the best network within each of three budgets of multiply-accumulates
from it. Each of them is then trained from scratch, and so are what it is compared with: a uniformly scaled network, and
random networks of the search space that use at least nine tenths of the budget. All take the same steps on the same
batches. `DIR` has the images in `train/<class>/` and `test/<class>/`; without it they are random, and there is nothing
to learn. A tenth of the training images ranks.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from classifier import SIZE, Images
from lightning import LightningModule, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from size_comparison import Comparison, fit, renewed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchvision.models import VisionTransformer, resnet18

from advnas_lightning import Genotype, RandomSearch, make_searchable, widths
from advnas_lightning.cost import count_macs
from advnas_lightning.ranking import Evolution

HEADS, HEAD, PATCH, LAYERS = 8, 16, 8, 6  # of the transformer; a head and a patch have 16 features and 8 x 8 pixels
EPOCHS = 10  # of the search
QUICK = dict(batch_size=4, batches=2, search_steps=10, train_steps=1, top=2, generations=0, random=1)


def vit(classes: int, share: float = 1.0) -> nn.Module:
    """A vision transformer with a share of the heads, which makes all its widths smaller."""
    heads = round(share * HEADS)
    width = heads * HEAD
    return VisionTransformer(SIZE, PATCH, LAYERS, heads, width, mlp_dim=4 * width, num_classes=classes)


def resnet(classes: int, share: float = 1.0) -> nn.Module:
    """ResNet-18 with a share of the channels inside each residual block."""
    net = resnet18(num_classes=classes)
    if share == 1:
        return net
    make_searchable(net, widths(channels=[share, 1.0]), share=lambda name, block: "channels")
    return Genotype({"channels": str(Fraction(share))}).apply(net)


@dataclass(frozen=True)
class Family:
    """Networks of one kind.

    Attributes:
        make: Makes a network for a number of classes with a share of its sizes.
        optimizer: Trains it.
        sizes: What can be searched in it, for `widths`.
        scales: The shares of the uniformly scaled networks, whose costs are the budgets.
    """

    make: Callable[..., nn.Module]
    optimizer: Callable[..., Optimizer]
    sizes: Mapping[str, Any]
    scales: Sequence[float]


QUARTERS = [0.25, 0.5, 0.75, 1.0]
FAMILIES = {
    "vit": Family(
        vit,
        partial(AdamW, lr=1e-3, weight_decay=0.05),
        {"heads": QUARTERS, "ffn": QUARTERS, "depth": list(range(LAYERS // 2, LAYERS + 1))},
        (4 / 8, 5 / 8, 6 / 8),
    ),
    "resnet": Family(
        resnet,
        partial(SGD, lr=0.05, momentum=0.9, weight_decay=5e-4),
        {"channels": [0.25, 0.375, 0.5, 0.75, 1.0]},
        (0.375, 0.5, 0.75),
    ),
}


class Classifier(LightningModule):
    """A network and its training. It has no code for the search."""

    def __init__(self, net: nn.Module, optimizer: Callable[..., Optimizer], steps: int) -> None:
        super().__init__()
        self.net, self.optimizer, self.steps = net, optimizer, steps

    def training_step(self, batch: Sequence[Tensor], batch_idx: int = 0) -> Tensor:
        """The cross-entropy of a batch."""
        images, labels = batch
        return cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """A learning rate that rises in the first 20 steps and falls to 0 until the last one."""
        optimizer = self.optimizer(self.parameters())
        schedule = LambdaLR(optimizer, lambda step: min((step + 1) / 20, 1) * (1 - step / self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def accuracy(network: Any, batches: Iterable[Any]) -> float:
    """The percentage of images whose class is found."""
    network.eval()
    hits = [network.net(images).argmax(1) == labels for images, labels in batches]
    return 100 * float(torch.cat(hits).float().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a supernet, take the best network within each budget, train it and its rivals, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=FAMILIES, required=True, help="the kind of the network")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of the images; without it they are random")
    parser.add_argument("--output", type=Path, default=Path("elastic_images"), help="the folder of the results")
    parser.add_argument("--search-steps", type=int, default=600, help="the weight steps of the supernet")
    parser.add_argument("--train-steps", type=int, default=600, help="the steps of each network that is compared")
    parser.add_argument("--batch-size", type=int, default=64, help="the images of a batch")
    parser.add_argument("--batches", type=int, default=32, help="the batches of an evaluation")
    parser.add_argument("--top", type=int, default=30, help="the most probable networks that the ranking scores")
    parser.add_argument("--generations", type=int, default=5, help="the generations of the ranking's evolution")
    parser.add_argument("--random", type=int, default=2, help="the random networks of each budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="let the program run through in some seconds")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    family, data = FAMILIES[options.network], Images(options.data, options.batch_size)
    data.setup()
    order = torch.Generator().manual_seed(options.seed)
    test = list(islice(DataLoader(data.test, options.batch_size, shuffle=True, generator=order), options.batches))
    comparison = Comparison("multiply-accumulates", "accuracy on test images in %")
    seed_everything(options.seed, verbose=False)

    def plain(share: float = 1.0, steps: int = options.train_steps) -> Classifier:
        return Classifier(family.make(data.classes, share), family.optimizer, steps)

    def elastic(steps: int = options.train_steps) -> Classifier:
        classifier = plain(steps=steps)
        make_searchable(classifier.net, widths(**family.sizes))
        return classifier

    def count(network: Any) -> float:
        return count_macs(network.net, torch.zeros(1, 3, SIZE, SIZE))

    def train(network: Any) -> None:
        seed_everything(options.seed, verbose=False)  # so that all networks see the same images
        fit(network, data.train_dataloader(), max_epochs=-1, max_steps=options.train_steps)

    search = RandomSearch(elastic(options.search_steps), sampling="sandwich", teacher="widest", seed=options.seed)
    loaders = {"weights": data.train_dataloader()}
    with comparison.timed("supernet"):
        fit(search, loaders, max_epochs=EPOCHS, limit_train_batches=options.search_steps // EPOCHS)
    scaled = {count(network): network for network in map(plain, family.scales)}
    with comparison.timed("ranking"):
        ranking = search.rank(
            data.val_dataloader(),
            batches=options.batches,
            top=options.top,
            sample=options.top,
            evolution=Evolution(options.generations, population=20),
            costs=["macs"],
            budgets=[{"macs": budget} for budget in scaled],
            seed=options.seed,
        )
    comparison.train_all(
        search,
        {"found": {budget: ranking.within({"macs": budget}).best.genotype for budget in scaled}},
        {budget: renewed(network, options.seed) for budget, network in scaled.items()},
        make=lambda genotype: renewed(genotype.apply(elastic()), options.seed),
        count=count,
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
