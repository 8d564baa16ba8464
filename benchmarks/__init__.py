"""Measurements of this package.

``python -m benchmarks`` measures speed and memory; its help lists the cases. The other modules that are commands make
tables and pictures from runs, and each says so in its docstring.
"""
