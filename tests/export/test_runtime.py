"""``export/runtime.py``: its preparation, masks and label maps against OpenCV, mmdet and torch, and what it refuses."""

import ast
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from PIL import Image
from torch.nn import functional

from convnext_dense.export import runtime
from convnext_dense.export.runtime import (
    ExportedModelError,
    Prepared,
    checksum,
    load_exported,
    paste_masks,
    read_rgb,
    resize_linear,
    resize_to_labels,
    windows,
)
from convnext_dense.models.segmentor import _windows
from convnext_dense.visualization import _class_colour


def test_the_file_needs_numpy_pillow_and_a_runtime_alone():
    tree = ast.parse(Path(runtime.__file__).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    runtimes = {"onnxruntime", "openvino", "torch", "torchvision"}
    assert names - set(sys.stdlib_module_names) == {"numpy", "PIL"} | runtimes
    at_the_top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert not at_the_top & runtimes


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *[((48, 64), (80, 107)), ((60, 80), (51, 68)), ((7, 9), (333, 300)), ((37, 41), (37, 82))],
        *[((300, 400), (10, 13)), ((1, 5), (32, 160)), ((64, 64), (32, 32)), ((64, 80), (64, 80))],
    ],
)
def test_images_are_resized_as_opencv_does_to_the_bit(before, after):
    image = np.random.default_rng(0).integers(0, 256, (*before, 3), np.uint8)
    assert (resize_linear(image, *after) == cv2.resize(image, after[::-1], interpolation=cv2.INTER_LINEAR)).all()


def test_masks_are_pasted_as_mmdet_does():
    generator = np.random.default_rng(0)
    masks = generator.random((6, 28, 28), np.float32)
    boxes = np.array(
        [
            [2.3, 3.1, 40.7, 50.2],
            [-5, -4, 20, 30],
            [50, 40, 90.5, 70.25],
            [10, 10, 11, 11],
            [0, 0, 80, 60],
            [5, 5, 5, 5],
        ],
        np.float32,
    )
    wanted, _ = _do_paste_mask(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), 60, 80, skip_empty=False)
    pasted = paste_masks(masks, boxes, (60, 80), 0.5)
    assert pasted.shape == (6, 60, 80)
    assert (pasted[:5] != (wanted[:5].numpy() >= 0.5)).sum() <= 1  # a value of one half, rounded
    assert not pasted[5].any()  # of a box without area


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(200, 90), (17, 23), (40, 52)])
def test_labels_are_the_largest_of_the_logits_at_the_size_of_the_image(align_corners, shape):
    logits = torch.randn(5, 40, 52)
    wanted = functional.interpolate(logits[None], shape, mode="bilinear", align_corners=align_corners)[0].argmax(0)
    labels = resize_to_labels(logits.numpy(), shape, align_corners=align_corners, threshold=None)
    assert (labels != wanted.numpy()).mean() < 1e-3


def test_one_logit_is_compared_with_the_threshold():
    logits = torch.linspace(-3, 3, 100).view(1, 10, 10)
    labels = resize_to_labels(logits.numpy(), (10, 10), align_corners=False, threshold=0.3)
    assert (labels == (logits[0].sigmoid() > 0.3).numpy()).all()


@pytest.mark.parametrize(("length", "size", "stride"), [(100, 64, 43), (64, 64, 43), (30, 64, 43), (129, 64, 64)])
def test_windows_are_those_of_the_segmenter(length, size, stride):
    starts, wanted = _windows(length, size, stride)
    found = list(windows((length, 10), (size, 10), (stride, 10)))
    assert [(top, bottom) for top, bottom, *_ in found] == [(start, start + wanted) for start in starts]


def test_images_are_fitted_and_padded_into_one_size():
    steps = [dict(fit=dict(size=[64, 96])), dict(pad=dict(size=[64, 96], value=[1.5, 2, 3]))]
    item = Prepared(np.full((100, 50, 3), 200, np.uint8), dict(preparation=steps))
    assert item.pixels.shape == (1, 3, 64, 96)
    assert item.inner == (64, 32)  # 100 -> 64
    assert item.scale == (0.64, 0.64)
    assert item.pixels[0, :, 0, 40].tolist() == [1.5, 2, 3]
    assert item.pixels[0, :, 0, 31].tolist() == [200, 200, 200]


