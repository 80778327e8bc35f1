"""Compares the classifier with timm's models and losses, and tests which of its checkpoints load where."""

import numpy as np
import pytest
import timm.data
import timm.loss
import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from convnext_dense.checkpoints import ClassDim, ClassRows, load_weights
from convnext_dense.models import ConvNeXt, ImageClassifier

DEPTHS, CHANNELS, CLASSES = (1, 1, 2, 1), (8, 16, 24, 32), 7
ARCH = dict(depths=DEPTHS, channels=CHANNELS)
HEAD = ClassRows({"head.weight": (ClassDim(),), "head.bias": (ClassDim(),)})


def build(num_classes=CLASSES, **kwargs):
    backbone = dict(type="convnext_dense.ConvNeXt", arch=ARCH, out_indices=(3,), output_norms="none")
    return ImageClassifier({**backbone, "layer_scale_init_value": 0.5}, num_classes, **kwargs)


def randomise(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(std=0.2)
    return model.eval()


def images(seed=1):
    torch.manual_seed(seed)
    return torch.randn(4, 3, 64, 64)


def timm_model(num_classes=CLASSES):
    return randomise(TimmConvNeXt(depths=DEPTHS, dims=CHANNELS, num_classes=num_classes))


def torchvision_model():
    widths = [*CHANNELS, None]
    blocks = [CNBlockConfig(widths[i], widths[i + 1], depth) for i, depth in enumerate(DEPTHS)]
    return randomise(TorchvisionConvNeXt(blocks, num_classes=CLASSES))


@pytest.mark.parametrize("theirs", [timm_model, torchvision_model])
def test_logits_equal_those_of_another_library_with_its_weights(theirs, tmp_path):
    reference = theirs()
    torch.save(reference.state_dict(), tmp_path / "theirs.pth")
    model = build(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "theirs.pth")))
    model.init_weights()
    with torch.no_grad():
        assert torch.allclose(model.eval()(images()), reference(images()), atol=1e-5)


def test_loss_is_timms_label_smoothing_cross_entropy():
    model, labels = randomise(build(label_smoothing=0.1)), torch.tensor([0, 3, 6, 2])
    with torch.no_grad():
        wanted = timm.loss.LabelSmoothingCrossEntropy(0.1)(model(images()), labels)
        assert torch.allclose(model(images(), labels, mode="loss")["loss"], wanted, rtol=1e-6)


def test_loss_of_mixed_images_is_timms_soft_target_cross_entropy():
    settings = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="batch")
    model, labels = randomise(build(mixup=settings)), torch.tensor([0, 3, 6, 2])
    mixup = timm.data.Mixup(**settings, label_smoothing=0.1, num_classes=CLASSES)
    batch = images()
    for seed in range(4):  # both kinds of mixing are drawn
        np.random.seed(seed)
        mixed, targets = mixup(batch.clone(), labels)
        np.random.seed(seed)
        with torch.no_grad():
            wanted = timm.loss.SoftTargetCrossEntropy()(model(mixed), targets)
            assert torch.allclose(model(batch, labels, mode="loss")["loss"], wanted, rtol=1e-6)
    assert torch.equal(batch, images()), "the caller's images were changed"


def test_predictions_are_probabilities_per_image():
    model = randomise(build())
    with torch.no_grad():
        found = model(images(), mode="predict")
        assert torch.allclose(torch.stack([item["scores"] for item in found]), model(images()).softmax(-1))


def test_gradients_reach_every_parameter():
    model = randomise(build()).train()
    model(images(), torch.tensor([0, 1, 2, 3]), mode="loss")["loss"].backward()
    assert [name for name, param in model.named_parameters() if param.grad is None or not param.grad.any()] == []


def test_head_starts_at_the_scaled_deviation():
    torch.manual_seed(0)
    head = build(num_classes=4000, head_init_scale=0.001).head
    assert head.weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.02)  # main.py: trunc_normal_(std=.02), scaled
    assert not head.bias.any()


