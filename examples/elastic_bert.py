"""Makes a pre-trained BERT smaller without labels: the heads and the width of each layer, and the number of layers.

    python examples/elastic_bert.py --model FOLDER --text FILE

`FOLDER` has a BERT or a network of its kind with its tokenizer, as `save_pretrained` writes them, and `FILE` has a
sentence in each line. The embedding of a sentence is the mean of its tokens' features. The embeddings of the
pre-trained network are the targets, and the loss is 1 - cosine. One supernet, which begins with the pre-trained
weights, is trained for all sizes together, and `rank` takes the best network within each of three budgets of
multiply-accumulates from it. It is trained on with its slices of the supernet, and so are what it is compared with: a
uniformly narrower network, one with fewer layers, and random networks of the search space that use at least nine tenths
of the budget. All take the same steps on the same batches, and are compared on sentences that none has seen.
"""

from __future__ import annotations

import argparse
import logging
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from size_comparison import Comparison, fit
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, default_collate
from transformers import AutoModel, AutoTokenizer

from advnas_lightning import Genotype, RandomSearch, SearchSpace, make_searchable, widths
from advnas_lightning.cost import count_macs
from advnas_lightning.ranking import Evolution
from advnas_lightning.space.elastic.rules import fit_config

EPOCHS = 10  # of the search
SHARES = [1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0]  # of the heads and of the features of a layer
BUDGETS = [1 / 3, 1 / 2, 2 / 3]  # the shares of a uniformly narrower network, whose cost is a budget
QUICK = dict(sentences=40, tests=16, batch_size=4, batches=2, search_steps=10, train_steps=2, top=2, generations=0)

Batch = Mapping[str, Tensor]
Count = Callable[[Any], float]


class Encoder(LightningModule):
    """Learns the embeddings of another network. It has no code for the search."""

    def __init__(self, bert: Any, *, lr: float, steps: int) -> None:
        super().__init__()
        self.bert, self.lr, self.steps = bert, lr, steps

    def forward(self, batch: Batch) -> Tensor:
        """The embeddings ``[B, features]`` of tokenized sentences ``[B, T]``."""
        features = self.bert(**{name: batch[name] for name in batch if name != "target"}).last_hidden_state
        is_token = batch["attention_mask"].unsqueeze(-1)  # [B, T, 1]
        return (features * is_token).sum(1) / is_token.sum(1)

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """The mean distance to the targets."""
        return 1 - cosine_similarity(self(batch), batch["target"]).mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, whose learning rate rises in the first 20 steps and falls to 0 until the last one."""
        optimizer = AdamW([weight for weight in self.parameters() if weight.requires_grad], lr=self.lr)
        schedule = LambdaLR(optimizer, lambda step: min((step + 1) / 20, 1) * (1 - step / self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def load(folder: Path) -> Any:
    """The pre-trained network, which learns in its layers alone, without dropout."""
    bert = AutoModel.from_pretrained(folder, local_files_only=True)
    bert.requires_grad_(False).encoder.requires_grad_(True)
    for module in bert.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return bert.train()


def make_elastic(bert: Any) -> Any:
    """Let each layer choose its heads and its feed-forward width, and the network its number of layers."""
    layers = bert.config.num_hidden_layers
    depth = range(max(1, layers // 3), layers + 1)
    make_searchable(bert, widths(heads=SHARES, ffn=SHARES, depth=list(depth), order_by="magnitude"))
    return bert


def sized(space: SearchSpace, **shares: float) -> Genotype:
    """The architecture whose sizes of each kind are a share of the largest one: all of it, where no share is given."""

    def nearest(edge: str, names: Sequence[str]) -> str:
        wanted = shares.get(edge.rpartition(".")[2], 1.0) * int(names[-1])
        return min(names, key=lambda name: abs(int(name) - wanted))

    return Genotype({edge: nearest(edge, names) for edge, names in zip(space.edges, space.candidates, strict=True)})


def best_of_one_width(search: RandomSearch, budgets: Sequence[float], count: Count, batches: Any) -> list[Genotype]:
    """The best network within each budget of those that a config can say: all heads, and one width for all layers."""
    depths = search.space.candidates[search.space.edges.index("encoder.depth")]
    scored = []
    for ffn, depth in product(SHARES, depths):
        genotype = sized(search.space, ffn=ffn, depth=int(depth) / int(depths[-1]))
        network = search.derive(genotype=genotype)
        scored.append((fidelity(network, batches)["cosine"], count(network), genotype))
    within = ([each for each in scored if each[1] <= budget] for budget in budgets)
    return [max(each, key=lambda scores: scores[0])[2] for each in within]


def read(path: Path, tokenizer: Any, *, words: int, number: int, seed: int) -> list[str]:
    """Some sentences of a text, in an order that depends on the seed."""
    lines = path.read_text().replace("<unk>", tokenizer.unk_token).splitlines()
    lines = [line.strip() for line in lines if len(line.split()) >= words]
    if len(lines) < number:
        raise ValueError(f"{path} has {len(lines)} sentences of {words} words or more, and {number} are needed")
    return random.Random(seed).sample(lines, number)


@torch.no_grad()
def with_targets(encoder: Encoder, tokenizer: Any, sentences: Sequence[str], tokens: int) -> list[dict[str, Tensor]]:
    """Each sentence's tokens, and its embedding by the pre-trained network."""
    how = dict(padding="max_length", truncation=True, max_length=tokens, return_tensors="pt")
    encoder.eval()
    rows = []
    for start in range(0, len(sentences), 64):
        batch = dict(tokenizer(list(sentences[start : start + 64]), **how))
        columns = {**batch, "target": encoder(batch)}
        rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows


