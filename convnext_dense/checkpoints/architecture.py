"""The architecture of a ConvNeXt, read off its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from convnext_dense.checkpoints.variants import VARIANTS

_DEPTHWISE = re.compile(r"(?:stages\.(\d)|blocks)\.(\d+)\.dwconv\.weight")


@dataclass(frozen=True)
class Architecture:
    """Version and size of a ConvNeXt.

    Attributes:
        depths: Number of blocks per stage; an isotropic network has one stage.
        channels: Number of channels per stage.
        in_channels: Number of channels of the image.
        version: 1, or 2 with global response normalisation.
        has_layer_scale: Whether the blocks have a layer scale (gamma).
        isotropic: Whether all blocks run at one resolution.
    """

    depths: tuple[int, ...]
    channels: tuple[int, ...]
    in_channels: int
    version: int
    has_layer_scale: bool
    isotropic: bool

    def __str__(self) -> str:
        name = "isotropic ConvNeXt" if self.isotropic else "ConvNeXt V2" if self.version == 2 else "ConvNeXt"
        size = next((size for size, variant in VARIANTS.items() if (self.depths, self.channels) == variant), None)
        numbers = f"depths {', '.join(map(str, self.depths))}; channels {', '.join(map(str, self.channels))}"
        return f"{name} {size} ({numbers})" if size else f"{name} with {numbers}"

    def fits(self, other: "Architecture") -> bool:
        """Return whether both architectures agree in the stages that they share."""
        num_stages = min(len(self.depths), len(other.depths))
        return (
            (self.version, self.isotropic) == (other.version, other.isotropic)
            and self.depths[:num_stages] == other.depths[:num_stages]
            and self.channels[:num_stages] == other.channels[:num_stages]
        )


def describe(tensors: Mapping[str, Tensor]) -> Architecture:
    """Infer the architecture from tensors with official names. Blocks are counted by their depthwise weights."""
    depths: dict[int, int] = {}
    channels: dict[int, int] = {}
    for name, tensor in tensors.items():
        found = _DEPTHWISE.fullmatch(name)
        if found:
            stage = int(found[1] or 0)
            depths[stage] = max(depths.get(stage, 0), int(found[2]) + 1)
            channels[stage] = tensor.shape[0]
    stages = sorted(depths)
    isotropic = any(name.startswith("blocks.") for name in tensors)
    stem = tensors.get("stem.weight" if isotropic else "downsample_layers.0.0.weight")
    return Architecture(
        depths=tuple(depths[stage] for stage in stages),
        channels=tuple(channels[stage] for stage in stages),
        in_channels=3 if stem is None else stem.shape[1],
        version=2 if any(".grn." in name for name in tensors) else 1,
        has_layer_scale=any(name.endswith(".gamma") and ".grn." not in name for name in tensors),
        isotropic=isotropic,
    )
