"""Readable Python source of a found network."""
