"""Measures how well each strategy estimates the gradient of θ: ``python -m advnas_lightning.diagnose``."""

from advnas_lightning.diagnose.quality import diagnose, diagnose_fit
from advnas_lightning.diagnose.statistics import Credit, EstimatorStatistics, Truth, recommend

__all__ = ["Credit", "EstimatorStatistics", "Truth", "diagnose", "diagnose_fit", "recommend"]
