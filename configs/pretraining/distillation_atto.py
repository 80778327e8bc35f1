"""ConvNeXt-atto that learns the features of DINOv3's ViT-S from your own images, at 160 pixels on two CPU cores.

Run: python tools/train.py configs/pretraining/distillation_atto.py --data DIR
Batch: 1 process x 32 images
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = "distillation.py"

model = dict(
    backbone=dict(
        arch="atto",
        layer_scale_init_value=1.0,
        # The paper's standard deviation of .02 suits 300 epochs; at these widths, blocks would start as identities and
        # learn slowly.
        init_cfg=dict(
            type="Kaiming", layer=["Conv2d", "Linear"], mode="fan_in", nonlinearity="linear", distribution="normal"
        ),
    )
)
train_dataloader = dict(batch_size=32, num_workers=1, dataset=dict(transform=dict(input_size=160)))
augmentations = dict(light=dict(input_size=160), strong=dict(input_size=160))
effective_batch = 32
finetune = dict(batch_size=32, epochs=100, steps=(1000, 10000))
optim_wrapper = dict(type="OptimWrapper")
