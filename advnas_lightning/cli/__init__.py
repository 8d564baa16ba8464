"""The command line: one run, a sweep of runs, and the training of what a search found."""
