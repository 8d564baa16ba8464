"""The task of finding NAS-Bench-201's cell on CIFAR-10 (§5.2)."""

from advnas_lightning.tasks.cifar10.data import CIFAR10
from advnas_lightning.tasks.cifar10.model import NASBench201

__all__ = ["CIFAR10", "NASBench201"]
