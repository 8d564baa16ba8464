"""What a module's ``state_dict`` leaves out of its buffers, of what is trained, and how, for a run that goes on."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def collect_buffers(module: nn.Module, saved: Container[str]) -> dict[str, Tensor]:
    """The buffers that are registered with ``persistent=False``, by their qualified names.

    Networks keep what is quickly made again in such buffers, but also what training goes on with, such as the queue of
    a contrastive loss. Which of them it is cannot be seen.

    Args:
        module: The module.
        saved: The names in its ``state_dict``.

    Returns:
        Dense tensors, which are not copied. Those of a class of their own are left out.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> norm.register_buffer("queue", torch.zeros(3), persistent=False)
        >>> collect_buffers(norm, norm.state_dict())
        {'queue': tensor([0., 0., 0.])}
    """
    return {
        name: buffer
        for name, buffer in module.named_buffers(remove_duplicate=False)
        if name not in saved and type(buffer) is Tensor and buffer.layout == torch.strided and not buffer.is_meta
    }


def restore_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Put back what :func:`collect_buffers` gave: into the module's own tensors where they have room for it.

    Args:
        module: The module. A buffer that it has not yet registered is registered.
        buffers: The contents by qualified name.

    Raises:
        ValueError: The module has no place for a buffer.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> norm.register_buffer("queue", torch.zeros(3), persistent=False)
        >>> restore_buffers(norm, {"queue": torch.ones(4)})
        >>> norm.queue
        tensor([1., 1., 1., 1.])
    """
    modules = dict(module.named_modules(remove_duplicate=False))
    own = dict(module.named_buffers(remove_duplicate=False))
    for name, saved in buffers.items():
        path, _, leaf = name.rpartition(".")
        owner, buffer = modules.get(path), own.get(name)
        if owner is None or (buffer is None and getattr(owner, leaf, None) is not None):
            raise ValueError(
                f"the checkpoint has a buffer {name!r}, and this model has none: go on with the same model"
            )
        if buffer is None:
            owner.register_buffer(leaf, saved.to(_device(module)), persistent=False)
            continue
        value = saved.to(buffer.device)
        if torch.equal(buffer, value):  # as a constant is, which may be a view without memory of its own
            continue
        has_room = buffer.shape == value.shape and buffer.dtype == value.dtype and buffer.is_contiguous()
        if has_room and not buffer.is_inference():
            with torch.no_grad():
                buffer.copy_(value)
        else:
            setattr(owner, leaf, value)


def restore_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Put back what a ``state_dict`` holds where it has changed since it was loaded.

    A hook such as ``on_train_start`` may initialize weights. A run that goes on calls it again.

    Args:
        module: The module.
        state: Its ``state_dict``, which has been loaded.

    Example:
        >>> linear = nn.Linear(2, 2, bias=False)
        >>> restore_state(linear, {"weight": torch.zeros(2, 2)})
        >>> linear.weight.tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    own = chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    for name, tensor in own:
        saved = state.get(name)
        if type(saved) is Tensor and saved.shape == tensor.shape:
            tensor.data.copy_(saved)


def loose_weights(module: nn.Module, optimizers: Iterable[Optimizer]) -> list[Tensor]:
    """The tensors that optimizers train and that are no parameters of a module, in the order of the optimizers.

    A module may have them in a plain dict, or in an object that is no module, such as the constants of an equation.

    Args:
        module: The module.
        optimizers: The optimizers of the fit.

    Example:
        >>> constant = torch.ones(1, requires_grad=True)
        >>> loose_weights(nn.Linear(2, 2), [torch.optim.SGD([constant])])
        [tensor([1.], requires_grad=True)]
    """
    own = {id(parameter) for parameter in module.parameters()}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [weight for group in groups for weight in group["params"] if id(weight) not in own]


def restore_loose_weights(weights: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
    """Put back the contents that :func:`loose_weights` had.

    Args:
        weights: The tensors of this fit, in the order of :func:`loose_weights`.
        saved: Their contents in the checkpoint.

    Raises:
        ValueError: Their number or a shape is another one.

    Example:
        >>> restore_loose_weights([torch.ones(3)], [torch.ones(1)])
        Traceback (most recent call last):
            ...
        ValueError: the checkpoint's optimizers train tensors of the shapes [[1]] beside the module's parameters, and \
these train [[3]]: go on with the same ones
    """
    had, have = ([list(each.shape) for each in tensors] for tensors in (saved, weights))
    if had != have:
        raise ValueError(
            f"the checkpoint's optimizers train tensors of the shapes {had} beside the module's parameters, and these"
            f" train {have}: go on with the same ones"
        )
    for weight, value in zip(weights, saved, strict=True):
        weight.data.copy_(value)


def collect_modes(module: nn.Module, before_validation: Mapping[str, bool]) -> dict[str, list[str]]:
    """Which modules inside a module are in evaluation mode, and which parameters are frozen, by their qualified names.

    A hook such as ``on_train_epoch_start`` may say so, and it is not called where a run goes on within an epoch.

    Args:
        module: The module.
        before_validation: While the module is validated, which modules were in training mode before.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Dropout().eval())
        >>> collect_modes(net, {})
        {'evaluation': ['1'], 'frozen': []}
        >>> collect_modes(net.eval(), {"": True, "0": True, "1": False})
        {'evaluation': ['1'], 'frozen': []}
    """
    return {
        "evaluation": [name for name, each in module.named_modules() if not before_validation.get(name, each.training)],
        "frozen": [name for name, each in module.named_parameters() if not each.requires_grad],
    }


def restore_modes(module: nn.Module, modes: Mapping[str, Sequence[str]]) -> None:
    """Put back what :func:`collect_modes` gave.

    Args:
        module: The module.
        modes: The names.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> restore_modes(net, {"evaluation": ["1"], "frozen": ["0.bias"]})
        >>> net[1].training, net[0].weight.requires_grad, net[0].bias.requires_grad
        (False, True, False)
    """
    if modes:
        evaluation, frozen = set(modes["evaluation"]), set(modes["frozen"])
        for name, each in module.named_modules():
            each.training = name not in evaluation
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in frozen)


def _device(module: nn.Module) -> torch.device:
    """Where the module's first tensor is."""
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")
