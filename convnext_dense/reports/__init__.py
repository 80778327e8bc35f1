"""A trained model on labelled data: what it gets right, what goes wrong, and where to look."""
