"""UperNet on ConvNeXt-atto for your own label images on two CPU cores, from random weights.

Run: python tools/train.py configs/finetune/upernet_atto.py --data DIR
     or from ImageNet weights: ... --backbone convnext-atto --backbone-weights timm:convnext_atto.d2_in1k
Batch: 1 process x 8 images
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = [
    "../_base_/models/upernet_convnext_atto.py",
    "../_base_/datasets/finetune_segmentation_cpu.py",
    "../_base_/schedules/finetune_cpu.py",
]

finetune = dict(batch_size=8, epochs=40)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
default_hooks = dict(
    checkpoint=dict(save_best="mIoU"),
    visualization=dict(type="SegVisualizationHook"),
)