def prepared(shape, **step):
    return Prepared(np.zeros((*shape, 3), np.uint8), dict(preparation=[step]))


def test_sides_are_rounded_as_mmcv_rounds_them():
    item = prepared((100, 61), resize=dict(scale=[160, 160], keep_ratio=True))
    assert item.inner == (160, 98)  # 97.6
    assert item.scale == (98 / 61, 1.6)


def test_images_are_padded_to_a_multiple():
    assert prepared((64, 65), pad=dict(divisor=32, value=[0, 0, 0])).pixels.shape[2:] == (64, 96)


def test_the_short_side_is_resized_and_the_middle_cut_out():
    steps = [dict(resize_short=dict(side=32, interpolation="bicubic")), dict(center_crop=dict(size=[24, 24]))]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    item = Prepared(np.asarray(picture), dict(preparation=steps))
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    wanted = Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(24)])(picture)
    assert (item.pixels[0].transpose(1, 2, 0) == np.asarray(wanted)).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1"])
def test_files_of_all_kinds_are_read_as_opencv_reads_them(mode, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).convert(mode)
    picture.save(tmp_path / "image.png")
    wanted = cv2.imread(str(tmp_path / "image.png"), cv2.IMREAD_COLOR)
    assert (read_rgb(tmp_path / "image.png")[..., ::-1] == wanted).all()


def test_16_bits_and_turned_images_are_read_as_opencv_reads_them(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (20, 30), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), values)
    assert (read_rgb(tmp_path / "deep.png") == cv2.imread(str(tmp_path / "deep.png"))[..., ::-1]).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray((values >> 8).astype(np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_rgb(tmp_path / "turned.jpg").shape == (30, 20, 3)


def test_arrays_are_blue_green_red():
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 255
    assert read_rgb(image)[0, 0].tolist() == [0, 0, 255]
    assert read_rgb(np.dstack([image, image[..., :1]]))[0, 0].tolist() == [0, 0, 255]
    assert read_rgb(image[..., 0])[0, 0].tolist() == [255, 255, 255]


def test_classes_have_the_colours_of_the_other_pictures():
    assert [runtime.class_colour(number) for number in range(20)] == [_class_colour(n)[::-1] for n in range(20)]


FACTS = dict(
    format=runtime.FORMAT,
    task="classification",
    file="model.onnx",
    runtime="onnxruntime",
    class_names=["a", "b"],
    preparation=[],
    input_size=None,
    batch=True,
    outputs=[dict(name="probs", meaning="")],
)


@pytest.fixture
def folder(tmp_path):
    """An exported classifier: the mean of each half of the channels as two probabilities."""
    import hashlib

    import onnx
    from onnx import helper

    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "chosen"], ["few"], axis=1),
        helper.make_node("Softmax", ["few"], ["probs"]),
    ]
    constants = [
        helper.make_tensor(name, onnx.TensorProto.INT64, [2], values)
        for name, values in (("axes", [2, 3]), ("chosen", [0, 1]))
    ]
    kinds = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", ["n", 3, 8, 8]), ("probs", ["n", 2]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", kinds[:1], kinds[1:], constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    out = tmp_path / "model"
    out.mkdir()
    onnx.save(model, out / "model.onnx")
    digest = hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest()
    write(out, dict(FACTS, sha256={"model.onnx": digest}))
    return out


def write(folder, facts):
    facts = {name: value for name, value in facts.items() if name != "checksum"}
    (folder / "model.json").write_text(json.dumps(dict(facts, checksum=checksum(facts))))


def change(folder, **changes):
    write(folder, dict(json.loads((folder / "model.json").read_text()), **changes))


