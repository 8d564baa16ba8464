"""The Hydra configuration, as a package, so that the wheel carries it."""
