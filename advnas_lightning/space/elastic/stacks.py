"""Elastic depths: an edge whose candidates are the first layers of a stack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import nn

from advnas_lightning.space.elastic.axes import Axis
from advnas_lightning.space.elastic.edge import Elastic
from advnas_lightning.space.elastic.making import check_sizes
from advnas_lightning.space.elastic.narrowing import Change


class Layers(Axis):
    """The number of layers of a Sequential.

    Example:
        >>> Layers().change(nn.Sequential(nn.ReLU(), nn.Tanh()), 1).attributes
        {'_modules': {'0': ReLU()}}
    """

    name = "depth"
    gives = False

    def full(self, module: Any) -> int:
        """The number of all layers."""
        return len(self.layers(module))

    def layers(self, module: Any) -> list[nn.Module]:
        """The layers that the stack has at its largest depth."""
        return list(module)

    def change(self, module: Any, size: int) -> Change:
        """The stack keeps its first layers."""
        return Change({"_modules": dict(list(vars(module)["_modules"].items())[:size])})

    def checked(self, module: Any, size: Any) -> Any:
        """The size, if all layers are alike.

        Raises:
            ValueError: A layer has parameters of other shapes than the first one.
        """
        super().checked(module, size)
        layers, alike = self.layers(module), self.alike(module)
        skipped = len(layers) - len(alike)
        for number, other in enumerate(map(_form, alike[1:]), start=skipped + 1):
            if other != (first := _form(alike[0])):
                raise ValueError(
                    f"layer {number} is no {first[0]} of the shapes that layer {skipped} has: stack equal layers, and"
                    " put the others before or behind the stack"
                )
        return size

    def alike(self, module: Any) -> list[nn.Module]:
        """The layers whose parameters must have the same shapes."""
        return self.layers(module)


class Stage(Layers):
    """The number of layers of a Sequential whose first layer may differ from the others, as in a stage of a ResNet.

    Example:
        >>> Stage().checked(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)), 2)
        2
    """

    def alike(self, module: Any) -> list[nn.Module]:
        """The layers behind the first one."""
        return self.layers(module)[1:]


class FirstLayers(nn.ModuleList):
    """The first layers of a list for a loop over them. What looks for modules finds all layers.

    In its first pass a network may put hooks on all layers that it has, as those of Hugging Face do for
    ``output_hidden_states``. The layers that this pass leaves out must have them in later passes.

    Args:
        layers: The list.
        size: The number of its first layers.

    Example:
        >>> layers = FirstLayers(nn.ModuleList([nn.ReLU(), nn.Tanh()]), 1)
        >>> len(layers), list(layers), len(list(layers.children()))
        (1, [ReLU()], 2)
    """

    def __init__(self, layers: nn.ModuleList, size: int) -> None:
        super().__init__()
        self.size = size
        vars(self)["_modules"] = vars(layers)["_modules"]

    def __iter__(self) -> Iterator[nn.Module]:
        return islice(vars(self)["_modules"].values(), self.size)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        found = list(self)[index]
        return nn.ModuleList(found) if isinstance(index, slice) else found


class Looped(Stage):
    """The number of layers of a list that a module loops over in its forward pass.

    Args:
        attribute: The name of the list in the module.

    Example:
        >>> net = nn.Module()
        >>> net.blocks = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        >>> Looped("blocks").change(net, 1).attributes
        {'_modules': {'blocks': ModuleList(
          (0): ReLU()
        )}}
    """

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute

    def layers(self, module: Any) -> list[nn.Module]:
        """The layers that the stack has at its largest depth."""
        return list(getattr(module, self.attribute))

    def change(self, module: Any, size: int) -> Change:
        """The first layers. What the module does before and behind them stays."""
        return self.having(module, getattr(module, self.attribute)[:size])

    def running(self, module: Any, size: int) -> Change:
        """A list that is gone through up to the size."""
        return self.having(module, FirstLayers(getattr(module, self.attribute), size))

    def having(self, module: Any, layers: nn.ModuleList) -> Change:
        """Other layers in the place of the list."""
        return Change({"_modules": {**vars(module)["_modules"], self.attribute: layers}})


class NumLayers(Looped):
    """``num_layers`` of a TransformerEncoder or TransformerDecoder. What it does behind its layers stays.

    Example:
        >>> encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 3)
        >>> NumLayers().change(encoder, 2).attributes["num_layers"]
        2
    """

    name = "num_layers"

    def __init__(self) -> None:
        super().__init__("layers")

    def having(self, module: Any, layers: nn.ModuleList) -> Change:
        """Other layers in the place of the list, and their number."""
        return Change({self.name: len(layers), **super().having(module, layers).attributes})


class Behind(Axis):
    """A module behind a stack that computes the same whatever the depth, so that the gate acts behind it.

    A normalization layer divides by the scale of its input. A gate in front of it has nearly no gradient.

    Args:
        depth: The largest depth.

    Example:
        >>> Behind(12).change(nn.LayerNorm(4), 6) == Change()
        True
    """

    name = "depth"
    gives = False

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def full(self, module: Any) -> int:
        """The largest depth, which was given."""
        return self.depth

    def change(self, module: Any, size: int) -> Change:
        """No change: the module computes the same with any depth."""
        return Change()


class Depth(Elastic):
    """An edge whose candidates are the first layers of a stack of equal ones.

    The layers may have elastic sizes and other choices of their own. Those of layers that are left out do not run.

    Args:
        layers: A Sequential, a TransformerEncoder or a TransformerDecoder; or layers, of which a Sequential is made.
        sizes: The numbers of layers, in a list, or in a dict by the candidates' names.
        name: The edge's name.

    Raises:
        ValueError: There is no layer, one differs from the first one in the shapes of its parameters, or a number of
            layers is not one that the stack can have.

    Example:
        >>> net = nn.Sequential(Depth([nn.Linear(4, 4) for _ in range(3)], [1, 3], name="depth"), nn.Linear(4, 2))
        >>> from advnas_lightning import Genotype
        >>> Genotype({"depth": "1"}).apply(net)
        Sequential(
          (0): Sequential(
            (0): Linear(in_features=4, out_features=4, bias=True)
          )
          (1): Linear(in_features=4, out_features=2, bias=True)
        )
    """

    def __init__(
        self, layers: nn.Module | Iterable[nn.Module], sizes: Iterable[int] | Mapping[str, int], *, name: str
    ) -> None:
        axis = NumLayers() if isinstance(layers, nn.TransformerEncoder | nn.TransformerDecoder) else Layers()
        stack: Any = layers
        if type(axis) is Layers and not isinstance(layers, nn.Sequential):
            given = list(layers) if isinstance(layers, Iterable) else [None]
            stack = nn.Sequential(*given) if all(isinstance(layer, nn.Module) for layer in given) else nn.Sequential()
        if not axis.layers(stack):
            raise ValueError(f"Depth {name!r} has no layers: give it an nn.Sequential of equal layers, not {layers!r}")
        super().__init__(name, stack, axis, check_sizes(stack, axis, name, sizes))


def _form(layer: nn.Module) -> tuple[str, dict[str, Any]]:
    """The class of a layer, and the shapes of its parameters and buffers."""
    return type(layer).__name__, {name: tuple(value.shape) for name, value in layer.state_dict().items()}
