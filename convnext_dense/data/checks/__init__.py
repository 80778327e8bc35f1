"""Checks of the data before a run."""
