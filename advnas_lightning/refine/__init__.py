"""Lets short trainings of their own decide between the finalists of a search: ``advnas refine``."""

from __future__ import annotations
