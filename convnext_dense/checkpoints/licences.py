"""Licences of released ConvNeXt weights, judged by where a file comes from. A copy has the licence of its original.

Source: https://github.com/facebookresearch/ConvNeXt (MIT), https://github.com/facebookresearch/ConvNeXt-V2 (weights
CC-BY-NC 4.0), https://ai.meta.com/resources/models-and-libraries/dinov3-license/, and EUPE's FAIR noncommercial
research licence as timm states it.
"""

import re

from convnext_dense.checkpoints.zoo import PREFIX, find_entry

UNKNOWN = "unknown"

_FOLDER = r"(?:.*[/\\])?"
_SIZE = r"(tiny|small|base|large|xlarge)"
# The names of released files, in any folder or under any address; the first match wins.
_BY_SOURCE = tuple(
    (re.compile(pattern), licence)
    for pattern, licence in (
        (r"(.*[/\\:])?[^/\\]*eupe[^/\\]*", "FAIR Noncommercial Research License"),
        (r"(.*[/\\:])?[^/\\]*dinov3[^/\\]*", "DINOv3 License"),
        (rf"{_FOLDER}convnextv2_[a-z]+_(1k|22k)_\d+_(ema|fcmae)\.pt", "CC-BY-NC-4.0"),
        (r"timm:convnextv2_[a-z]+\.fcmae\w*", "CC-BY-NC-4.0"),
        (r"hf:facebook/convnextv2-[\w-]+", "CC-BY-NC-4.0"),
        (rf"{_FOLDER}convnext_{_SIZE}_(1k|22k|22k_1k)_(224|384)(_ema)?\.pth", "MIT"),
        (rf"{_FOLDER}convnext_iso_{_SIZE}_1k_224_ema\.pth", "MIT"),
        (rf"{_FOLDER}(mask_rcnn|cascade_mask_rcnn)_convnext_{_SIZE}_(1k|22k)_3x\.pth", "MIT"),
        (rf"{_FOLDER}upernet_convnext_{_SIZE}_(1k|22k)_\d+x\d+\.pth", "MIT"),
        (rf"timm:convnext_{_SIZE}\.fb_\w+", "MIT"),
    )
)
# Layouts that only one program writes.
_BY_LAYOUT = {
    "eupe": "FAIR Noncommercial Research License",
    "dinov3": "DINOv3 License",
    "huggingface_dinov3": "DINOv3 License",
}


def find_licence(source: str, layout: str) -> str:
    """Return the licence of the weights.

    Args:
        source: Path, address or ``zoo:``, ``timm:`` or ``hf:`` name of the file.
        layout: Name of the layout, from ``detect_layout``.

    Returns:
        The licence, or ``'unknown'``: a layout that many programs write does not tell who trained the weights.
    """
    if source.startswith(PREFIX):
        return find_entry(source).licence
    for pattern, licence in _BY_SOURCE:
        if pattern.fullmatch(source):
            return licence
    return _BY_LAYOUT.get(layout, UNKNOWN)
