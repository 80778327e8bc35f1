"""ConvNeXt-atto for your own classes of images of 64 pixels on two CPU cores, from random weights.

Run: python tools/train.py configs/finetune/classifier_atto.py --data DIR
     or from ImageNet weights: ... --backbone convnext-atto --backbone-weights timm:convnext_atto.d2_in1k
Batch: 1 process x 32 images
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = [
    "../_base_/models/convnext_classifier_ft.py",
    "../_base_/datasets/finetune_classification.py",
    "../_base_/schedules/finetune_cpu.py",
]

model = dict(
    backbone=dict(
        arch="atto",
        layer_scale_init_value=1.0,
        # The paper's standard deviation of .02 suits 300 epochs; at these widths, blocks would start as identities and
        # learn slowly.
        init_cfg=dict(
            type="Kaiming", layer=["Conv2d", "Linear"], mode="fan_in", nonlinearity="linear", distribution="normal"
        ),
    ),
    head_init_scale=1.0,
)
train_dataloader = dict(num_workers=1, dataset=dict(transform=dict(input_size=64)))
val_dataloader = dict(num_workers=1, dataset=dict(transform=dict(input_size=64)))
test_dataloader = val_dataloader
augmentations = dict(light=dict(input_size=64), strong=dict(input_size=64))
finetune = dict(batch_size=32, epochs=30, steps=(500, 5000))
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
