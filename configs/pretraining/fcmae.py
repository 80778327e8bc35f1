"""ConvNeXt V2-T pre-trained by FCMAE on your own images without labels, at 224 pixels.

Run: python tools/train.py configs/pretraining/fcmae.py --data DIR
     from the published weights: ... --backbone convnextv2-tiny --backbone-weights timm:convnextv2_tiny.fcmae
Batch: 1 GPU x 64 images, accumulated to 256
Source: our own; the method is that of arXiv:2301.00808
Results here: not measured
"""

_base_ = [
    "../_base_/models/fcmae_convnextv2.py",
    "../_base_/datasets/pretraining.py",
    "../_base_/schedules/pretraining.py",
]

model = dict(backbone=dict(arch="tiny"))
effective_batch = 256
