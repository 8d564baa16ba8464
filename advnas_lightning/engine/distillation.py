"""Distillation in weight steps: a network learns from the outputs of a teacher, beside the labels or in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from advnas_lightning.engine.evaluation import check_loss
from advnas_lightning.engine.fingerprint import fingerprint
from advnas_lightning.functional import soft_divergence
from advnas_lightning.space.mixed_op import MixedOp, mixed_ops
from advnas_lightning.texts import listed
from advnas_lightning.validate import check_positive

Loss = Callable[[Any, Any], Tensor]
WIDEST: Literal["widest"] = "widest"
TEMPERATURE = 1.0


class Distillation:
    """How the networks of weight steps learn from a teacher.

    With its own loss L and the logits z_s of a network, and the teacher's logits z_t, a weight step descends

        (1 − s) L + s T² KL(softmax(z_t / T) ‖ softmax(z_s / T)),

    where s is ``share`` and T is ``temperature`` (Hinton, Vinyals, Dean 2015). The teacher's outputs have no gradient.

    With ``"widest"`` the widest network of each sandwich trains on the labels, and the others on its outputs: the
    in-place distillation of universally slimmable networks (Yu and Huang 2019).

    Another module is in eval mode from the first weight step on, is given what the network is given, and is moved to
    its device. It is no part of the search: neither of its parameters, nor of the found network, nor of checkpoints. A
    search that is resumed must be given it again, and refuses one with other weights.

    Args:
        teacher: ``"widest"``, or a module that takes what the network takes.
        temperature: T, above 0.
        share: s, above 0 and at most 1; by default 1 for ``"widest"`` and 0.5 for a module.
        loss: A function in the place of the divergence: of the network's output and the teacher's, to a scalar.
        dim: The dimension of the classes. It need not be given where outputs have the shape [batch, classes].
        network: The name of the submodule whose outputs are compared, such as ``"net"``. By default it is the network
            that an objective calls; of a LightningModule it is the module itself if its ``training_step`` calls it, as
            in ``self(x)``, and otherwise the one child that contains all edges and all weights.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> Distillation("widest").share, Distillation(nn.Linear(4, 2)).share
        (1.0, 0.5)
    """

    def __init__(
        self,
        teacher: nn.Module | Literal["widest"] = WIDEST,
        *,
        temperature: float = TEMPERATURE,
        share: float | None = None,
        loss: Loss | None = None,
        dim: int | None = None,
        network: str | None = None,
    ) -> None:
        if teacher != WIDEST and not isinstance(teacher, nn.Module):
            raise ValueError(f"teacher={teacher!r} must be 'widest' or a module, such as a trained network")
        if loss is not None and not callable(loss):
            raise ValueError(f"loss={loss!r} must be a function of the network's output and the teacher's")
        if loss is not None and (temperature != TEMPERATURE or dim is not None):
            raise ValueError(f"temperature={temperature} and dim={dim} belong to the divergence, which loss= replaces")
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
            raise ValueError(f"dim={dim!r} must be a whole number, such as -1")
        self.module = teacher if isinstance(teacher, nn.Module) else None
        self.temperature = check_positive("temperature", temperature)
        own = 1.0 if self.module is None else 0.5
        self.share = own if share is None else check_positive("share", share, most=1)
        self.loss, self.dim, self.network = loss, dim, network
        self._description: str | None = None

    @property
    def is_of_widest(self) -> bool:
        """Whether the widest network is the teacher."""
        return self.module is None

    def describe(self) -> str:
        """What decides the result, in words: two teachers with other weights differ."""
        if self._description is None:
            loss = "" if self.loss is None else f", loss={getattr(self.loss, '__qualname__', type(self.loss).__name__)}"
            teacher: str = WIDEST
            if self.module is not None:
                teacher = f"{type(self.module).__name__} {sum(fingerprint(self.module)) % 2**64:016x}"
            self._description = f"{teacher}, share={self.share}, temperature={self.temperature}{loss}"
        return self._description


def check_teacher(teacher: Distillation | nn.Module | str | None, *, has_widest: bool) -> Distillation | None:
    """What a search was given as a teacher.

    Args:
        teacher: A :class:`Distillation`, or its first argument.
        has_widest: Whether weight steps run the widest network.

    Raises:
        ValueError: It is something else, or the widest network does not run.

    Example:
        >>> check_teacher("widest", has_widest=False)
        Traceback (most recent call last):
            ...
        ValueError: teacher='widest' needs sampling='sandwich', in which the widest network runs in each weight step
    """
    if teacher is None:
        return None
    if not isinstance(teacher, Distillation | nn.Module) and teacher != WIDEST:
        raise ValueError(f"teacher={teacher!r} must be 'widest', a module, or a Distillation of one of these")
    distillation = teacher if isinstance(teacher, Distillation) else Distillation(teacher)  # type: ignore[arg-type]
    if distillation.is_of_widest and not has_widest:
        raise ValueError(
            "teacher='widest' needs sampling='sandwich', in which the widest network runs in each weight step"
        )
    return distillation


class Lesson:
    """Lets networks of weight steps learn from a teacher: sees what they give, and adds the distillation to their loss.

    Args:
        distillation: How they learn.
        model: What is trained: a network, or the LightningModule that contains it.
        is_adapted: Whether the model computes its own loss.

    Raises:
        ValueError: The teacher shares weights with the network, or there is no submodule of the given name.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> lesson = Lesson(Distillation(nn.Linear(2, 2), share=1), net, is_adapted=False)
        >>> with lesson.watched():
        ...     own = net(torch.ones(1, 2)).sum()
        >>> lesson.loss(own, first=True) is own  # the teacher's logits are others
        False
    """

    def __init__(self, distillation: Distillation, model: nn.Module, *, is_adapted: bool) -> None:
        self.how, self._model = distillation, model
        self._watched = self._find(is_adapted)
        self._seen: list[tuple[str, Any, Any]] = []  # of each call: the module's name, its output, the teacher's
        self._asked: list[Any] = []  # of the calls that have begun: what the teacher gave
        self._taught: Any = None  # what the widest network of this step has given
        self.last: Tensor | None = None
        if distillation.module is not None:
            own = {id(each) for each in (*model.parameters(), *model.modules())}
            if any(id(each) in own for each in (*distillation.module.parameters(), *distillation.module.modules())):
                raise ValueError(
                    f"the teacher {type(distillation.module).__name__} shares modules or weights with the network that"
                    " learns from it: give a copy of it, as copy.deepcopy makes it"
                )

    def _find(self, is_adapted: bool) -> dict[str, nn.Module]:
        """The modules of which one is called in a pass, by name; the outermost one first."""
        model, name = self._model, self.how.network
        if name is not None:
            try:
                return {name: model.get_submodule(name)}
            except AttributeError:
                known = listed([repr(child) for child, _ in model.named_children()])
                raise ValueError(
                    f"network={name!r}: {type(model).__name__} has no such submodule; it has {known}"
                ) from None
        found = {type(model).__name__: model}
        if is_adapted:
            children = [(child, module) for child, module in model.named_children() if mixed_ops(module)]
            if len(children) == 1 and not isinstance(children[0][1], MixedOp | nn.ModuleList | nn.ModuleDict):
                ((child, module),) = children
                if set(model.parameters()) == set(module.parameters()):
                    found[child] = module
        return found

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A context for one pass of the network, in which what it gives is seen."""
        self._seen, self._asked = [], []
        with ExitStack() as stack:
            for name, module in self._watched.items():
                asking = module.register_forward_pre_hook(self._ask, with_kwargs=True)
                stack.callback(asking.remove)
                stack.callback(module.register_forward_hook(partial(self._see, name)).remove)
            yield

    def loss(self, own: Tensor, *, first: bool) -> Tensor:
        """The loss that a weight step descends after a pass.

        Args:
            own: The network's own loss.
            first: Whether it was the first pass of the step, in which a sandwich has the widest network.

        Raises:
            ValueError: The network was not called, or several times; or its outputs cannot be compared.
        """
        output, taught = self._output()
        self.last = None
        if self.how.is_of_widest:
            if first:
                self._taught = tree_map(_detached, output)
                return own
            taught = self._taught
        self.last = self._distillation(output, taught)
        share = self.how.share
        return self.last if share == 1 else (1 - share) * own + share * self.last

    def forget(self) -> None:
        """Forget the outputs of a step that is over."""
        self._taught = self.last = None
        self._seen = []

    def _ask(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        """Ask the teacher before the network runs, which may change its input; not again for a part of the network."""
        self._asked.append(None if self._asked else self._answer(args, kwargs))

    def _see(self, name: str, _: nn.Module, __: Any, output: Any) -> None:
        taught = self._asked.pop()
        if not self._asked:
            self._seen.append((name, output, taught))

    def _answer(self, args: Any, kwargs: Any) -> Any:
        """What the teacher gives for what the network is given."""
        teacher = self.how.module
        if teacher is None:
            return None
        device, own = (next(module.parameters(), None) for module in (self._model, teacher))
        if own is not None and device is not None and own.device != device.device:
            teacher.to(device.device)
        if any(module.training for module in teacher.modules()):
            teacher.eval()
        with torch.no_grad():
            return teacher(*args, **kwargs)

    def _output(self) -> tuple[Any, Any]:
        """The output of the network in this pass, and the teacher's."""
        if len(self._seen) == 1:
            ((_, output, taught),) = self._seen
            self._seen = []
            return output, taught
        names = listed(sorted({repr(name) for name, *_ in self._seen} or map(repr, self._watched)))
        times = f"{len(self._seen)} times" if self._seen else "never"
        raise ValueError(
            f"{names} was called {times} for one loss, and a teacher needs one output to compare: name the submodule"
            " that is called once and gives the logits, with Distillation(network=…)"
        )

    def _distillation(self, output: Any, taught: Any) -> Tensor:
        if self.how.loss is not None:
            name = getattr(self.how.loss, "__qualname__", type(self.how.loss).__name__)
            return check_loss(self.how.loss(output, taught), name)
        student, teacher = logits_of(output, "the network"), logits_of(taught, "the teacher")
        if student.shape != teacher.shape:
            raise ValueError(
                f"the network gives outputs of shape {list(student.shape)}, and the teacher of {list(teacher.shape)}:"
                " give a teacher with the same classes, or Distillation(loss=…)"
            )
        dim = self.how.dim
        if dim is None and student.dim() != 2:
            raise ValueError(
                f"the outputs have the shape {list(student.shape)}: say which dimension has the classes, as in"
                " Distillation(dim=-1)"
            )
        if not -student.dim() <= (dim or 0) < student.dim():
            raise ValueError(f"dim={dim}: the outputs have the shape {list(student.shape)}")
        return soft_divergence(student, teacher, self.how.temperature, -1 if dim is None else dim)


def logits_of(output: Any, source: str) -> Tensor:
    """The logits in an output: a tensor, or what a dict or an object has under the name ``logits``.

    Args:
        output: What a network gave.
        source: Which network, for the message.

    Raises:
        ValueError: There are none.

    Example:
        >>> logits_of({"logits": torch.zeros(1)}, "the network")
        tensor([0.])
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise ValueError(
            f"{source} gives a {type(output).__name__}, in which there are no logits: let it give a tensor or an object"
            " with logits, name another submodule with Distillation(network=…), or compare with Distillation(loss=…)"
        )
    return found


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
