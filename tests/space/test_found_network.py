"""What a search hands back is a plain network."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from advnas_lightning import Genotype, SearchSpace, make_searchable
from tests.support.replacements import Rules, activations


def found() -> tuple[nn.Module, nn.Module]:
    """A found network, and the same one built by hand with other weights."""
    layers = OrderedDict(stem=nn.Conv2d(3, 4, 3), act=nn.ReLU(inplace=True), norm=nn.BatchNorm2d(4), flat=nn.Flatten())
    model = nn.Sequential(layers)
    rules: Rules = {nn.ReLU: activations, "stem": lambda conv: {"big": nn.Conv2d(3, 4, 5), "conv": conv}}
    make_searchable(model, rules)
    space = SearchSpace(model)
    for choice in ((0, 0), (1, 1)):  # the edges have run, and remember it
        with space.bind(space.one_hot(choice)):
            model(torch.randn(2, 3, *([8, 8] if choice[0] else [10, 10])))
    by_hand = nn.Sequential(
        OrderedDict(stem=nn.Conv2d(3, 4, 3), act=nn.GELU(), norm=nn.BatchNorm2d(4), flat=nn.Flatten())
    )
    return Genotype({"stem": "conv", "act": "gelu"}).apply(model).eval(), by_hand.eval()


def test_a_found_network_is_the_one_built_by_hand() -> None:
    plain, by_hand = found()
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(plain(x), by_hand(x))
    by_hand.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(plain(x), by_hand(x))
    assert str(plain) == str(by_hand)
    assert all(type(module).__module__.startswith("torch.nn.") for module in plain.modules())


def test_a_found_network_can_be_exported() -> None:
    plain, _ = found()
    x = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(plain, (x,))
    torch.testing.assert_close(exported.module()(x), plain(x))
    assert set(exported.state_dict) == set(plain.state_dict())


WITHOUT = """
import pickle, sys
sys.modules["advnas_lightning"] = None
from pathlib import Path
import torch
network, x, y = pickle.loads(Path(sys.argv[1]).read_bytes())
assert torch.equal(network(x), y)
saved = torch.load(sys.argv[2], weights_only=False)
assert torch.equal(saved(x), y)
print("equal", [name for name in sys.modules if name.startswith("advnas_lightning.")])
"""


def test_a_found_network_is_loaded_without_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = found()
    x = torch.randn(2, 3, 8, 8)
    expected, pickled, saved = plain(x), pickle.dumps(plain), io.BytesIO()
    torch.save(plain, saved)
    saved.seek(0)
    for name in [*sys.modules]:
        if name.startswith("advnas_lightning."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "advnas_lightning", None)
    for loaded in (pickle.loads(pickled), torch.load(saved, weights_only=False)):
        assert torch.equal(loaded(x), expected)
    assert not [name for name in sys.modules if name.startswith("advnas_lightning.")]


@pytest.mark.slow  # a process imports everything
def test_a_found_network_runs_where_this_package_is_not_installed(tmp_path: Path) -> None:
    plain, _ = found()
    x = torch.randn(2, 3, 8, 8)
    pickled = pickle.dumps((plain, x, plain(x)))
    assert b"advnas" not in pickled
    (tmp_path / "network.pickle").write_bytes(pickled)
    torch.save(plain, tmp_path / "network.pt")
    files = [str(tmp_path / "network.pickle"), str(tmp_path / "network.pt")]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *files], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal []", done.stderr
