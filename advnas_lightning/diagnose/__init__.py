"""How well each strategy estimates the gradient of θ: ``python -m advnas_lightning.diagnose``."""

from advnas_lightning.diagnose.quality import Credit, EstimatorStatistics, Truth, diagnose, diagnose_fit, recommend

__all__ = ["Credit", "EstimatorStatistics", "Truth", "diagnose", "diagnose_fit", "recommend"]
