"""Sizes of objects and images in the training data; the numbers are arithmetic by hand."""

from pathlib import Path

import pytest

from convnext_dense.data import training_images


def test_median_object_and_median_long_side(monkeypatch):
    def image(number, width, height):
        return dict(id=number, width=width, height=height, file_name=f"{number}.jpg")

    def item(number, width, height, iscrowd=0):
        return dict(image_id=number, bbox=[0, 0, width, height], iscrowd=iscrowd)

    content = dict(
        images=[image(1, 100, 50), image(2, 50, 100), image(3, 900, 10)],
        annotations=[item(1, 10, 10), item(1, 40, 10), item(2, 90, 90), item(2, 99, 99, 1)],
    )
    monkeypatch.setattr(training_images, "_annotations", lambda cfg, loader="train": [(Path(), content)])
    assert training_images.object_share(None) == pytest.approx(0.2)  # of 0.1, sqrt(40 x 10) / 100 and 0.9
    assert training_images.longest_side(None) == 100
