"""The Hydra configuration, which is a package so that the wheel contains it."""
