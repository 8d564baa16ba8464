"""What a checkpoint in the middle of an epoch holds of that epoch: all that its end will report as a mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torchmetrics import Metric

if TYPE_CHECKING:
    from advnas_lightning.strategies.base import SearchStrategy


class UnfinishedEpoch:
    """The sums and counts of an epoch that another process began.

    Lightning keeps those of ``self.log(…, on_epoch=True)`` in no checkpoint, and torchmetrics those of a metric only if
    it is told to; so an epoch that was resumed in its middle would report the mean of its second half alone.

    Args:
        search: whose epoch goes on.
        collected: see :meth:`collect`.
    """

    def __init__(self, search: SearchStrategy, collected: dict[str, Any]) -> None:
        device = search.device
        search._losses = {name: (total.to(device), count) for name, (total, count) in collected["losses"].items()}
        metrics = _metrics(search)
        for name, (updates, states) in collected["metrics"].items():
            metric = metrics[name]
            metric._update_count, metric._computed = updates, None
            for state, value in states.items():
                is_list = isinstance(value, list)
                setattr(metric, state, [each.to(device) for each in value] if is_list else value.to(device))
        self._logs: dict[str, list[Tensor]] = collected["logs"]

    @staticmethod
    def collect(search: SearchStrategy) -> dict[str, Any]:
        """Of the epoch that is running, in what ``torch.load(weights_only=True)`` reads."""
        logs: dict[str, list[Tensor]] = {}
        if search._unfinished is not None:
            search._unfinished.add_logs(search)
            logs |= search._unfinished._logs
        for key, metric in search.trainer.fit_loop.epoch_loop._results.items():
            if metric.is_tensor and metric.meta.on_epoch:
                counts = [metric.cumulated_batch_size] if metric.meta.is_mean_reduction else []
                logs[key] = [each.clone() for each in (metric.value, *counts)]
        metrics = {
            name: [metric._update_count, {state: getattr(metric, state) for state in metric._defaults}]
            for name, metric in _metrics(search).items()
        }
        losses = {name: [total.clone(), count] for name, (total, count) in search._losses.items()}
        return {"losses": losses, "metrics": metrics, "logs": logs}

    def add_logs(self, search: SearchStrategy) -> None:
        """Add what was logged before to what has been logged since: once for each name, as soon as it is known."""
        results = search.trainer.fit_loop.epoch_loop._results
        for key in [key for key in self._logs if key in results]:
            metric, before = results[key], [each.to(search.device) for each in self._logs.pop(key)]
            if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
                metric.value = metric.meta.reduce_fx(before[0], metric.value)
                continue
            metric.value = before[0] + metric.value
            if metric.meta.is_mean_reduction:
                metric.cumulated_batch_size = before[1] + metric.cumulated_batch_size


def _metrics(search: SearchStrategy) -> dict[str, Metric]:
    return {name: module for name, module in search.named_modules() if isinstance(module, Metric)}
