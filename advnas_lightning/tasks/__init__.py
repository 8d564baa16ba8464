"""The tasks of the paper. Each has its data, its network, and callbacks for results that only it reports."""
