"""Checkpoints of any published layout: in, whole or with an error that says what is missing, and out again."""

from convnext_dense.checkpoints.architecture import Architecture, describe
from convnext_dense.checkpoints.class_rows import ClassDim, ClassRows, measure_class_dims, read_class_names
from convnext_dense.checkpoints.converting import convert_checkpoint, convert_state_dict
from convnext_dense.checkpoints.layout_tables import WRITABLE
from convnext_dense.checkpoints.layouts import detect_layout, find_layout, to_official
from convnext_dense.checkpoints.loading import load_weights
from convnext_dense.checkpoints.matching import LoadReport, match_weights
from convnext_dense.checkpoints.reading import read_checkpoint, unwrap
from convnext_dense.checkpoints.sources import fetch, hash_in_background

__all__ = [
    "WRITABLE",
    "Architecture",
    "ClassDim",
    "ClassRows",
    "LoadReport",
    "convert_checkpoint",
    "convert_state_dict",
    "describe",
    "detect_layout",
    "fetch",
    "find_layout",
    "hash_in_background",
    "load_weights",
    "match_weights",
    "measure_class_dims",
    "read_checkpoint",
    "read_class_names",
    "to_official",
    "unwrap",
]
