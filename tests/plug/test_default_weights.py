"""Names of weights by backbone, held against timm's own table."""

import pytest
import timm

from convnext_dense.errors import UserError
from convnext_dense.plug import default_weights
from convnext_dense.plug.default_weights import _TAGS

NAMES = [prefix + arch for prefix, (_, tags) in _TAGS.items() for arch in tags]


@pytest.mark.parametrize("name", NAMES)
def test_timm_has_the_weights(name):
    assert timm.is_model_pretrained(default_weights(name).removeprefix("timm:"))


def test_backbone_without_weights_is_told():
    with pytest.raises(UserError, match="no weights of convnext-huge"):
        default_weights("convnext-huge")
