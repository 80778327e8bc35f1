"""Names, depths and widths of the ConvNeXt family.

V1, V2 (``use_grn=True``, ``layer_scale_init_value=0``) and DINOv3's ConvNeXt (``output_norms='last'``) share them.

Source: arXiv 2201.03545, section 3 (tiny to xlarge) and table 2 (isotropic); arXiv 2301.00808, appendix A.1 (atto to
nano, huge); https://github.com/huggingface/pytorch-image-models/blob/aa4b5850/timm/models/convnext.py (atto to nano
without GRN).
"""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from convnext_dense.errors import UserError


class Variant(NamedTuple):
    """Number of blocks and number of channels of each of the four stages."""

    depths: tuple[int, ...]
    channels: tuple[int, ...]


VARIANTS: dict[str, Variant] = {
    "atto": Variant((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": Variant((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": Variant((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": Variant((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": Variant((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Variant((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Variant((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": Variant((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": Variant((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": Variant((3, 3, 27, 3), (352, 704, 1408, 2816)),
}


class IsotropicVariant(NamedTuple):
    """Number of blocks, all at stride 16, and their number of channels."""

    depth: int
    channels: int


ISOTROPIC_VARIANTS: dict[str, IsotropicVariant] = {
    "small": IsotropicVariant(18, 384),
    "base": IsotropicVariant(18, 768),
    "large": IsotropicVariant(36, 1024),
}


def get_variant(arch: str | Mapping[str, Any]) -> Variant:
    """Look a variant up by name, or check one given as ``dict(depths=..., channels=...)``.

    Raises:
        UserError: The name is unknown (the message suggests the nearest one), or the dict does not have four depths and
            four channels.
    """
    if isinstance(arch, str):
        return _look_up(arch, VARIANTS, "a ConvNeXt")
    if set(arch) != {"depths", "channels"}:
        raise UserError(f"arch as a dict must have exactly the keys depths and channels, got {sorted(arch)}.")
    variant = Variant(tuple(arch["depths"]), tuple(arch["channels"]))
    if len(variant.depths) != 4 or len(variant.channels) != 4:
        raise UserError(
            f"arch needs four depths and four channels, got depths={variant.depths}, channels={variant.channels}."
        )
    return variant


def get_isotropic_variant(arch: str | Mapping[str, Any]) -> IsotropicVariant:
    """Look an isotropic variant up by name, or check one given as ``dict(depth=..., channels=...)``.

    Raises:
        UserError: The name is unknown, the dict has other keys, or channels is not a multiple of 4.
    """
    if isinstance(arch, str):
        return _look_up(arch, ISOTROPIC_VARIANTS, "an isotropic ConvNeXt")
    if set(arch) != {"depth", "channels"} or arch["channels"] % 4:
        raise UserError(
            f"arch as a dict must have exactly the keys depth and channels, a multiple of 4; got {dict(arch)}."
        )
    return IsotropicVariant(arch["depth"], arch["channels"])


_AnyVariant = TypeVar("_AnyVariant", Variant, IsotropicVariant)


def _look_up(arch: str, variants: Mapping[str, _AnyVariant], kind: str) -> _AnyVariant:
    if arch in variants:
        return variants[arch]
    nearest = difflib.get_close_matches(arch, variants, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    raise UserError(f"arch='{arch}' is not {kind} variant; there are {', '.join(variants)}.{hint}")
