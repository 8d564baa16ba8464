"""The toy task's data: random images with a teacher's outputs (§5.1)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.tasks.toy.model import SIZE, ToyNetwork
from advnas_lightning.validate import check_int

CHUNK = 20  # the number of batches that are made at once


class TeacherData(LightningDataModule):
    """Gives a new batch in every step: images of U[−1, 1] with the outputs of a teacher network.

    The teacher is the network of ``seed`` with one candidate per edge, and its architecture a* is drawn uniformly. A
    student that is built with the same seed has the same weights. There are batches for architecture steps only, since
    nothing but θ is trained. Every batch is determined by the seed and by its place in the run.

    Args:
        batch_size: The number of images per batch.
        batches: The number of batches per epoch.
        test_batches: The number of batches of an evaluation.
        nodes: The number of nodes, as in :class:`ToyNetwork`.
        candidates: The number of filters per edge, as in :class:`ToyNetwork`.
        seed: The seed of the network, the teacher and the batches.

    Attributes:
        teacher: The architecture a* that a search should find.

    Raises:
        ValueError: A number is not a whole number of at least 1, or the seed is no whole number.

    Example:
        >>> data = TeacherData(batch_size=4, seed=1)
        >>> images, outputs = next(iter(data.test_dataloader()))
        >>> images.shape, outputs.shape, data.teacher["input->1"]
        (torch.Size([4, 1, 13, 13]), torch.Size([4]), 'filter0')
    """

    def __init__(
        self,
        *,
        batch_size: int = 100,
        batches: int = 100,
        test_batches: int = 10,
        nodes: int = 10,
        candidates: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size = check_int("batch_size", batch_size, least=1)
        self.batches = check_int("batches", batches, least=1)
        self.test_batches = check_int("test_batches", test_batches, least=1)
        self.seed = seed
        network = ToyNetwork(nodes=nodes, candidates=candidates, seed=seed)
        space = SearchSpace(network)
        generator = _generator(seed, "teacher")
        self.teacher: Genotype = space.genotype(torch.randint(candidates, (nodes,), generator=generator).tolist())
        self._network = self.teacher.apply(network)
        # The last chunk of each purpose, with its number.
        self._chunks: dict[str, tuple[int, tuple[Tensor, Tensor]]] = {}

    def train_dataloader(self) -> dict[str, DataLoader[tuple[Tensor, Tensor]]]:
        """The batches of the architecture steps."""
        sampler = _Consecutive(self.batches)
        dataset = _Batches(partial(self._batch, "train"), self.batches)
        return {"architecture": DataLoader(dataset, batch_size=None, sampler=sampler)}

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The batches of the evaluation at the end of each epoch."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The batches of a test, which no search has seen."""
        return self._evaluation("test")

    def test_batch(self, index: int) -> tuple[Tensor, Tensor]:
        """The test batch of any number from 0; the test loader gives the first ``test_batches`` of them."""
        return self._batch("test", index)

    def _evaluation(self, purpose: str) -> DataLoader[tuple[Tensor, Tensor]]:
        dataset = _Batches(partial(self._batch, purpose), self.test_batches)
        return DataLoader(dataset, batch_size=None, sampler=range(self.test_batches))

    def _batch(self, purpose: str, index: int) -> tuple[Tensor, Tensor]:
        # Batches are made in chunks, since a call of so small a teacher costs more than its arithmetic.
        number, place = divmod(index, CHUNK)
        if purpose not in self._chunks or self._chunks[purpose][0] != number:
            self._chunks[purpose] = number, self._make_chunk(purpose, number)
        _, (images, outputs) = self._chunks[purpose]
        return images[place], outputs[place]

    @torch.no_grad()
    def _make_chunk(self, purpose: str, number: int) -> tuple[Tensor, Tensor]:
        images = torch.empty(CHUNK * self.batch_size, 1, SIZE, SIZE)
        images.uniform_(-1, 1, generator=_generator(self.seed, purpose, number))
        outputs = self._network(images)
        return images.view(CHUNK, -1, 1, SIZE, SIZE), outputs.view(CHUNK, -1)


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches by index. The length is that of an epoch, for samplers that the trainer adds; any index works."""

    def __init__(self, make: partial[tuple[Tensor, Tensor]], length: int) -> None:
        self.make, self.length = make, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.make(index)


class _Consecutive(Sampler[int]):
    """Gives in epoch e the indices that follow those of epoch e − 1, also in a resumed run."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which the trainer does at the start of each one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.length, (self.epoch + 1) * self.length))

    def __len__(self) -> int:
        return self.length


def _generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A generator with an independent stream for each purpose and index."""
    number = {"teacher": 0, "train": 1, "val": 2, "test": 3}[purpose]
    return torch.Generator().manual_seed((seed * 4 + number) * 1_000_003 + index)
