"""Objects and predictions with every kind of error."""

import numpy as np

from convnext_dense.reports.matching import Found, Labelled


def made_up(num_images, *, seed=0, num_classes=4, crowds=0.1):
    """Return labelled objects of random images, and found ones: right, moved, of another class, twice, or invented."""
    rng = np.random.default_rng(seed)
    truths, guesses = [], []
    for image in range(num_images):
        for _ in range(rng.integers(0, 6)):
            corner, size = rng.uniform(0, 300, 2), rng.uniform(15, 120, 2)
            box, label = np.concatenate([corner, corner + size]), rng.integers(num_classes)
            truths.append((image, label, box, rng.random() < crowds))
            for _ in range(rng.integers(0, 3)):
                moved = box + rng.normal(0, rng.choice([1, 15]), 4)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 2)
                guesses.append((image, label if rng.random() < 0.8 else rng.integers(num_classes), moved, rng.random()))
        for _ in range(rng.integers(0, 3)):
            corner, size = rng.uniform(0, 300, 2), rng.uniform(15, 120, 2)
            guesses.append(
                (image, rng.integers(num_classes), np.concatenate([corner, corner + size]), 0.7 * rng.random())
            )
    images, labels, boxes, last = (np.array(column) for column in zip(*truths, strict=True))
    found = [np.array(column) for column in zip(*guesses, strict=True)]
    return Labelled(images, labels, boxes, last.astype(bool)), Found(*found[:3], found[3])