@torch.no_grad()
def embeddings(network: Any, batches: Sequence[Batch]) -> Tensor:
    """The embeddings of the sentences of all batches, of length 1: ``[sentences, features]``."""
    network.eval()
    return normalize(torch.cat([network(batch) for batch in batches]), dim=1)


def fidelity(network: Any, batches: Sequence[Batch]) -> dict[str, float]:
    """How near a network's embeddings are to the targets.

    The mean cosine; Spearman's rank correlation of the cosines of all pairs of sentences; and the share of sentences
    whose nearest neighbour among the others is the same.
    """
    own, targets = embeddings(network, batches), normalize(torch.cat([batch["target"] for batch in batches]), dim=1)
    pairs = torch.ones(len(own), len(own)).triu(1).bool()
    similar = [each @ each.T for each in (own, targets)]
    ranks = [each[pairs].argsort().argsort().double() for each in similar]
    nearest = [each.fill_diagonal_(-1).argmax(1) for each in similar]
    return {
        "cosine": float((own * targets).sum(1).mean()),
        "order of pairs": float(torch.corrcoef(torch.stack(ranks))[0, 1]),
        "same neighbour": float((nearest[0] == nearest[1]).float().mean()),
    }


def save(bert: Any, tokenizer: Any, folder: Path, batch: Batch) -> None:
    """Save a network whose sizes a config can say, and check that what is loaded again computes the same."""
    fit_config(bert)
    bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    given = {name: batch[name] for name in batch if name != "target"}
    again = AutoModel.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        if not torch.equal(again(**given).last_hidden_state, bert.eval()(**given).last_hidden_state):
            raise RuntimeError(f"what is loaded from {folder} computes something else")
    config = again.config
    print(f"saved in {folder}: {config.num_hidden_layers} layers, {config.intermediate_size} features each")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a supernet, take the best network within each budget, train it and its rivals on, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, metavar="FOLDER", required=True, help="the pre-trained network")
    parser.add_argument("--text", type=Path, metavar="FILE", required=True, help="a text with a sentence in each line")
    parser.add_argument("--output", type=Path, default=Path("elastic_bert"), help="the folder of the results")
    parser.add_argument("--sentences", type=int, default=6400, help="the sentences to train on")
    parser.add_argument("--tests", type=int, default=512, help="the sentences to test on, and as many to choose by")
    parser.add_argument("--tokens", type=int, default=16, help="the tokens of a sentence at most")
    parser.add_argument("--search-steps", type=int, default=400, help="the weight steps of the supernet")
    parser.add_argument("--train-steps", type=int, default=100, help="the steps of each network that is compared")
    parser.add_argument("--lr", type=float, default=5e-4, help="the highest learning rate")
    parser.add_argument("--batch-size", type=int, default=16, help="the sentences of a batch")
    parser.add_argument("--batches", type=int, default=8, help="the batches of an evaluation in the ranking")
    parser.add_argument("--top", type=int, default=15, help="the most probable networks that the ranking scores")
    parser.add_argument("--generations", type=int, default=3, help="the generations of the ranking's evolution")
    parser.add_argument("--random", type=int, default=1, help="the random networks of each budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="let the program run through in some seconds")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # the sentences are in memory
    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    texts = read(options.text, tokenizer, words=4, number=options.sentences + 2 * options.tests, seed=options.seed)
    comparison = Comparison("multiply-accumulates", "mean cosine with the pre-trained embeddings")
    with comparison.timed("targets"):
        rows = with_targets(Encoder(load(options.model), lr=0, steps=1), tokenizer, texts, options.tokens)
    train_rows, rows = rows[: options.sentences], rows[options.sentences :]
    valid, test = (
        list(DataLoader(part, options.batch_size)) for part in (rows[: options.tests], rows[options.tests :])
    )
    one = default_collate(rows[:1])

    def train_batches() -> DataLoader[Any]:
        order = torch.Generator().manual_seed(options.seed)
        return DataLoader(train_rows, options.batch_size, shuffle=True, drop_last=True, generator=order)

    seed_everything(options.seed, verbose=False)
    encoder = Encoder(make_elastic(load(options.model)), lr=options.lr, steps=options.search_steps)
    search = RandomSearch(encoder, sampling="sandwich", seed=options.seed)
    with comparison.timed("supernet"):
        steps = options.search_steps // EPOCHS
        fit(search, {"weights": train_batches()}, max_epochs=EPOCHS, limit_train_batches=steps)

    def count(network: Any) -> float:
        return count_macs(network, one)

    uniform = [sized(search.space, heads=share, ffn=share) for share in BUDGETS]
    budgets = [count(search.derive(genotype=genotype)) for genotype in uniform]
    with comparison.timed("ranking"):
        ranking = search.rank(
            valid,
            batches=options.batches,
            top=options.top,
            sample=options.top,
            evolution=Evolution(options.generations, population=20),
            costs=["macs"],
            budgets=[{"macs": budget} for budget in budgets],
            seed=options.seed,
        )
    with comparison.timed("choice of one width"):
        one_width = best_of_one_width(search, budgets, count, valid[: options.batches])
    chosen = {
        "found": [ranking.within({"macs": budget}).best.genotype for budget in budgets],
        "uniform": uniform,
        "shallow": [sized(search.space, depth=share) for share in BUDGETS],
        "one width": one_width,
    }
    middle: dict[Genotype, Any] = {chosen[kind][1]: None for kind in ("found", "one width")}

    def make(genotype: Genotype) -> Any:
        network: Any = search.derive(genotype=genotype).train()
        network.steps = options.train_steps
        if genotype in middle:
            middle[genotype] = network
        return network

    comparison.train_all(
        search,
        {kind: dict(zip(budgets, genotypes, strict=True)) for kind, genotypes in chosen.items()},
        {},
        make=make,
        count=count,
        train=lambda network: fit(network, train_batches(), max_epochs=-1, max_steps=options.train_steps),
        quality=partial(fidelity, batches=test),
        number=options.random,
        seed=options.seed,
    )
    shared = (search.derive(genotype=each.genotype) for each in comparison.of("random"))
    scores = [fidelity(network, valid[: options.batches])["cosine"] for network in shared]
    comparison.compare_supernet("sandwich", scores)
    comparison.report(options.output, vars(options))
    torch.save(middle[chosen["found"][1]].bert, options.output / "found.pt")
    save(middle[chosen["one width"][1]].bert, tokenizer, options.output / "one_width", one)


if __name__ == "__main__":
    main()
