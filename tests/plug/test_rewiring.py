"""Arguments of necks and heads that read other maps than before. Expected values are calculated by hand."""

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

from convnext_dense.plug.levels import Levels, Wiring
from convnext_dense.plug.rewiring import rewire_heads, rewire_necks

# arXiv 2301.00808, appendix A.1
ATTO = Levels((40, 80, 160, 320), (4, 8, 16, 32))
RESNET = Levels((256, 512, 1024, 2048), (4, 8, 16, 32))
VIT = Levels((768,) * 4, (16,) * 4)


@pytest.fixture(autouse=True)
def scope():
    import mmdet.models
    import mmseg.models

    assert mmdet.models
    assert mmseg.models
    init_default_scope("mmseg")


def rewire(neck, before, after=ATTO, places=(0, 1, 2, 3)):
    owner = ConfigDict(neck=neck)
    return owner.get("neck"), rewire_necks(owner, Wiring(before, after, places), "model."), owner


def multi_level(**options):
    """mmseg's neck for transformers, which resizes each map by a factor."""
    return dict(type="MultiLevelNeck", in_channels=[768] * 4, out_channels=24, **options)


@pytest.mark.parametrize(
    ("before", "scales", "expected"),
    [
        # Maps of stride 16 were resized to 4, 8, 16, 32, which ConvNeXt has already.
        (VIT, [4, 2, 1, 0.5], [1, 1, 1, 1]),
        # Maps of stride 16 were not resized; now those of strides 4, 8, 16, 32 are resized to 16.
        (VIT, [1, 1, 1, 1], [0.25, 0.5, 1, 2]),
        (Levels((768,) * 4, (8, 8, 8, 8)), [2, 1, 0.5, 0.25], [1, 1, 1, 1]),
        (Levels((768,) * 4, (4, 8, 16, 32)), [2, 2, 2, 2], [2, 2, 2, 2]),
    ],
)
def test_factors_of_a_neck_lead_to_the_same_strides_as_before(before, scales, expected):
    neck, wiring, _ = rewire(multi_level(scales=scales), before)
    assert list(neck.scales) == expected, "scales must follow the strides of the maps that come in"
    assert list(neck.in_channels) == [40, 80, 160, 320]
    assert wiring.after.strides == tuple(
        round(stride / scale) for stride, scale in zip(before.strides, scales, strict=True)
    )
    assert wiring.after.strides == wiring.before.strides
    assert wiring.is_unchanged


def test_factors_that_are_not_one_per_map_are_kept():
    neck = dict(type="mmdet.FPN", in_channels=list(RESNET.channels), out_channels=16, num_outs=4, scales=[1, 2])
    owner = ConfigDict(neck=neck)
    rewire_necks(owner, Wiring(RESNET, ATTO, (0, 1, 2, 3)), "model.")
    assert owner.neck.scales == [1, 2]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([256, 512, 1024, 2048], [40, 80, 160, 320]),
        ((512, 1024, 2048), (80, 160, 320)),
        ([2048, 1024, 512, 256], [320, 160, 80, 40]),
        ([256, 512, 1024, 2048, 7, 9], [40, 80, 160, 320, 7, 9]),
        ([7, 9], [7, 9]),
        ([], []),
    ],
)
def test_lists_of_channels_are_replaced_in_their_order(given, expected):
    head = ConfigDict(type="Any", in_channels=[256, 512, 1024, 2048], deep=dict(feat_channels=given, other=given))
    owner = ConfigDict(bbox_head=head)
    rewire_heads(owner, Wiring(RESNET, ATTO, (0, 1, 2, 3)), "model.", "atto", {})
    assert owner.bbox_head.deep.feat_channels == expected
    assert type(owner.bbox_head.deep.feat_channels) is type(expected)
    assert owner.bbox_head.deep.other == given  # its name does not end in "channels"


@pytest.mark.parametrize(
    ("width", "expected"), [(256, 40), (2048, 320), (256 + 512 + 1024 + 2048, 40 + 80 + 160 + 320)]
)
def test_single_number_of_channels_is_that_of_one_map_or_the_sum_of_all(width, expected):
    owner = ConfigDict(bbox_head=dict(type="Any", in_channels=width))
    rewire_heads(owner, Wiring(RESNET, ATTO, (0, 1, 2, 3)), "model.", "atto", {})
    assert owner.bbox_head.in_channels == expected


@pytest.mark.parametrize(
    ("before", "width", "text"),
    [
        (
            RESNET,
            300,
            r"model\.bbox_head\.in_channels=300 cannot be rewired: it is not a number of channels that the old",
        ),
        (
            VIT,
            768,
            r"model\.bbox_head\.in_channels=768 cannot be rewired: it stands for several maps, which now have",
        ),
        (RESNET, [1, 2], r"model\.bbox_head\.in_channels=\[1, 2\] cannot be rewired: the maps had the channels \[256"),
    ],
)
def test_unknown_or_ambiguous_channels_are_named(before, width, text):
    owner = ConfigDict(bbox_head=dict(type="Any", in_channels=width))
    with pytest.raises(ValueError, match=text):
        rewire_heads(owner, Wiring(before, ATTO, (0, 1, 2, 3)), "model.", "atto", {})


