"""The batch that fits a GPU, with the memory of made-up ones; sizes are arithmetic by hand."""

import pytest

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
