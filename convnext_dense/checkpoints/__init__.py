"""Reading checkpoints: what was asked for is loaded whole, or an error says what is missing."""

from convnext_dense.checkpoints.loading import LoadReport, compare, load_weights, unwrap
from convnext_dense.checkpoints.reading import read_checkpoint

__all__ = ["LoadReport", "compare", "load_weights", "read_checkpoint", "unwrap"]
