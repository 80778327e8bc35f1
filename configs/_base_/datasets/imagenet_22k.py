"""ImageNet-22K in class folders in `data/imagenet22k/`, at 224 pixels; without evaluation, like the official runs.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea/TRAINING.md (--data_set image_folder --disable_eval)
"""

_base_ = "imagenet_1k.py"

train_dataloader = dict(batch_size=32, dataset=dict(root="data/imagenet22k"))
val_dataloader = None
val_evaluator = None
test_dataloader = None
test_evaluator = None
