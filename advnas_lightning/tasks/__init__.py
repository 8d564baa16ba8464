"""The paper's tasks: each has its data, its network, and what only it reports."""
