import hashlib
import socket
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from advnas_lightning.loaders import SearchLoader
from advnas_lightning.objectives import Window
from advnas_lightning.tasks.ptb import PennTreebank
from advnas_lightning.tasks.ptb import data as ptb
from advnas_lightning.tasks.ptb.data import ENDED, Windows

TEXTS = {
    "train": " the cat sat on the mat \n the dog sat \n on on the cat\n",
    "valid": " the dog sat on the cat \n",
    "test": " on the mat\nthe dog sat \n",
}
REAL = Path(__file__).parents[3].parent / "shared" / "data" / "ptb"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for part, text in TEXTS.items():
        (folder / f"ptb.{part}.txt").write_text(text)
    return folder


def make(root: Path, **options: Any) -> PennTreebank:
    data = PennTreebank(root=str(root), **{"batch_size": 3, "bptt": 4, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def ids(text: str) -> list[int]:
    """Token ids, written independently of the module: place in the list of distinct words."""
    distinct = list(dict.fromkeys(TEXTS["train"].replace("\n", " <eos> ").split()))
    return [distinct.index(word) for word in text.replace("\n", " <eos> ").split()]


def test_vocabulary_is_in_order_of_appearance(root: Path) -> None:
    (root / "ptb.valid.txt").write_text(TEXTS["train"])
    data = make(root, batch_size=1)
    tokens = torch.cat([window.targets.flatten() for window in data.val_dataloader()]).tolist()
    assert tokens == ids(TEXTS["train"])
    assert list(dict.fromkeys(tokens)) == list(range(7))  # the, cat, sat, on, mat, <eos>, dog
    assert data.words == 7


def test_a_last_line_without_an_end_gets_its_eos(root: Path) -> None:
    (root / "ptb.test.txt").write_text("the dog\nsat")
    targets = torch.cat([window.targets.flatten() for window in make(root, batch_size=1).test_dataloader()])
    assert targets.tolist() == ids("the dog\nsat\n")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("bptt", [1, 2, 4, 100])
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_every_token_is_predicted_once_from_its_predecessor(root: Path, part: str, batch_size: int, bptt: int) -> None:
    data = make(root, batch_size=batch_size, bptt=bptt)
    train = data.train_dataloader().iterables["weights"]
    windows = list({"train": train, "valid": data.val_dataloader(), "test": data.test_dataloader()}[part])
    tokens = ids(TEXTS[part])
    inputs = torch.cat([window.inputs for window in windows]).t().flatten()
    targets = torch.cat([window.targets for window in windows]).t().flatten()
    kept = targets != ENDED
    assert targets[kept].tolist() == tokens
    assert inputs[kept].tolist() == [tokens[-1], *tokens[:-1]]  # a text ends with <eos>, as what precedes it
    assert (inputs[~kept] == tokens[-1]).all()
    assert not (~kept)[: len(tokens)].any()  # padding at the end only
    assert [window.tokens for window in windows] == [int((window.targets != ENDED).sum()) for window in windows]
    assert all(type(window.tokens) is int and window.tokens > 0 for window in windows)


def test_windows_are_in_order_and_the_last_is_short(root: Path) -> None:
    windows = list(make(root).train_dataloader().iterables["weights"])  # 16 tokens, 3 streams of 6
    assert [tuple(window.inputs.shape) for window in windows] == [(4, 3), (2, 3)]
    assert [window.position for window in windows] == [0, 1]
    assert [window.tokens for window in windows] == [12, 4]


def test_texts_are_named(root: Path) -> None:
    data = make(root, architecture_data="valid")
    loaders = {
        "train": data.train_dataloader().iterables["weights"],
        "architecture": data.train_dataloader().iterables["architecture"],
        "valid": data.val_dataloader(),
        "test": data.test_dataloader(),
    }
    for name, loader in loaders.items():
        assert len(loader) == len(list(loader))
        assert {window.text for window in loader} == {name}


def test_alternates_on_the_training_text(root: Path) -> None:
    loader = make(root, bptt=2).train_dataloader()
    assert isinstance(loader, SearchLoader)
    batches = [batch for batch, _, _ in loader]
    assert [list(batch) for batch in batches] == [["weights"], ["architecture"], ["weights"]]
    windows = [next(iter(batch.values())) for batch in batches]
    assert [(window.position, window.text) for window in windows] == [(0, "train"), (1, "train"), (2, "train")]


def test_architecture_steps_on_the_validation_text(root: Path) -> None:
    loader = make(root, bptt=2, architecture_data="valid").train_dataloader()
    batches = [batch for batch, _, _ in loader]
    assert [(batch["weights"].position, batch["weights"].text) for batch in batches] == [(i, "train") for i in range(3)]
    places = [(batch["architecture"].position, batch["architecture"].text) for batch in batches]
    assert places == [(0, "architecture"), (1, "architecture"), (0, "architecture")]  # 7 tokens: cycled


def test_texts_are_read_once(root: Path) -> None:
    data = make(root)
    first = data.val_dataloader()
    data.setup("test")
    assert data.val_dataloader() is first


def test_lightning_takes_the_windows_in_order(root: Path) -> None:
    class Seen(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[tuple[str, str, int]] = []

        def training_step(self, batch: dict[str, Window], batch_idx: int) -> torch.Tensor:
            self.seen += [(name, window.text, window.position) for name, window in batch.items()]
            return self.weight.square()

        def validation_step(self, window: Window, batch_idx: int) -> None:
            self.seen.append(("evaluate", window.text, window.position))

        test_step = validation_step

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, **dict.fromkeys(off, False))
    module, data = Seen(), PennTreebank(root=str(root), batch_size=3, bptt=2)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    train = [("weights", "train", 0), ("architecture", "train", 1), ("weights", "train", 2)]
    evaluate = [("evaluate", "valid", 0), ("evaluate", "valid", 1), ("evaluate", "test", 0), ("evaluate", "test", 1)]
    assert module.seen == train + evaluate


def test_missing_file_is_named(root: Path) -> None:
    (root / "ptb.valid.txt").unlink()
    for call in ("prepare_data", "setup"):
        with pytest.raises(ValueError, match=r"no ptb\.valid\.txt in ") as caught:
            getattr(PennTreebank(root=str(root), batch_size=2), call)()
        assert str(root) in str(caught.value)


def test_unknown_word_is_named(root: Path) -> None:
    (root / "ptb.test.txt").write_text("the horse\n")
    with pytest.raises(ValueError, match=r"ptb\.test\.txt has a word 'horse'"):
        make(root)


def test_a_text_too_short_for_its_batches_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size=8 .* valid text"):
        make(root, batch_size=8)


def test_words_before_setup() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        _ = PennTreebank().words


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "advnas_lightning" / "ptb"


@pytest.mark.parametrize("error", [URLError(socket.gaierror(-2, "unknown name")), OSError("disk full")])
def test_no_network_says_what_to_put_where(cache: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ValueError, match="cannot download") as caught:
        PennTreebank().prepare_data()
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(cache), "ptb.train.txt, ptb.valid.txt, ptb.test.txt", "task.data.root=DIR"):
        assert part in message


def test_downloads_what_is_missing_and_checks_it(cache: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptb, "URL", root.as_uri())
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.iterdir()}
    monkeypatch.setattr(ptb, "SHA256", {name: sums[name] for name in ptb.SHA256})
    (root / "ptb.test.txt").write_text("tampered with\n")
    data = PennTreebank(batch_size=2)
    with pytest.raises(ValueError, match=r"hash.*put ptb\.test\.txt into"):
        data.prepare_data()
    assert {path.name for path in cache.iterdir()} == {"ptb.train.txt", "ptb.valid.txt"}  # nothing under any name
    (root / "ptb.test.txt").write_text(TEXTS["test"])
    (root / "ptb.train.txt").unlink()  # is there already, so it is not asked for again
    data.prepare_data()
    data.setup()
    assert data.words == 7


def test_empty_stream_is_padding() -> None:
    windows = list(Windows(torch.arange(1, 11), eos=0, batch_size=6, bptt=3, text="train"))
    assert windows[0].targets[:, 5].tolist() == [ENDED, ENDED]
    assert windows[0].tokens == 10


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the PTB text is not in {REAL}")
def test_real_text() -> None:
    data = PennTreebank(root=str(REAL))
    data.prepare_data()
    begin = time.process_time()  # whatever else the machine does
    data.setup()
    assert time.process_time() - begin < 10  # 929 589 words; takes about half a second
    assert data.words == 10_000
    loaders = (data.train_dataloader().iterables["weights"], data.val_dataloader(), data.test_dataloader())
    assert [sum(window.tokens for window in loader) for loader in loaders] == [929_589, 73_760, 82_430]
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in REAL.glob("ptb.*.txt")}
    assert sums == ptb.SHA256