def test_teacher_heads_and_other_parts_are_kept():
    owner = ConfigDict(
        head=dict(in_channels=256),
        mask_head=dict(in_channels=512),
        teacher_head=dict(in_channels=256),
        header=dict(in_channels=256),
        bbox_head=None,
    )
    rewire_heads(owner, Wiring(RESNET, ATTO, (0, 1, 2, 3)), "model.", "atto", {})
    assert owner.to_dict() == dict(
        head=dict(in_channels=40),
        mask_head=dict(in_channels=80),
        teacher_head=dict(in_channels=256),
        header=dict(in_channels=256),
        bbox_head=None,
    )


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (dict(in_channels=2048), dict(in_channels=320)),  # the last map is mmseg's default
        (dict(in_channels=1024, in_index=2), dict(in_channels=160, in_index=2)),
        (dict(in_channels=[256, 1024], in_index=[0, 2]), dict(in_channels=[40, 160], in_index=[0, 2])),
        (
            dict(in_channels=2048, channels=512, num_convs=0, c1_in_channels=256),
            dict(in_channels=320, channels=512, num_convs=0, c1_in_channels=40),
        ),
        (dict(in_channels=2048, channels=2048, num_convs=0), dict(in_channels=320, channels=320, num_convs=0)),
        (dict(in_channels=2048, channels=2048, num_convs=1), dict(in_channels=320, channels=2048, num_convs=1)),
        (dict(in_channels=[256, 512, 1024, 2048]), dict(in_channels=[40, 80, 160, 320])),
        (dict(num_classes=3), dict(num_classes=3)),
        (
            dict(inner=dict(in_channels=512, in_index=1), in_channels=2048),
            dict(inner=dict(in_channels=80, in_index=1), in_channels=320),
        ),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_mmseg_heads_follow_the_maps_of_their_in_index(head, expected, several):
    owner = ConfigDict(decode_head=[head, dict(num_classes=2)] if several else head)
    rewire_heads(owner, Wiring(RESNET, ATTO, (0, 1, 2, 3)), "model.", "atto", {})
    found = owner.decode_head[0] if several else owner.decode_head
    assert found.to_dict() == expected


def test_mmseg_heads_follow_maps_whose_index_changed():
    """Four maps of stride 16 are all replaced by ConvNeXt's last map but one."""
    owner = ConfigDict(
        decode_head=dict(in_channels=768, in_index=3), auxiliary_head=dict(in_channels=[768, 768], in_index=[0, 1])
    )
    wiring = Wiring(VIT, Levels((160,), (16,)), (0, 0, 0, 0))
    rewire_heads(owner, wiring, "model.", "atto", {})
    assert owner.decode_head.to_dict() == dict(in_channels=160, in_index=0)
    assert owner.auxiliary_head.to_dict() == dict(in_channels=[160, 160], in_index=[0, 0])


def test_segmentation_head_with_other_channels_is_named():
    owner = ConfigDict(decode_head=dict(in_channels=512, in_index=3))
    with pytest.raises(
        ValueError, match=r"model\.decode_head\.in_channels=512 .*: its maps 3 had the channels \[2048\]"
    ):
        rewire_heads(owner, Wiring(RESNET, ATTO, (0, 1, 2, 3)), "model.", "atto", {})


def test_region_heads_follow_a_map_of_the_backbone():
    owner = ConfigDict(
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=1024),
            mask_roi_extractor=dict(out_channels=1024),
            bbox_head=[dict(in_channels=1024), dict(in_channels=1024)],
            mask_head=dict(in_channels=1024),
        )
    )
    before, after = Levels((1024,), (16,)), Levels((160,), (16,))
    rewire_heads(owner, Wiring(before, after, (0,)), "model.", "atto", {})
    assert owner.roi_head.to_dict() == dict(
        bbox_roi_extractor=dict(out_channels=160),
        mask_roi_extractor=dict(out_channels=160),
        bbox_head=[dict(in_channels=160), dict(in_channels=160)],
        mask_head=dict(in_channels=160),
    )


def test_pyramid_makers_are_removed_and_other_necks_kept():
    _, wiring, owner = rewire(dict(type="mmseg.Feature2Pyramid", embed_dim=768), VIT)
    assert "neck" not in owner
    assert wiring.after == ATTO


def test_each_neck_of_a_chain_reads_what_the_one_before_returns():
    """mmdet's BFP reads the outputs of the pyramid, whose channels do not change."""
    fpn = dict(type="mmdet.FPN", in_channels=list(RESNET.channels), out_channels=256, num_outs=5)
    owner = ConfigDict(neck=[fpn, dict(type="mmdet.BFP", in_channels=256, num_levels=5)])
    wiring = rewire_necks(owner, Wiring(RESNET, ATTO, (0, 1, 2, 3)), "model.")
    assert owner.neck[0].in_channels == [40, 80, 160, 320]
    assert owner.neck[1].in_channels == 256
    assert wiring.is_unchanged
    assert wiring.after == Levels((256,) * 5, (4, 8, 16, 32, 64))


def test_neck_that_reads_one_map_several_times_is_named():
    with pytest.raises(
        ValueError,
        match=r"model\.neck \(MultiLevelNeck\) cannot be rewired: it reads several maps of a stride that Conv",
    ):
        rewire(multi_level(scales=[4, 2, 1, 0.5]), VIT, Levels((160,), (16,)), (0, 0, 0, 0))