def test_a_model_is_run_on_single_images_and_batches(folder):
    images = [np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8) for number in range(3)]
    single, batched = (load_exported(folder).predict(images, batch_size=size) for size in (1, 2))
    for image, one, other in zip(images, single, batched, strict=True):
        red, green = image[..., 2].mean(), image[..., 1].mean()
        assert one["names"] == (["a", "b"] if red > green else ["b", "a"])
        assert one["scores"].sum() == pytest.approx(1)
        assert (one["scores"] == other["scores"]).all()


@pytest.mark.parametrize("runtime_name", ["onnxruntime", "openvino"])
def test_both_runtimes_run_an_onnx_file(folder, runtime_name):
    (result,) = load_exported(folder, runtime=runtime_name, threads=1).predict([np.zeros((8, 8, 3), np.uint8)])
    assert result["scores"] == pytest.approx([0.5, 0.5])


def test_images_of_several_sizes_and_models_of_single_images(folder, monkeypatch):
    sizes = []
    original = runtime.ExportedModel._check_size
    monkeypatch.setattr(
        runtime.ExportedModel, "_check_size", lambda self, pixels: sizes.append(pixels.shape) or original(self, pixels)
    )
    model = load_exported(folder)
    model._run = lambda inputs: {"probs": inputs["image"].mean(axis=(2, 3))[:, :2]}  # of any size
    images = [np.full((*shape, 3), value, np.uint8) for value, shape in enumerate([(8, 8), (8, 8), (8, 16), (16, 8)])]
    results = model.predict(images, batch_size=4)
    assert [one["scores"][0] for one in results] == [0, 1, 2, 3]
    assert [shape[0] for shape in sizes] == [2, 1, 1]
    sizes.clear()
    model.facts["batch"] = False
    model.predict(images, batch_size=4)
    assert [shape[0] for shape in sizes] == [1] * 4


def test_five_classes_at_most_are_given(folder):
    change(folder, class_names=list("abcdefg"))
    model = load_exported(folder)
    model._run = lambda inputs: {"probs": np.arange(7, dtype=np.float32)[None]}
    (result,) = model.predict([np.zeros((8, 8, 3), np.uint8)])
    assert result["names"] == list("gfedc")


def segmenter(folder, run, **facts):
    """A segmenter whose graph is a function."""
    given = dict(window=None, align_corners=False, threshold=None, palette=[[0, 0, 0]] * 2)
    change(folder, task="segmentation", **(given | facts))
    model = load_exported(folder)
    model._run = lambda inputs: {"logits": run(inputs["image"])}
    return model


def test_padding_has_no_labels(folder):
    def run(image):  # class 1 where the image is not black
        return np.concatenate([np.zeros_like(image[:, :1]) + 0.5, image[:, :1] / 255], 1)

    model = segmenter(folder, run, preparation=[dict(pad=dict(divisor=32, value=[255, 255, 255]))])
    (result,) = model.predict([np.zeros((40, 50, 3), np.uint8)])
    assert result["label_map"].shape == (40, 50)
    assert not result["label_map"].any()


def test_logits_of_overlapping_windows_are_averaged(folder):
    window = dict(size=[32, 32], stride=[16, 16])
    model = segmenter(folder, lambda image: np.full_like(image[:, :1], 0.4), window=window, threshold=0.62)
    (result,) = model.predict([np.zeros((64, 64, 3), np.uint8)])
    assert not result["label_map"].any()  # sigmoid(0.4) is 0.599, and the sum of two would be 0.69


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_that_of_the_session(folder, threads, monkeypatch):
    import onnxruntime

    given = []
    original = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **more: given.append(options.intra_op_num_threads) or original(path, options, **more),
    )
    load_exported(folder, threads=threads)
    assert given == [threads]


def test_only_objects_above_the_threshold_are_drawn():
    found = dict(
        boxes=np.array([[2, 2, 10, 10], [20, 20, 30, 30]], np.float32),
        scores=np.array([0.9, 0.4]),
        labels=np.array([0, 0]),
        names=["a", "a"],
        class_names=("a",),
    )
    image = np.full((40, 40, 3), 100, np.uint8)
    few, both = (np.asarray(runtime.draw(image, found, score_thr=limit)) for limit in (0.5, 0.3))
    scale = len(few) // 40
    place = (slice(20 * scale, 30 * scale), slice(20 * scale, 30 * scale))
    assert (few[place] == 100).all()
    assert (both[place] != 100).any()


