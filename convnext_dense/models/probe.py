"""Tells a trained ConvNeXt from a random one by its activations on one fixed image."""

import math
import os

import torch
from torch import Tensor

from convnext_dense.checkpoints import Architecture, Checkpoint, load_weights
from convnext_dense.errors import UserError
from convnext_dense.models.convnext import ConvNeXt

IMAGE_SIZE = (224, 224)
# Deviations of random networks of all sizes lie within a few per cent of each other.
_ALIKE = 1.25


def probe_checkpoint(source: str | os.PathLike) -> str:
    """Run one fixed image through the weights of a file and through a random network of the same size.

    Args:
        source: See ``checkpoints.fetch``.

    Returns:
        A table in plain text: layout, variant, the mean and standard deviation of both networks' activations per stage,
        and a conclusion.

    Raises:
        UserError: The file cannot be read, is incomplete, or is an isotropic ConvNeXt.
    """
    checkpoint = Checkpoint(source)
    variant = checkpoint.variant
    if variant.isotropic:
        raise UserError(f"Checkpoint {source} is an {variant}: it has only one stage, and the probe compares stages.")
    trained, random = build_network(variant), build_network(variant)
    report = load_weights(trained, source)
    image = fixed_image(variant.in_channels)
    with torch.no_grad():
        pairs = list(zip(trained(image), random(image), strict=True))
    lines = [
        f"{source}: layout {checkpoint.match.name}, {variant}",
        str(report),
        f"{'':9}{'this file':>22}{'random weights':>24}",
        f"{'stage':9}{'mean':>11}{'deviation':>11}{'mean':>13}{'deviation':>11}{'ratio':>9}",
    ]
    ratios = []
    for stage, (ours, theirs) in enumerate(pairs):
        ratios.append((ours.std() / theirs.std()).item())
        lines.append(
            f"{stage:<9}{ours.mean():>11.4f}{ours.std():>11.4f}{theirs.mean():>13.4f}{theirs.std():>11.4f}"
            f"{ratios[-1]:>9.2f}"
        )
    return "\n".join([*lines, _judge(ratios)])


def build_network(variant: Architecture) -> ConvNeXt:
    """Build the backbone of an architecture without output norms, with the same random weights in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConvNeXt(
            dict(depths=variant.depths, channels=variant.channels),
            variant.in_channels,
            layer_scale_init_value=1e-6 if variant.has_layer_scale else 0.0,
            use_grn=variant.version == 2,
            output_norms="none",
        ).eval()


def fixed_image(in_channels: int) -> Tensor:
    """Draw rings, a grid and a ramp, (1, in_channels, 224, 224), with mean 0 and deviation 1 like normalised images."""
    rows = torch.linspace(-1, 1, IMAGE_SIZE[0])[:, None]
    columns = torch.linspace(-1, 1, IMAGE_SIZE[1])[None, :]
    radius = (rows**2 + columns**2).sqrt()
    channels = []
    for channel in range(in_channels):
        rings = torch.sin(math.pi * (6 + channel) * radius)
        grid = torch.sign(torch.sin(20 * rows) * torch.sin(20 * columns))
        plane = rings + 0.5 * grid + rows * (-1) ** channel
        channels.append((plane - plane.mean()) / plane.std())
    return torch.stack(channels)[None]


def _judge(ratios: list[float]) -> str:
    if not all(map(math.isfinite, ratios)):
        return "The activations are not finite: this network does not work."
    if all(1 / _ALIKE < ratio < _ALIKE for ratio in ratios):
        return "Every stage does what random weights do: this looks like an untrained network."
    return "The stages do not do what the usual random weights do: this looks like a trained network."
