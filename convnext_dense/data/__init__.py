"""Data sets: generated demo data, folders of one's own, and checks before training."""
