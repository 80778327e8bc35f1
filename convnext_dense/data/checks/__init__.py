"""What is looked at in the data before a run."""
