"""The costs of architectures, and cost as a part of what a search minimises."""

from advnas_lightning.cost.budget import ArchitectureCost
from advnas_lightning.cost.measuring import measure_costs
from advnas_lightning.cost.meters import UNITS, count_macs, count_parameters
from advnas_lightning.cost.plan import CostPlan, Fit
from advnas_lightning.cost.table import CostTable

__all__ = [
    "UNITS",
    "ArchitectureCost",
    "CostPlan",
    "CostTable",
    "Fit",
    "count_macs",
    "count_parameters",
    "measure_costs",
]
