"""Distillation: a ConvNeXt that learns the features of a frozen network of timm, by default DINOv3's ViT-S.

A leaf sets `arch`. `teacher` is any name of timm with its tag; its weights have a licence of their own, DINOv3's too.

Source: our own
"""

model = dict(
    type="convnext_dense.Distillation",
    backbone=dict(type="convnext_dense.ConvNeXt", arch="tiny"),
    teacher="vit_small_patch16_dinov3.lvd1689m",
)
