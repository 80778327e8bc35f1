"""ConvNeXt V2-atto pre-trained by FCMAE on your own images without labels, at 160 pixels on two CPU cores.

Run: python tools/train.py configs/pretraining/fcmae_atto.py --data DIR
Batch: 1 process x 32 images
Source: our own; the method is that of arXiv:2301.00808
Results here: not measured
"""

_base_ = [
    "../_base_/models/fcmae_convnextv2.py",
    "../_base_/datasets/pretraining.py",
    "../_base_/schedules/pretraining.py",
]

model = dict(backbone=dict(arch="atto"), decoder_channels=256)
train_dataloader = dict(batch_size=32, num_workers=1, dataset=dict(transform=dict(input_size=160)))
augmentations = dict(light=dict(input_size=160), strong=dict(input_size=160))
finetune = dict(batch_size=32, epochs=100, steps=(1000, 10000))
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(lr=1e-3))
