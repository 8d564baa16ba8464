"""Published benchmarks that score a found architecture without training it."""
