"""Encoding the visible patches alone against hiding them in whole maps: python -m benchmarks.masked_encoding.

Forward and backward pass of a ConvNeXt V1, whose results are the same in both ways, with 60 % of the patches hidden.
Processor time on one thread: the ways take turns, the median of the rounds counts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import cpu_name
from convnext_dense.models import MaskedAutoencoder

RESULTS = Path(__file__).parent / "results" / "masked_encoding.json"
SIZES = (("atto", 160, 16), ("tiny", 224, 4))  # variant, pixels, images


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(*size, rounds=args.rounds) for size in SIZES]
    content = dict(cpu=cpu_name(), torch=torch.__version__, date=str(date.today()), rows=rows)
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    for row in rows:
        print(
            f"{row['arch']}, {row['images']} x {row['pixels']} pixels: visible patches {row['visible_ms']:.0f} ms, "
            f"whole maps {row['whole_ms']:.0f} ms, {row['whole_ms'] / row['visible_ms']:.2f} times"
        )


def measure(arch: str, pixels: int, images: int, *, rounds: int) -> dict[str, str | int | float]:
    """Time both ways; a first round does not count."""
    model = MaskedAutoencoder(dict(type="convnext_dense.ConvNeXt", arch=arch, layer_scale_init_value=1.0))
    batch = torch.randn(images, 3, pixels, pixels)
    mask = model.draw_mask(batch)
    ways: dict[str, Callable[[], Tensor]] = {
        "visible_ms": lambda: model.encode(batch, mask),
        "whole_ms": lambda: encode_whole_maps(model, batch, mask),
    }
    torch.testing.assert_close(*(way() for way in ways.values()), rtol=1e-4, atol=1e-4)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way().square().sum().backward()
            times[name].append(time.process_time() - start)
    medians = {name: 1e3 * statistics.median(seconds[1:]) for name, seconds in times.items()}
    return dict(arch=arch, pixels=pixels, images=images, **medians)


def encode_whole_maps(model: MaskedAutoencoder, images: Tensor, mask: Tensor) -> Tensor:
    """Run the backbone on whole maps and set hidden positions to zero after every layer that looks at neighbours."""
    x = images
    for stage, (downsample, blocks) in enumerate(
        zip(model.backbone.downsample_layers, model.backbone.stages, strict=True)
    ):
        seen = (~mask)[:, None].repeat_interleave(8 >> stage, 2).repeat_interleave(8 >> stage, 3)
        x = downsample(x) * seen
        for block in blocks:
            x = block(x) * seen
    return x


if __name__ == "__main__":
    main()
