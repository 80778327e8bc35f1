"""The names of whole detectors that other code bases write, and what mmdet calls the same tensors.

The ConvNeXt in such a file is found and renamed by ``layouts``; the tables here rename everything around it.

Source: https://github.com/IDEA-Research/detrex/tree/e244e6c3da3e84566728c52c21fb061d23ce0e2f
projects/dino/modeling/dino.py, dino_transformer.py, detrex/modeling/neck/channel_mapper.py and detrex/layers/*.py
(Apache-2.0) for the names on the left; https://github.com/open-mmlab/mmdetection/tree/v3.3.0
mmdet/models/detectors/dino.py and mmdet/models/layers/transformer/*.py for those on the right.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convnext_dense.errors import UserError


@dataclass(frozen=True)
class DetectorLayout:
    """Tensor names of one detector in one code base.

    Attributes:
        name: Name of the layout, as users see it.
        marks: Names that together identify the layout.
        rules: Pairs of a regular expression and its replacement. All are applied to a name in turn, so that one rule
            names the module and another its part.
        settings: Attributes of mmdet's detector that have no tensor and decide whether it gives the same outputs, with
            the values of the other code base, as ``part.attribute``.
        advice: How a config of mmdet has to differ, for messages.
    """

    name: str
    marks: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any]
    advice: str


# The heads belong to the detector and to its decoder, so a file has each of their tensors under two names.
DETREX_DINO = DetectorLayout(
    name="detrex_dino",
    marks=("transformer.tgt_embed.weight", "transformer.enc_output.weight", "label_enc.weight"),
    rules=(
        (r"^(neck\.(?:extra_)?convs\.\d+)\.norm\.", r"\1.gn."),
        (r"^transformer\.(encoder|decoder)\.(layers|ref_point_head|norm)\.", r"\1.\2."),
        (r"^((?:en|de)coder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
        (r"^(decoder\.layers\.\d+)\.attentions\.1\.", r"\1.cross_attn."),
        (r"^((?:en|de)coder\.layers\.\d+)\.ffns\.0\.", r"\1.ffn."),
        (r"^transformer\.level_embeds$", "level_embed"),
        (r"^transformer\.tgt_embed\.", "query_embedding."),
        (r"^transformer\.enc_output\.", "memory_trans_fc."),
        (r"^transformer\.enc_output_norm\.", "memory_trans_norm."),
        (r"^(?:transformer\.decoder\.)?class_embed\.", "bbox_head.cls_branches."),
        # mmdet counts the activations between the layers too.
        (r"^(?:transformer\.decoder\.)?bbox_embed\.(\d+)\.layers\.0\.", r"bbox_head.reg_branches.\1.0."),
        (r"^(?:transformer\.decoder\.)?bbox_embed\.(\d+)\.layers\.1\.", r"bbox_head.reg_branches.\1.2."),
        (r"^(?:transformer\.decoder\.)?bbox_embed\.(\d+)\.layers\.2\.", r"bbox_head.reg_branches.\1.4."),
        (r"^label_enc\.", "dn_query_generator.label_embedding."),
    ),
    # projects/dino/configs/models/dino_r50.py, on which the configs of ConvNeXt are based
    settings={"positional_encoding.temperature": 10000, "positional_encoding.offset": -0.5},
    advice="detrex' DINO is mmdet's with neck.bias=True, positional_encoding.temperature=10000 and "
    "positional_encoding.offset=-0.5.",
)

DETECTOR_LAYOUTS = (DETREX_DINO,)


def find_detector_layout(names: Collection[str]) -> DetectorLayout | None:
    """Return the layout of a whole detector's names; None if they are mmdet's or unknown."""
    return next((layout for layout in DETECTOR_LAYOUTS if all(mark in names for mark in layout.marks)), None)


def find_advice(name: str) -> str | None:
    """Return the advice of the layout of that name; None if it is no layout of whole detectors."""
    return next((layout.advice for layout in DETECTOR_LAYOUTS if layout.name == name), None)


def check_settings(model: nn.Module, name: str) -> None:
    """Check what the tensors of a detector do not show.

    Args:
        model: The detector that was loaded.
        name: Name of the layout of the file; nothing is checked if it is no layout of whole detectors.

    Raises:
        UserError: A setting of the model is not the one that the file was trained with.
    """
    for layout in DETECTOR_LAYOUTS:
        for path, value in layout.settings.items() if layout.name == name else ():
            part, _, attribute = path.rpartition(".")
            in_model = getattr(getattr(model, part, None), attribute, None)
            if in_model != value:
                raise UserError(f"The model has {path}={in_model}; {name} files need {value}. {layout.advice}")


def to_mmdet(tensors: Mapping[str, Tensor], layout: DetectorLayout) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename the tensors of a detector to mmdet's names.

    Args:
        tensors: Tensors in the layout; those that no rule is for keep their names.
        layout: The layout of their names.

    Returns:
        The renamed tensors, and those names of ``tensors`` that repeat the tensor of another one.

    Raises:
        UserError: Two names stand for the same tensor of mmdet and have different values.
    """
    sources: dict[str, str] = {}
    repeated = []
    for name in tensors:
        renamed = name
        for pattern, replacement in layout.rules:
            renamed = re.sub(pattern, replacement, renamed)
        first = sources.setdefault(renamed, name)
        if first == name:
            continue
        if not torch.equal(tensors[first], tensors[name]):
            raise UserError(
                f"Tensors {first} and {name} are both {renamed} in mmdet, but their values differ: this is not a "
                f"{layout.name} file as its code writes it."
            )
        repeated.append(name)
    return {renamed: tensors[name] for renamed, name in sources.items()}, tuple(repeated)