def test_wrong_calls_are_named():
    model = build(mixup=dict(mixup_alpha=0.8))
    with pytest.raises(ValueError, match=r"size of this batch is odd: 3"):
        model(images()[:3], torch.tensor([0, 1, 2]), mode="loss")
    with pytest.raises(ValueError, match=r"mode='train' must be one of tensor, loss, predict"):
        model(images(), mode="train")


def test_head_is_left_new_only_because_the_classes_differ(tmp_path):
    torch.save({"model": timm_model(num_classes=11).state_dict()}, tmp_path / "more.pth")
    model = build(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "more.pth")))
    start = model.head.weight.clone()
    report = load_weights(model, tmp_path / "more.pth", classes=HEAD)
    assert torch.equal(model.head.weight, start)
    assert "new because the numbers of classes differ: head.weight, head.bias" in str(report)
    assert report.left_new == ("head.weight", "head.bias")
    assert report.missing == report.mismatched == report.unexpected == ()
    assert "norm.weight" in report.loaded
    model.init_weights()
    with pytest.raises(ValueError, match=r"2 of another shape.*head\.weight \(file \(11, 32\), model \(7, 32\)\)"):
        load_weights(model, tmp_path / "more.pth")


def test_missing_or_narrower_head_is_an_error(tmp_path):
    weights = timm_model().state_dict()
    torch.save({name: tensor for name, tensor in weights.items() if "head.fc" not in name}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"2 missing.*head\.weight, head\.bias"):
        load_weights(build(), tmp_path / "none.pth", classes=HEAD)
    torch.save({**weights, "head.fc.weight": torch.zeros(7, 31)}, tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match=r"head\.weight \(file \(7, 31\), model \(7, 32\)\)"):
        load_weights(build(), tmp_path / "narrow.pth", classes=HEAD)


@pytest.mark.parametrize(("prefix", "key"), [(None, "state_dict"), ("ema_state_dict.", "ema_state_dict")])
def test_dense_backbone_takes_the_average_or_the_raw_weights_of_a_classifier(prefix, key, tmp_path):
    """mmengine's EMAHook saves the average as ``state_dict`` and the raw weights, with a prefix, separately."""
    average, raw = randomise(build(), seed=2), randomise(build(), seed=3)
    beside = {f"module.{name}": tensor for name, tensor in raw.state_dict().items()} | {"steps": torch.tensor(5)}
    content = {"state_dict": average.state_dict(), "ema_state_dict": beside, "meta": {}}
    torch.save(content, tmp_path / "epoch_1.pth")
    backbone = ConvNeXt(ARCH)
    report = load_weights(backbone, tmp_path / "epoch_1.pth", prefix=prefix)
    wanted = {"state_dict": average, "ema_state_dict": raw}[key]
    assert torch.equal(backbone.stages[2][1].pwconv1.weight, wanted.backbone.stages[2][1].pwconv1.weight)
    assert (report.missing, report.mismatched, len(report.new)) == ((), (), 8)
    assert set(report.new) == {f"norm{stage}.{kind}" for stage in range(4) for kind in ("weight", "bias")}


def test_classifier_reads_its_own_checkpoint_and_another_librarys_reads_it_converted(tmp_path):
    from convnext_dense.checkpoints import convert_state_dict

    model = randomise(build())
    torch.save({"state_dict": model.state_dict()}, tmp_path / "ours.pth")
    other = build()
    report = load_weights(other, tmp_path / "ours.pth")
    assert report.unexpected == ()
    theirs = TimmConvNeXt(depths=DEPTHS, dims=CHANNELS, num_classes=CLASSES).eval()
    theirs.load_state_dict(convert_state_dict(model.state_dict(), "timm"))
    with torch.no_grad():
        assert torch.equal(other.eval()(images()), model(images()))
        assert torch.allclose(theirs(images()), model(images()), atol=1e-5)
