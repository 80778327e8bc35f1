"""Writes scikit-learn's handwritten digits, 1797 real images of 8 x 8 pixels, as an image folder.

python benchmarks/digits.py data/digits
python tools/train.py configs/demo/convnext_atto_small_images.py --data data/digits

360 images, selected with seed 0, are held out. The transform enlarges the images to 64 x 64.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NUM_VAL = 360


def write_digits(root: Path) -> None:
    """Fill ``root/train/DIGIT`` and ``root/val/DIGIT``."""
    digits = load_digits()
    for position, index in enumerate(np.random.default_rng(0).permutation(len(digits.images))):
        folder = root / ("val" if position < NUM_VAL else "train") / str(digits.target[index])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.round(digits.images[index] * 255 / 16).astype(np.uint8)  # grey values are 0 to 16
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder to fill")
    write_digits(parser.parse_args().root)
