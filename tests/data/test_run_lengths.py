"""Run lengths are those that pycocotools gives for the whole mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as masks

from convnext_dense.data.run_lengths import compress, decode


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(-12, 12),
    st.integers(-12, 12),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_part_of_a_mask_is_encoded_as_pycocotools_encodes_the_whole(height, width, left, top, seed, share):
    part = np.random.default_rng(seed).random((4, 5)) < share
    whole = np.zeros((height + 40, width + 40), bool)
    whole[20 + top : 24 + top, 20 + left : 25 + left] = part
    whole = whole[20 : 20 + height, 20 : 20 + width]
    expected = masks.encode(np.asfortranarray(whole, np.uint8))
    given_back = compress(part, left=left, top=top, shape=(height, width))
    assert given_back == dict(size=[height, width], counts=expected["counts"].decode())


@pytest.mark.parametrize("value", [False, True])
def test_whole_masks_and_back(value):
    mask = np.full((3, 4), value)
    corner = mask.copy()
    corner[2, 3] = not value
    rles = [compress(mask), compress(corner)]
    assert masks.area(rles[0]) == 12 * value
    np.testing.assert_array_equal(decode(rles, (3, 4)), [mask, corner])
    assert decode([], (3, 4)).shape == (0, 3, 4)
