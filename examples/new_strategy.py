"""Compares a strategy of your own with two of the package: which finds most of the teacher in equally many steps?

    python examples/new_strategy.py --teachers 10

REINFORCE credits a draw with its loss minus a running mean of earlier losses, which belong to an older θ. RLOO takes
several draws on one minibatch, and the baseline of each is the mean loss of the others. So it has the same minibatch
and the same θ. The price is one forward pass per draw. In the toy task each of a student's ten edges searches for its
teacher's filter among ten filters.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from functools import partial

import torch
from lightning import Trainer
from torch import Tensor
from torch.optim import Adam

from advnas_lightning import REINFORCE, AdvantageNAS, Architecture, SearchStrategy, Trial
from advnas_lightning.objectives import Regression
from advnas_lightning.tasks.toy import TeacherData, ToyNetwork


class RLOO(SearchStrategy):
    """REINFORCE with a leave-one-out baseline (Kool, van Hoof, Welling 2019)."""

    draws = 4  # the number of draws on each minibatch
    needs_gate_grad = False

    def sample(self) -> Architecture:
        """Draw a one-hot architecture a ~ p."""
        return self.one_hot(self.draw())

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """The gradient 1/K Σ_k (L_k − mean of the other L) ∇θ log p(a_k)."""
        a = torch.stack([trial.architecture.gates for trial in trials])  # [K, E, J]
        losses = torch.stack([trial.loss for trial in trials])  # [K]
        excess = (losses - losses.mean()) / (len(losses) - 1)  # [K], L_k − mean of the other L, over K
        return torch.einsum("k,kej->ej", excess, a - self.probs)


def right_edges(strategy: type[SearchStrategy], epochs: int, seed: int) -> int:
    """The number of edges on which the found architecture equals the teacher."""
    data = TeacherData(seed=seed)
    search = strategy(
        ToyNetwork(seed=seed), architecture_optimizer=partial(Adam, lr=1e-3), objective=Regression(), seed=seed
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(search, datamodule=data)
    found = search.genotype()
    return sum(found[edge] == data.teacher[edge] for edge in data.teacher)


def main(arguments: Sequence[str] | None = None) -> None:
    """Search for each teacher with each strategy, and print how many edges are right."""
    parser = argparse.ArgumentParser(description="Compare a new strategy with AdvantageNAS and REINFORCE")
    parser.add_argument("--epochs", type=int, default=6, help="the number of epochs, of 100 steps each")
    parser.add_argument("--teachers", type=int, default=3, help="the number of teachers, with 10 edges each")
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # messages on each fit would hide the results
    torch.set_num_threads(1)  # more threads would not speed up such small operations
    for strategy in (RLOO, REINFORCE, AdvantageNAS):
        start = time.perf_counter()
        right = sum(right_edges(strategy, options.epochs, seed) for seed in range(options.teachers))
        seconds = time.perf_counter() - start
        print(f"{strategy.__name__:12}  {right} of {10 * options.teachers} edges are right, {seconds:.0f} s")


if __name__ == "__main__":
    main()
