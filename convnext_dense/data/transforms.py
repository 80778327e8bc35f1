"""timm's transforms and mixing for classification, and random numbers that depend only on the sample."""

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import timm.data
import torch
from PIL import Image
from timm.data import auto_augment
from torch.utils.data import get_worker_info

from convnext_dense.errors import UserError
from convnext_dense.registry import TRANSFORMS

Mixup = timm.data.Mixup
TRANSFORMS.register_module(module=Mixup)


def build_transform(transform: Mapping[str, Any]) -> Any:
    """Build the transform from a Pillow image to a normalised tensor ``(3, H, W)``.

    Args:
        transform: Arguments of timm's ``create_transform``.

    Raises:
        UserError: timm refuses the arguments; the message contains timm's.
    """
    try:
        built = timm.data.create_transform(**transform)
    except (TypeError, AssertionError) as error:
        raise UserError(f"transform={dict(transform)} is not what timm's create_transform takes: {error}") from error
    for step in built.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize
    return built


def _posterize(image: Image.Image, bits_to_keep: int, **kwargs: Any) -> Image.Image:
    """Run timm's posterize, but allow 0 bits, which RandAugment draws occasionally and Pillow 13 refuses."""
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **kwargs)


def seed_generators(*key: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generators as a function of the key."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset the generators of all devices


@contextlib.contextmanager
def random_state_of(*key: int) -> Iterator[None]:
    """Make Python's, NumPy's and torch's random numbers inside the block depend on the key alone.

    An augmentation drawn this way does not depend on the number of workers, nor on whether the run was resumed.
    Outside a data loader's worker, the former state of all three is restored afterwards.
    """
    # Saving NumPy's state costs more than everything else here, and a worker draws no other random numbers.
    states = None
    if get_worker_info() is None:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_generators(*key)
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
