"""Names of layouts as their code bases document them, written out independently of the tables under test."""

from pathlib import Path

DATA = Path(__file__).parents[1] / "fixtures"
DEPTHS = (2, 1, 3, 1)
CHANNELS = (8, 16, 32, 64)


def blocks():
    return [(stage, block) for stage, depth in enumerate(DEPTHS) for block in range(depth)]


def both(theirs, official):
    return {f"{theirs}.{kind}": f"{official}.{kind}" for kind in ("weight", "bias")}


def timm_names(separator="."):
    names = both(f"stem{separator}0", "downsample_layers.0.0") | both(f"stem{separator}1", "downsample_layers.0.1")
    for stage in (1, 2, 3):
        for part in (0, 1):
            names |= both(f"stages{separator}{stage}.downsample.{part}", f"downsample_layers.{stage}.{part}")
    for stage, block in blocks():
        theirs, official = f"stages{separator}{stage}.blocks.{block}", f"stages.{stage}.{block}"
        names |= both(f"{theirs}.conv_dw", f"{official}.dwconv") | both(f"{theirs}.norm", f"{official}.norm")
        names |= both(f"{theirs}.mlp.fc1", f"{official}.pwconv1") | both(f"{theirs}.mlp.fc2", f"{official}.pwconv2")
        names |= {f"{theirs}.gamma": f"{official}.gamma"}
        names |= {f"{theirs}.mlp.grn.weight": f"{official}.grn.gamma", f"{theirs}.mlp.grn.bias": f"{official}.grn.beta"}
    if separator == ".":
        names |= both("head.norm", "norm") | both("head.fc", "head")
    return names


def hugging_face_dinov3_names():
    names = both("stages.0.downsample_layers.0", "downsample_layers.0.0")
    names |= both("stages.0.downsample_layers.1", "downsample_layers.0.1") | both("layer_norm", "norm")
    for stage in (1, 2, 3):
        for part in (0, 1):
            names |= both(f"stages.{stage}.downsample_layers.{part}", f"downsample_layers.{stage}.{part}")
    for stage, block in blocks():
        theirs, official = f"stages.{stage}.layers.{block}", f"stages.{stage}.{block}"
        names |= both(f"{theirs}.depthwise_conv", f"{official}.dwconv")
        names |= both(f"{theirs}.layer_norm", f"{official}.norm")
        names |= both(f"{theirs}.pointwise_conv1", f"{official}.pwconv1")
        names |= both(f"{theirs}.pointwise_conv2", f"{official}.pwconv2")
        names |= {f"{theirs}.gamma": f"{official}.gamma"}
    return names


def mmpretrain_names():
    names = both("backbone.norm3", "norm") | both("head.fc", "head")
    for stage in range(4):
        for part in (0, 1):
            names |= both(f"backbone.downsample_layers.{stage}.{part}", f"downsample_layers.{stage}.{part}")
    for stage, block in blocks():
        theirs, official = f"backbone.stages.{stage}.{block}", f"stages.{stage}.{block}"
        names |= both(f"{theirs}.depthwise_conv", f"{official}.dwconv") | both(f"{theirs}.norm", f"{official}.norm")
        names |= both(f"{theirs}.pointwise_conv1", f"{official}.pwconv1")
        names |= both(f"{theirs}.pointwise_conv2", f"{official}.pwconv2")
        for part in ("gamma", "grn.gamma", "grn.beta"):
            names |= {f"{theirs}.{part}": f"{official}.{part}"}
    return names


def rename(official, names):
    """Renames official weights; names of parts that these weights do not have are left out."""
    return {theirs: official[name] for theirs, name in names.items() if name in official}


def body_of(official):
    return {name: tensor for name, tensor in official.items() if not name.startswith(("norm.", "head."))}


def to_minkowski(official):
    """MinkowskiEngine's names and orders after remap_checkpoint_keys in facebookresearch/ConvNeXt-V2@25538957 utils.py,
    run backwards: a kernel is (K * K, in, out), or (K * K, C) when depthwise, with the row running fastest."""
    sparse = {}
    for name, tensor in body_of(official).items():
        module, _, kind = name.rpartition(".")
        if name.startswith("downsample_layers.0"):  # the stem is dense
            sparse[name] = tensor
        elif ".grn." in name:
            sparse[name] = tensor.reshape(1, -1)
        elif kind == "weight" and tensor.dim() == 4:
            rows = tensor.permute(3, 2, 1, 0).flatten(0, 1)  # column, row, in, out
            sparse[f"{module}.kernel"] = rows.squeeze(1) if module.endswith("dwconv") else rows
        elif module.endswith("dwconv") or (module.startswith("downsample") and module.endswith(".1")):
            sparse[name] = tensor.reshape(1, -1)
        else:
            inner = "linear" if "pwconv" in module else "ln"
            sparse[f"{module}.{inner}.{kind}"] = tensor
    return {f"encoder.{name}": tensor for name, tensor in sparse.items()}
