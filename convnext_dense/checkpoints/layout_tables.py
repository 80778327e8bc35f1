"""The names of a ConvNeXt's tensors in each published layout, as tables that ``layouts`` reads and writes by.

In a name, ``{s}`` is the stage counted from 0, ``{n}`` the stage counted from 1, ``{odd}`` and ``{even}`` are 2s + 1
and 2s, ``{b}`` is the block, and ``*`` is ``weight`` or ``bias``.

Source: each table names the code that writes the layout. The tables follow that code, not released files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# The official names, in the order of every table below.
STEM = ("downsample_layers.0.0.*", "downsample_layers.0.1.*")  # convolution, norm
DOWNSAMPLE = ("downsample_layers.{s}.0.*", "downsample_layers.{s}.1.*")  # norm, convolution
BLOCK = "stages.{s}.{b}."
PARTS = ("gamma", "dwconv.*", "norm.*", "pwconv1.*", "grn.gamma", "grn.beta", "pwconv2.*")


@dataclass(frozen=True)
class Layout:
    """Tensor names of one family of files, and the shapes of tensors that differ between families.

    Attributes:
        name: Name of the layout, as users write it.
        stem: Convolution and norm of the stem.
        downsample: Norm and convolution between stages; ``{s}`` is the stage after them.
        block: Prefix of the parts of a block.
        parts: The parts of a block, in the order of ``PARTS``.
        tail: Norms after the stages and other tensors at that level: name in the layout to official name.
        outer: The same for tensors outside of ``prefix``.
        read_also: Further names that are read but never written.
        write_also: Further official names that are written: name in the layout to official name.
        prefix: Prefix of the names of ``stem`` to ``tail`` in a written file. Any prefix is read.
        inner_prefix: Regular expression for a prefix that those names may have and the names of ``outer`` do not.
        mark: Name of the depthwise weight of a block, which identifies the layout; empty if ``parts`` has it.
        official: Official names of the stem, the downsampling layers and the blocks.
        layer_scale_shape: Shape of the layer scale; -1 stands for its length.
        grn_shape: Shape of each parameter of GRN.
        norm_on_map: Whether the code that wrote the file applies the final norm at each position of the last feature
            map, which makes it the output norm of the last stage, or only to the pooled vector.
        writable: Whether checkpoints can be written in this layout.
    """

    name: str
    stem: tuple[str, ...]
    downsample: tuple[str, ...]
    block: str
    parts: tuple[str, ...]
    tail: Mapping[str, str] = field(default_factory=dict)
    outer: Mapping[str, str] = field(default_factory=dict)
    read_also: Mapping[str, str] = field(default_factory=dict)
    write_also: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    inner_prefix: str = ""
    mark: str = ""
    official: tuple[tuple[str, ...], tuple[str, ...], str] = (STEM, DOWNSAMPLE, BLOCK)
    layer_scale_shape: tuple[int, ...] = (-1,)
    grn_shape: tuple[int, ...] = (1, 1, 1, -1)
    norm_on_map: bool = False
    writable: bool = False


# convnext_dense.ImageClassifier uses the official names, and puts those of the backbone under `backbone.`.
_OUTSIDE_OF_BACKBONE = {"norm.*": "norm.*", "head.*": "head.*"}

# facebookresearch/ConvNeXt@048efcea models/convnext.py, object_detection/mmdet/models/backbones/convnext.py (norm0 to
# norm3); facebookresearch/ConvNeXt-V2@25538957 models/convnextv2.py; facebookresearch/dinov3@6876159a
# dinov3/models/convnext.py. The weights are under MIT, CC-BY-NC-4.0 and the DINOv3 licence, in this order.
OFFICIAL = Layout(
    name="official",
    stem=STEM,
    downsample=DOWNSAMPLE,
    block=BLOCK,
    parts=PARTS,
    tail={"norm{s}.*": "norm{s}.*", "norm.*": "norm.*", "head.*": "head.*"},
    outer=_OUTSIDE_OF_BACKBONE,
    inner_prefix=r"backbone\.",
    writable=True,
)

# facebookresearch/ConvNeXt@048efcea models/convnext_isotropic.py: one width, no downsampling, no norm in the stem.
_ISOTROPIC_NAMES = (("stem.*",), (), "blocks.{b}.")
ISOTROPIC = Layout(
    name="official_isotropic",
    stem=_ISOTROPIC_NAMES[0],
    downsample=_ISOTROPIC_NAMES[1],
    block=_ISOTROPIC_NAMES[2],
    parts=PARTS,
    tail={"norm.*": "norm.*", "head.*": "head.*"},
    outer=_OUTSIDE_OF_BACKBONE,
    inner_prefix=r"backbone\.",
    official=_ISOTROPIC_NAMES,
)

# facebookresearch/ConvNeXt-V2@25538957 models/fcmae.py and utils.py (remap_checkpoint_keys): self-supervised training
# on MinkowskiEngine's sparse tensors. The stem may be dense there.
SPARSE = Layout(
    name="official_sparse",
    stem=STEM,
    downsample=("downsample_layers.{s}.0.ln.*", "downsample_layers.{s}.1.*"),
    block=BLOCK,
    parts=("gamma", "dwconv.*", "norm.ln.*", "pwconv1.linear.*", "grn.gamma", "grn.beta", "pwconv2.linear.*"),
    tail={"norm.*": "norm.*", "head.*": "head.*"},
    read_also={
        "downsample_layers.0.0.kernel": "downsample_layers.0.0.weight",
        "downsample_layers.0.1.ln.*": "downsample_layers.0.1.*",
        "downsample_layers.{s}.1.kernel": "downsample_layers.{s}.1.weight",
        "stages.{s}.{b}.dwconv.kernel": "stages.{s}.{b}.dwconv.weight",
        "norm.ln.*": "norm.*",
    },
    mark="dwconv.kernel",
)

# huggingface/pytorch-image-models@aa4b5850 timm/models/convnext.py, the same names since v0.5.4. `norm_pre` stands
# where the norm comes before the pooling, which is what an output norm of the last stage is.
TIMM = Layout(
    name="timm",
    stem=("stem.0.*", "stem.1.*"),
    downsample=("stages.{s}.downsample.0.*", "stages.{s}.downsample.1.*"),
    block="stages.{s}.blocks.{b}.",
    parts=("gamma", "conv_dw.*", "norm.*", "mlp.fc1.*", "mlp.grn.weight", "mlp.grn.bias", "mlp.fc2.*"),
    tail={
        "head.norm.*": "norm.*",
        "norm_pre.*": "norm3.*",
        "head.pre_logits.fc.*": "head.pre_logits.fc.*",  # convnext_large_mlp; no other layout has it
        "head.fc.*": "head.*",
    },
    grn_shape=(-1,),
    writable=True,
)

# timm's features_only=True, which flattens the first level of names.
TIMM_FEATURES = Layout(
    name="timm_features",
    stem=("stem_0.*", "stem_1.*"),
    downsample=("stages_{s}.downsample.0.*", "stages_{s}.downsample.1.*"),
    block="stages_{s}.blocks.{b}.",
    parts=TIMM.parts,
    grn_shape=(-1,),
)

# pytorch/vision torchvision/models/convnext.py. The weights are torchvision's own (BSD-3-Clause code base).
TORCHVISION = Layout(
    name="torchvision",
    stem=("features.0.0.*", "features.0.1.*"),
    downsample=("features.{even}.0.*", "features.{even}.1.*"),
    block="features.{odd}.{b}.",
    parts=("layer_scale", "block.0.*", "block.2.*", "block.3.*", "", "", "block.5.*"),
    outer={"classifier.0.*": "norm.*", "classifier.2.*": "head.*"},
    layer_scale_shape=(-1, 1, 1),
    writable=True,
)

# huggingface/transformers src/transformers/models/convnext and convnextv2. The backbone classes use the same names
# without a prefix and add output norms.
HUGGINGFACE = Layout(
    name="huggingface",
    stem=("embeddings.patch_embeddings.*", "embeddings.layernorm.*"),
    downsample=("encoder.stages.{s}.downsampling_layer.0.*", "encoder.stages.{s}.downsampling_layer.1.*"),
    block="encoder.stages.{s}.layers.{b}.",
    parts=("layer_scale_parameter", "dwconv.*", "layernorm.*", "pwconv1.*", "grn.weight", "grn.bias", "pwconv2.*"),
    tail={"layernorm.*": "norm.*", "hidden_states_norms.stage{n}.*": "norm{s}.*"},
    outer={"classifier.*": "head.*"},
    prefix="convnext.",
    inner_prefix=r"convnext(v2)?\.",
    writable=True,
)

# huggingface/transformers src/transformers/models/dinov3_convnext. Newer versions write `model.` before the stages and
# nothing before the norm.
HUGGINGFACE_DINOV3 = Layout(
    name="huggingface_dinov3",
    stem=("stages.0.downsample_layers.0.*", "stages.0.downsample_layers.1.*"),
    downsample=("stages.{s}.downsample_layers.0.*", "stages.{s}.downsample_layers.1.*"),
    block="stages.{s}.layers.{b}.",
    parts=("gamma", "depthwise_conv.*", "layer_norm.*", "pointwise_conv1.*", "", "", "pointwise_conv2.*"),
    tail={"layer_norm.*": "norm.*"},
    outer={"layer_norm.*": "norm.*"},
    inner_prefix=r"model\.",
    norm_on_map=True,
)

# open-mmlab/mmpretrain@ee7f2e88 mmpretrain/models/backbones/convnext.py. A classifier keeps its final norm as `norm3`.
MMPRETRAIN = Layout(
    name="mmpretrain",
    stem=STEM,
    downsample=DOWNSAMPLE,
    block=BLOCK,
    parts=("gamma", "depthwise_conv.*", "norm.*", "pointwise_conv1.*", "grn.gamma", "grn.beta", "pointwise_conv2.*"),
    tail={"norm{s}.*": "norm{s}.*"},
    write_also={"norm3.*": "norm.*"},
    outer={"head.fc.*": "head.*"},
    prefix="backbone.",
    inner_prefix=r"backbone\.",
    grn_shape=(-1,),
    norm_on_map=True,
    writable=True,
)

LAYOUTS = (
    OFFICIAL,
    ISOTROPIC,
    SPARSE,
    TIMM,
    TIMM_FEATURES,
    TORCHVISION,
    HUGGINGFACE,
    HUGGINGFACE_DINOV3,
    MMPRETRAIN,
)
WRITABLE = {layout.name: layout for layout in LAYOUTS if layout.writable}


@dataclass(frozen=True)
class Origin:
    """A kind of file that uses the names of a layout and is recognised by its other tensors or its prefix.

    Attributes:
        name: Name of the kind, as users see it.
        layout: Name of the layout; None for any.
        prefix: Regular expression that the end of the prefix matches.
        tell: Regular expression that the beginning of at least one name after the prefix matches.
        dropped: Regular expression for the beginning of names that are not part of a ConvNeXt classifier and that a
            conversion leaves out.
        norm_on_map: See ``Layout``.
    """

    name: str
    layout: str | None
    prefix: str = ""
    tell: str = ""
    dropped: str | None = None
    norm_on_map: bool = False


# The first match wins.
ORIGINS = (
    # LightlyTrain writes DINOv3's or torchvision's names inside its own wrapper.
    Origin("lightly_train", "official", prefix=r"_model_wrapper\._model\.", dropped=r".*", norm_on_map=True),
    Origin("lightly_train", None, prefix=r"_model_wrapper\._model\.", dropped=r".*"),
    # mlfoundations/open_clip@89fb801f src/open_clip/timm_model.py: the file also has a projection and a text tower.
    Origin("open_clip", "timm", prefix=r"visual\.trunk\.", dropped=r".*"),
    # EUPE keeps DINOv3's names and adds distillation heads and norms of their features, which timm drops too.
    Origin("eupe", "official", tell=r"projectors\.", dropped=r"(projectors|norms)\.", norm_on_map=True),
    # `norms.3` repeats `norm`; the other three are identities. The norm is applied to patch tokens.
    Origin("dinov3", "official", tell=r"norms\.\d", dropped=r"norms\.", norm_on_map=True),
    # The encoder of FCMAE; the decoder is not used after pre-training.
    Origin("official_sparse", "official_sparse", dropped=r"(proj|decoder|pred|mask_token)\b"),
    # Official detectors and segmenters, written by mmdet 2.x and mmseg 0.x: only they have the four output norms.
    Origin("official_dense", "official", tell=r"norm[0-2]\."),
)
