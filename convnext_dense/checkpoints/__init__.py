"""Read, load and convert checkpoints of every published layout; a load is complete or fails with what is missing."""

from convnext_dense.checkpoints.architecture import Architecture
from convnext_dense.checkpoints.checkpoint import Checkpoint, read_checkpoint
from convnext_dense.checkpoints.class_rows import ClassDim, ClassRows, measure_class_dims
from convnext_dense.checkpoints.converting import convert_checkpoint, convert_state_dict
from convnext_dense.checkpoints.layout_tables import WRITABLE
from convnext_dense.checkpoints.layouts import detect_layout
from convnext_dense.checkpoints.load_report import LoadReport
from convnext_dense.checkpoints.loading import load_weights
from convnext_dense.checkpoints.sources import fetch
from convnext_dense.checkpoints.variants import ISOTROPIC_VARIANTS, VARIANTS, Variant
from convnext_dense.checkpoints.zoo import ZooEntry, find_entry, read_zoo

__all__ = [
    "ISOTROPIC_VARIANTS",
    "VARIANTS",
    "WRITABLE",
    "Architecture",
    "Checkpoint",
    "ClassDim",
    "ClassRows",
    "LoadReport",
    "Variant",
    "ZooEntry",
    "convert_checkpoint",
    "convert_state_dict",
    "detect_layout",
    "fetch",
    "find_entry",
    "load_weights",
    "measure_class_dims",
    "read_checkpoint",
    "read_zoo",
]
