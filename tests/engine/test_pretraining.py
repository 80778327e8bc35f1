"""Pre-training without labels by the configs that people run: data, resuming, processes, pictures, and what follows."""

import io
import json
import tarfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from PIL import Image
from record_losses import launch, record_losses
from small_runs import SMALLEST_ARCH

from convnext_dense.checkpoints import convert_checkpoint, load_weights, read_checkpoint
from convnext_dense.config.reading import read_config
from convnext_dense.data.own.pretraining import training_folder
from convnext_dense.data.unlabelled_images import nested_images
from convnext_dense.engine import train_model
from convnext_dense.engine.reconstructions_hook import draw_reconstructions
from convnext_dense.errors import UserError
from convnext_dense.inference import load_model

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/pretraining/fcmae_atto.py"
SMALL = {
    "model.backbone.arch": SMALLEST_ARCH,
    "model.decoder_channels": 16,
    "train_dataloader.batch_size": 4,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.transform.input_size": 96,
    "train_cfg.max_iters": 6,
}
NUM_IMAGES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images at three depths, beside other files and a folder of a program."""
    root = tmp_path_factory.mktemp("unlabelled")
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        path = root.joinpath(*["deep"] * (number % 3), f"{number:02d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8))
        coarse.resize((100, 120)).save(path)
    (root / "notes.txt").write_text("no image")
    (root / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (100, 100)).save(root / ".ipynb_checkpoints" / "copy.png")
    return root


def train(options, **kwargs):
    return train_model(str(CONFIG), deepcopy({**SMALL, **options}), **kwargs)


def losses_of(folder, out, options, **kwargs):
    record_losses(
        out, str(CONFIG), deepcopy({**SMALL, **options}), data=str(folder), work_dir=str(out.with_suffix("")), **kwargs
    )
    MMLogger._instance_dict.clear()
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("pretrained")
    return train({}, data=str(folder), work_dir=str(work_dir))


def test_a_folder_of_images_trains_and_leaves_a_picture(trained):
    assert trained.checkpoint.name == "iter_6.pth"
    log = next(trained.work_dir.glob("*/*.log")).read_text()
    assert f"Images of train: {NUM_IMAGES} in " in log
    assert "without labels" in log
    pictures = sorted(trained.work_dir.glob("*/vis_data/vis_image/reconstructions_*.png"))
    assert pictures
    picture = np.asarray(Image.open(pictures[-1]))
    # four images of the first batch below each other; image, what is visible, reconstruction, 4 white pixels after each
    assert picture.shape == (4 * 96, 3 * (96 + 4), 3)
    visible = picture[:96, 100:196]
    grey = (visible == 128).all(-1).reshape(3, 32, 3, 32).all((1, 3))
    assert grey.sum() == 6  # of 3 x 3 patches, int(9 * 0.4) = 3 are visible
    whole, painted = picture[:96, :96], picture[:96, 200:296]
    shown = ~grey.repeat(32, 0).repeat(32, 1)
    assert (whole[shown] == painted[shown]).all()
    assert (whole[~shown] != painted[~shown]).any()


def test_drawing_changes_nothing_and_shows_the_pixels():
    model = MODELS.build(read_config(CONFIG, deepcopy(SMALL)).model).train()
    pixels = torch.randint(0, 256, (2, 3, 96, 96))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    images = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    state = torch.get_rng_state()
    picture = draw_reconstructions(model, images, mean, std)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(picture[:96, :96], pixels[0].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(picture[96:, :96], pixels[1].permute(1, 2, 0).numpy())


def test_images_come_in_the_order_of_their_paths(folder):
    found = [path.relative_to(folder).as_posix() for path in nested_images(folder)]
    assert found == [f"{'deep/' * (n % 3)}{n:02d}.png" for n in (0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11)]


def test_the_backbone_goes_whole_into_a_detector_and_into_other_layouts(trained, tmp_path):
    weights = read_checkpoint(trained.checkpoint)["state_dict"]
    wanted = {name[9:]: tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    arch = {key: value for key, value in SMALLEST_ARCH.items() if key != "_delete_"}
    config = dict(type="convnext_dense.ConvNeXt", arch=arch, use_grn=True, layer_scale_init_value=0.0)
    for layout in ("official", "timm"):
        convert_checkpoint(str(trained.checkpoint), tmp_path / f"{layout}.pth", to=layout, part="backbone")
    with pytest.raises(UserError, match="part='backbone' leaves them out"):  # the decoder
        convert_checkpoint(str(trained.checkpoint), tmp_path / "whole.pth", to="timm")
    for source in (trained.checkpoint, tmp_path / "official.pth", tmp_path / "timm.pth"):
        backbone = MODELS.build(dict(config, init_cfg=dict(type="Pretrained", checkpoint=str(source))))
        backbone.init_weights()
        loaded = backbone.state_dict()
        for name, tensor in wanted.items():
            assert torch.equal(loaded[name], tensor), (source, name)
    damaged = tmp_path / "damaged.pth"
    torch.save({name: tensor for name, tensor in weights.items() if "stages.2.0.grn" not in name}, damaged)
    with pytest.raises(UserError, match="grn"):
        load_weights(MODELS.build(config), damaged)


def test_a_released_encoder_goes_on_training(folder, tmp_path):
    model = MODELS.build(read_config(CONFIG, deepcopy(SMALL)).model)
    official = {name: tensor + 0.01 for name, tensor in model.backbone.state_dict().items()}
    torch.save(dict(model=official), tmp_path / "released.pt")
    loaded = {"+model.backbone.init_cfg": dict(type="Pretrained", checkpoint=str(tmp_path / "released.pt"))}
    run = train(
        {**loaded, "train_cfg.max_iters": 1, "optim_wrapper.optimizer.lr": 0.0},
        data=str(folder),
        work_dir=str(tmp_path / "on"),
    )
    weights = read_checkpoint(run.checkpoint)["state_dict"]
    for name, tensor in official.items():
        assert torch.allclose(weights[f"backbone.{name}"], tensor, atol=1e-6), name


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(folder, tmp_path):
    whole = losses_of(folder, tmp_path / "whole.json", {})
    losses_of(folder, tmp_path / "run.json", {"train_cfg.max_iters": 3, "param_scheduler": []})
    whole_constant = losses_of(folder, tmp_path / "constant.json", {"param_scheduler": []})
    torch.rand(5)
    more_workers = {"train_dataloader.num_workers": 1}
    rest = losses_of(folder, tmp_path / "run.json", {"param_scheduler": [], **more_workers}, resume="auto")
    assert len(whole) == len(whole_constant) == 6
    assert rest == whole_constant[3:]
    ends = [read_checkpoint(tmp_path / name / "iter_6.pth") for name in ("constant", "run")]
    for name, tensor in ends[0]["state_dict"].items():
        assert torch.equal(tensor, ends[1]["state_dict"][name]), name


def test_two_processes_learn_what_one_does(folder, tmp_path):
    """The same images with the same patches hidden, in halves."""
    alone = losses_of(folder, tmp_path / "alone.json", {})
    halves = {**SMALL, "train_dataloader.batch_size": 2}
    (two,) = launch(
        [
            dict(
                out=str(tmp_path / "two.json"),
                config=str(CONFIG),
                options=halves,
                data=str(folder),
                work_dir=str(tmp_path / "two"),
            )
        ],
        tmp_path,
    )
    assert len(alone) == 6
    assert two == pytest.approx(alone, abs=1e-4)


def test_broken_images_are_counted_up_to_a_share(folder, tmp_path):
    root = tmp_path / "images"
    for number in range(40):
        Image.new("RGB", (96, 96), (6 * number, 0, 0)).save(tmp_path / "one.png")
        (root / str(number % 4)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "one.png").rename(root / str(number % 4) / f"{number}.png")
    (root / "0" / "broken.png").write_bytes(b"no image")
    run = train({"train_cfg.max_iters": 11}, data=str(root), work_dir=str(tmp_path / "run"))
    assert "Skipped corrupt image 1: " in next(run.work_dir.glob("*/*.log")).read_text()
    for number in range(5):
        (root / "1" / f"broken{number}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"max_corrupt_rate=0\.05"):
        train({"train_cfg.max_iters": 22}, data=str(root), work_dir=str(tmp_path / "more"))


def test_shards_without_labels_train(folder, tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for path in sorted(folder.rglob("[0-9]*.png"))[shard::2]:
                content = path.read_bytes()
                member = tarfile.TarInfo(path.name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    run = train({}, data=str(tmp_path), work_dir=str(tmp_path / "run"))
    assert f"Images of train: {NUM_IMAGES} in 2 shards" in next(run.work_dir.glob("*/*.log")).read_text()


def test_distillation_trains_resumes_and_leaves_a_backbone(folder, tmp_path):
    teacher = timm.create_model("test_vit.r160_in1k")
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    options = {
        **{key: value for key, value in SMALL.items() if "decoder" not in key},
        "model.teacher": "test_vit.r160_in1k",
        "+model.teacher_weights": str(tmp_path / "teacher.pth"),
        "param_scheduler": [],
        "effective_batch": 4,
    }
    config = str(ROOT / "configs/pretraining/distillation_atto.py")

    def losses(name, **kwargs):
        out = tmp_path / f"{name}.json"
        work_dir = str(tmp_path / kwargs.pop("work_dir", name))
        record_losses(
            out,
            config,
            deepcopy({**options, **kwargs.pop("options", {})}),
            data=str(folder),
            work_dir=work_dir,
            **kwargs,
        )
        MMLogger._instance_dict.clear()
        return json.loads(out.read_text())

    whole = losses("whole")
    assert whole[-1] < whole[0]
    losses("half", options={"train_cfg.max_iters": 3})
    assert losses("rest", work_dir="half", resume="auto") == whole[3:]
    arch = {key: value for key, value in SMALLEST_ARCH.items() if key != "_delete_"}
    backbone = MODELS.build(dict(type="convnext_dense.ConvNeXt", arch=arch, layer_scale_init_value=1.0))
    load_weights(backbone, tmp_path / "whole" / "iter_6.pth")
    weights = read_checkpoint(tmp_path / "whole" / "iter_6.pth")["state_dict"]
    assert torch.equal(backbone.stages[2][0].pwconv1.weight, weights["backbone.stages.2.0.pwconv1.weight"])


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        (["a", "b/c"], "."),
        (["train", "val"], "train"),
        (["Training", "test"], "Training"),
        (["train2017", "val2017", "annotations"], "train2017"),
        (["images/train", "images/val", "labels/train"], "images/train"),
        (["images/training", "annotations/training"], "images/training"),
        (["train/images", "train/labels", "valid/images"], "train/images"),
    ],
)
def test_of_annotated_data_the_training_images_are_read(present, wanted, tmp_path):
    for name in present:
        (tmp_path / name).mkdir(parents=True)
    assert training_folder(tmp_path) == tmp_path / wanted


def test_the_check_of_data_opens_and_draws_images(folder, run_tool, tmp_path):
    sheet = tmp_path / "sheet.png"
    code, out, err = run_tool("check_dataset.py", CONFIG, "--data", folder, "--overlay", sheet)
    assert code == 0, err
    assert f"Images of train: {NUM_IMAGES} in {folder}, without labels." in out
    assert "Overlay of 6 images" in out
    assert sheet.stat().st_size > 1000
    (folder / "deep" / "broken.png").write_bytes(b"no image")
    try:
        code, out, err = run_tool("check_dataset.py", CONFIG, "--data", folder, "--all-images")
    finally:
        (folder / "deep" / "broken.png").unlink()
    assert code == 1, "1 of 13 images is more than 5 %"
    assert "broken.png" in out


def test_its_checkpoints_predict_nothing_and_say_so(trained):
    with pytest.raises(UserError, match="is a pre-training and predicts nothing"):
        load_model(str(CONFIG), str(trained.checkpoint))


def test_wrong_data_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for data, text in ((tmp_path / "empty", "There is no image in"), (tmp_path / "none", "is not a folder")):
        with pytest.raises(UserError, match=text):
            train({}, data=str(data), work_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="multiples of 32"):
        train({"train_dataloader.dataset.transform.input_size": 100}, data=str(folder), work_dir=str(tmp_path / "size"))
