"""The parts and the cost of a model, beside the published values."""

from convnext_dense.description.config_report import describe_config
from convnext_dense.description.counting import count_macs, count_parameters, count_saved_bytes, image_on_meta
from convnext_dense.description.tables import TABLES, build_table, roadmap_gmacs

__all__ = [
    "TABLES",
    "build_table",
    "count_macs",
    "count_parameters",
    "count_saved_bytes",
    "describe_config",
    "image_on_meta",
    "roadmap_gmacs",
]