def test_large_files_are_hashed_to_their_end(tmp_path):
    import hashlib

    content = bytes(3 * 2**20)
    (tmp_path / "model").write_bytes(content)
    runtime.check_files(tmp_path, {"model": hashlib.sha256(content).hexdigest()})
    (tmp_path / "model").write_bytes(content[:-1] + b"1")
    with pytest.raises(ExportedModelError, match="another sha256"):
        runtime.check_files(tmp_path, {"model": hashlib.sha256(content).hexdigest()})


def remove(name):
    return lambda folder: (folder / name).unlink()


def truncate(folder):
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:100])


def drop(folder, name):
    facts = json.loads((folder / "model.json").read_text())
    del facts[name]
    write(folder, facts)


def truncate_and_tell(folder):
    import hashlib

    truncate(folder)
    change(folder, sha256={"model.onnx": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()})


def tamper(folder):
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace('"a"', '"z"'))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove("model.json"), r"is not an exported model: it has no model\.json"),
        (remove("model.onnx"), r"lacks model\.onnx: copy the whole folder"),
        (truncate, r"is not the file that was exported \(another sha256\)"),
        (truncate_and_tell, "cannot be opened by onnxruntime"),
        (tamper, "was changed after the export"),
        (lambda folder: (folder / "model.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "model.json").write_text("[1]"), "is damaged"),
        (lambda folder: change(folder, format=99), "is of format 99"),
        (lambda folder: drop(folder, "file"), "is damaged"),
        (lambda folder: change(folder, sha256={"../model.onnx": "0"}), r"lacks \.\./model\.onnx"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(folder, damage, reason):
    damage(folder)
    with pytest.raises(ExportedModelError, match=reason):
        load_exported(folder)


@pytest.mark.parametrize(
    ("runtime_name", "reason"),
    [("tensorrt", "must be one of onnxruntime, openvino, torch"), ("torch", r"model\.onnx is not for torch")],
)
def test_another_runtime_is_refused(folder, runtime_name, reason):
    with pytest.raises(ExportedModelError, match=reason):
        load_exported(folder, runtime=runtime_name)


def test_a_runtime_that_is_not_installed_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportedModelError, match=r"^onnxruntime is not installed: pip install onnxruntime\.$"):
        load_exported(folder)


def image_file(tmp_path, content):
    (tmp_path / "image.jpg").write_bytes(content)
    return tmp_path / "image.jpg"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (lambda tmp_path: tmp_path / "absent.jpg", r"absent\.jpg cannot be read"),
        (lambda tmp_path: image_file(tmp_path, b"no image"), r"image\.jpg cannot be read"),
        (lambda tmp_path: image_file(tmp_path, b""), r"image\.jpg cannot be read"),
        (lambda _: np.zeros((8, 8, 5), np.uint8), r"the shape \(8, 8, 5\)"),
        (lambda _: np.zeros((8, 8, 3), np.float32), "of the type float32"),
        (lambda _: np.zeros((0, 8, 3), np.uint8), r"the shape \(0, 8, 3\) has no pixels"),
        (lambda _: Image.new("F", (8, 8)), "has 32 bits per pixel, whose scale is unknown"),
        (lambda _: Image.new("I", (8, 8)), "has 32 bits per pixel"),
        (lambda _: None, "An image is a NoneType: give paths"),
        (lambda _: b"bytes", "An image is a bytes: give paths"),
        (lambda _: np.zeros((9, 8, 3), np.uint8), r"does not run on image \(1, 3, 9, 8\)"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(folder, tmp_path, image, reason):
    with pytest.raises(ExportedModelError, match=reason):
        load_exported(folder).predict([image(tmp_path)])


def test_images_of_another_size_are_refused_before_they_run(folder):
    change(folder, input_size=[8, 8])
    with pytest.raises(ExportedModelError, match=r"has 9 x 8 pixels, .* 8 x 8 alone: .*--size 9 8"):
        load_exported(folder).predict([np.zeros((9, 8, 3), np.uint8)])


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["runtime.py", *map(str, arguments)])
    runtime.main()


def test_no_two_images_share_a_picture(folder, tmp_path, monkeypatch):
    images = [tmp_path / name for name in ("one/a.png", "two/a.png", "two/a.jpg", "two/A.bmp")]
    for image in images:
        image.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(image)
    run_main(monkeypatch, folder, *images, "--out-dir", tmp_path / "pictures")
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"a.png", "a.png.png", "a.jpg.png", "A.bmp.png"}


def test_a_picture_never_replaces_an_image(folder, tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(SystemExit, match=r"a\.png would overwrite an image: choose another --out-dir"):
        run_main(monkeypatch, folder, tmp_path / "a.png", "--out-dir", tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


def test_one_image_instead_of_a_list_is_refused(folder):
    model = load_exported(folder)
    for image in ("image.jpg", np.zeros((8, 8, 3), np.uint8), Image.new("RGB", (8, 8))):
        with pytest.raises(ExportedModelError, match="is one image: give a list"):
            model.predict(image)
    for batch_size in (0, -1, 2.0, "2", None):
        with pytest.raises(ExportedModelError, match=rf"batch_size={batch_size!r} must be a whole number"):
            model.predict([], batch_size=batch_size)
    for images in (None, 7, b"bytes"):
        with pytest.raises(ExportedModelError, match=r"images=.* (must be a list|is one image)"):
            model.predict(images)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two"])
def test_wrong_numbers_of_threads_are_refused(folder, threads):
    with pytest.raises(ExportedModelError, match=rf"threads={threads!r} must be a whole number"):
        load_exported(folder, threads=threads)


@pytest.mark.parametrize("keep_ratio", [True, False])
def test_a_thin_image_keeps_a_pixel_as_in_training(keep_ratio):
    prepared = Prepared(
        np.zeros((3, 2000, 3), np.uint8), dict(preparation=[dict(resize=dict(scale=[160, 160], keep_ratio=keep_ratio))])
    )
    assert prepared.pixels.shape[2:] == ((1, 160) if keep_ratio else (160, 160))  # mmcv's, see openmmlab/resizing.py
    fitted = Prepared(np.zeros((2000, 3, 3), np.uint8), dict(preparation=[dict(fit=dict(size=[160, 160]))]))
    assert fitted.pixels.shape[2:] == (160, 1)


def test_a_bad_image_costs_nothing_else(folder, tmp_path, monkeypatch, capsys):
    for name in ("A.PNG", "b.jpg", "deep/c.png", "._a.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name)
    (tmp_path / "in/b.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"Error: 1 of 2 could not be read:\n  Image .*b\.jpg cannot be read"):
        run_main(monkeypatch, folder, tmp_path / "in", "--out-dir", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["A.png"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"[1/2] {tmp_path}/out/A.png: a 50.0%, b 50.0%"
    run_main(monkeypatch, folder, nested(tmp_path), "--out-dir", tmp_path / "nested")
    assert [path.name for path in (tmp_path / "nested").iterdir()] == ["c.png"]


def nested(tmp_path):
    """A folder whose images are in a subfolder."""
    (tmp_path / "in/deep").rename(tmp_path / "classes")
    (tmp_path / "up").mkdir()
    (tmp_path / "classes").rename(tmp_path / "up/classes")
    return tmp_path / "up"


def test_pictures_that_cannot_be_written_end_in_a_sentence(folder, tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit, match=r"^Error: .*file"):
        run_main(monkeypatch, folder, tmp_path / "a.png", "--out-dir", tmp_path / "file")
    with pytest.raises(SystemExit, match=r"^Error: --score-thr 2 must be from 0 to 1"):
        run_main(monkeypatch, folder, tmp_path / "a.png", "--out-dir", tmp_path / "out", "--score-thr", 2)
