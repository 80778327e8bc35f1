"""What a model is made of and what it costs, beside what was published."""

from convnext_dense.description.counting import count_macs, count_parameters, count_saved_bytes, image_on_meta

__all__ = ["count_macs", "count_parameters", "count_saved_bytes", "image_on_meta"]
