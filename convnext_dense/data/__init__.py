"""Data sets: readers for classification, checks of custom folders, and the generated demo set."""

from convnext_dense.data.fit_resize import FitResize
from convnext_dense.data.image_folder import ImageFolder
from convnext_dense.data.load_bands import LoadBands
from convnext_dense.data.shards import ImageShards
from convnext_dense.data.transforms import Mixup, build_transform
from convnext_dense.data.unlabelled_images import UnlabelledImages

__all__ = ["FitResize", "ImageFolder", "ImageShards", "LoadBands", "Mixup", "UnlabelledImages", "build_transform"]
