"""Ranks architectures of one trained search by their losses with the shared weights."""
