"""The batch that fits a GPU, with the memory of made-up ones; sizes are arithmetic by hand."""

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS

from convnext_dense.engine import batch_search
from convnext_dense.engine.batch_search import search
from convnext_dense.errors import UserError

GIB = 2**30


def card(total, fixed, per_image):
    """A GPU that runs out of memory, in GiB."""

    def peak_of(batch_size):
        peak = (fixed + per_image * batch_size) * GIB
        return int(peak) if peak <= total * GIB else None

    return peak_of


@pytest.mark.parametrize(
    ("total", "batch_size"),
    [
        (80, 16),
        (24, 8),  # 2 + 2 x 8 = 18 of 24; 16 would need 34
        (20, 4),  # 18 of 20 leaves less than 15 % for larger images
        (5, 1),  # even if that is more than 85 %
    ],
)
def test_largest_divisor_of_the_recipes_batch_that_fits_with_a_margin(total, batch_size):
    found = search(card(total, 2, 2), 16, total * GIB)
    assert found.batch_size == batch_size
    assert found.peak_bytes == (2 + 2 * batch_size) * GIB


def test_divisors_that_are_no_powers_of_two_are_tried():
    assert search(card(30, 2, 2), 12, 30 * GIB).batch_size == 6


def test_line_says_what_fits_and_what_it_is_accumulated_to():
    line = search(card(24, 2, 2), 16, 24 * GIB).describe(16)
    assert line == "--batch auto: 8 images fit (18.0 of 24.0 GiB), accumulated to the 16 of the recipe."


def test_image_that_does_not_fit_is_one_sentence():
    with pytest.raises(UserError, match="Not even one image fits"):
        search(card(3, 2, 2), 16, 3 * GIB)


SIZES = [(8, 8), (4, 4), (8, 32), (16, 8)] * 10  # one kind in four is the largest


@DATASETS.register_module()
class PicturesOfSizes(BaseDataset):
    """Pictures of several sizes."""

    def load_data_list(self):
        return [dict(size=size) for size in SIZES]

    def prepare_data(self, idx):
        return dict(inputs=torch.rand(3, *self.get_data_info(idx)["size"]))


@MODELS.register_module()
class Recording(BaseModel):
    """Keeps the shapes of the images in the batches that it sees."""

    seen: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 1)

    def forward(self, inputs, mode="loss"):
        self.seen.append([tuple(image.shape) for image in inputs])
        return dict(loss=self.conv(torch.stack(inputs)).mean())


@pytest.fixture
def training():
    Recording.seen.clear()
    return Config(
        dict(
            model=dict(type="Recording"),
            train_dataloader=dict(dataset=dict(type="PicturesOfSizes"), batch_size=1),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1)),
        )
    )


def test_steps_are_of_the_largest_image(training):
    step = batch_search._training_step(training, amp=False)
    step(1)
    step(3)
    assert Recording.seen == [[(3, 8, 32)], [(3, 8, 32)] * 3]


def test_steps_are_in_the_precision_of_the_run(training, monkeypatch):
    given = []
    monkeypatch.setattr(batch_search, "fit_to_device", lambda cfg, *, amp: given.append(amp))
    for amp in (False, True):
        batch_search._training_step(training, amp=amp)
    assert given == [False, True]
