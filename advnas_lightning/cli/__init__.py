"""The command line: it makes a run, a sweep of runs, or the retraining of a found architecture."""
