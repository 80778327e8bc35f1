"""Commands and Python in README.md and docs/: all are read by what would run them, and the most important are run.

A block that no test runs has ``<!-- not run: REASON -->`` directly above it.
"""

import inspect
import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from doc_blocks import (
    PAGES,
    PROGRAMS,
    ROOT,
    SHELLS,
    all_blocks,
    blocks_of,
    commands_in_helps,
    commands_of,
    inline_commands,
    marks_without_a_block,
    with_numbers,
)
from doc_checks import check
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from small_runs import LOADERS

from convnext_dense.cli.main import main
from convnext_dense.errors import UserError
from convnext_dense.models import ConvNeXt
from convnext_dense.registry import DATASETS

BLOCKS = all_blocks(*SHELLS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_commands_of_blocks_are_right(block):
    assert block.commands
    for words in block.commands:
        check(words)


def test_commands_in_the_text_are_right():
    found = [*inline_commands(), *(("commands.md", words) for words in commands_in_helps())]
    assert len(found) > 20
    for page, words in found:
        try:
            check(words)
        except (AssertionError, UserError) as error:
            raise AssertionError(f"{page}: {' '.join(words)}: {error}") from error


@pytest.mark.parametrize("block", all_blocks(*SHELLS, "python"), ids=lambda block: block.name)
def test_every_block_is_run_or_says_why_not(block):
    assert (block.name in RUN_BLOCKS) != (block.reason is not None)


def test_no_name_of_a_block_is_left_over():
    assert set(RUN_BLOCKS) <= {block.name for block in all_blocks(*SHELLS, "python")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_marks_are_above_fences_and_commands_have_a_language(page):
    text = page.read_text()
    assert marks_without_a_block(text) == 0
    for block in blocks_of(text, page.name):
        assert block.language in (*SHELLS, "python", "text", "")
        if block.language == "":
            assert not PROGRAMS.search(block.text), block


@pytest.mark.parametrize(
    "command",
    [
        "convnext-dense train finetune/mask_rcnnn --data DIR",
        "convnext-dense train finetune/mask_rcnn --dat DIR --epoch",
        "convnext-dense trains finetune/mask_rcnn",
        "python tools/test.py finetune/mask_rcnn",
        "python tools/no.py CONFIG",
        "python tools/train.py CONFIG --backbone convnext-tinny",
        "python tools/zoo.py show mask_rcnn_convnext_tt_3x",
        "tools/dist_train.sh configs/detection/cascade_convnext_t_3x.py eight",
        "make demonstration",
        "pip install '.[openmmlabs]'",
        "conda install convnext_dense",
        "docker run -v DIR:/data convnext-dense train finetune/mask_rcnn --dat /data",
        "docker pull convnext-dense",
    ],
)
def test_wrong_commands_are_found(command):
    (words,) = commands_of(command)
    with pytest.raises((AssertionError, UserError)):
        check(words)


# Below, blocks are run as they stand, with the reader's names replaced.
RUN_BLOCKS = {}


def runs(*names):
    """Note which blocks a test runs."""

    def note(test):
        RUN_BLOCKS.update(dict.fromkeys(names, test.__name__))
        return test

    return note


def block_named(name):
    (block,) = (block for block in all_blocks(*SHELLS, "python") if block.name == name)
    return block


SHORT = ["--cfg-options", *(f"{key}={value}" for key, value in LOADERS.items())]
ATTO = "work_dirs/mask_rcnn_atto"


@pytest.fixture(scope="module")
def place(shapes_folder, tmp_path_factory):
    """A folder with images and a model trained on them, by the commands of the README's second block."""
    root = tmp_path_factory.mktemp("docs")
    shutil.copytree(shapes_folder, root / "DIR")
    for name in ("image.jpg", "a.jpg", "b.jpg"):
        shutil.copy(root / "DIR/val2017/000000000001.jpg", root / name)
    Image.open(root / "image.jpg").resize((1100, 300)).save(root / "huge.tif")
    before = Path.cwd()
    os.chdir(root)
    run_commands("README.md:2", OUT_DIR="exported/first")
    yield root
    os.chdir(before)


@pytest.fixture
def in_place(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def run_commands(name, **values):
    """Run the commands of a block that are ours in this process, except for ``pip``, which is not run."""
    for words in block_named(name).commands:
        names = dict(
            NUCLEI="DIR",
            CONFIG=f"{ATTO}/mask_rcnn_atto.py",
            CHECKPOINT=checkpoint(),
            WORK_DIR=ATTO,
            IMAGE="image.jpg",
            IMAGE_OR_FOLDER="image.jpg",
            IMAGES_OR_VIDEOS="image.jpg",
            SOURCE="image.jpg",
            **values,
        )
        names["finetune/mask_rcnn"] = "finetune/mask_rcnn_atto"  # the same from random weights
        arguments = [names.get(word, word) for word in with_numbers(words)]
        if arguments[0] == "pip":
            continue
        if arguments[0] == "convnext-dense":
            command, *arguments = arguments[1:]
        elif arguments[1].startswith("tools/"):
            command, arguments = Path(arguments[1]).stem.replace("_", "-"), arguments[2:]
        else:
            run_file(arguments[1], arguments[2:])
            continue
        try:
            main([command, *arguments, *(["--epochs", "1", *SHORT] if command == "train" else [])])
        except SystemExit as end:
            assert end.code == 0, words  # noqa: PT017


def run_file(path, arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path, *arguments])
        runpy.run_path(path, run_name="__main__")


def checkpoint():
    note = Path(ATTO, "last_checkpoint")
    return note.read_text().strip() if note.is_file() else "CHECKPOINT"


def run_python(name, *changes, **names):
    """Run a block of Python with some of its text changed, and return its names."""
    text = block_named(name).text
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    exec(compile(text, name, "exec"), names)
    return names


@pytest.mark.slow
@runs("README.md:2")
def test_the_way_from_data_to_an_exported_model(place):
    assert Path(checkpoint()).is_file()
    assert (place / "outputs/image.png").is_file()
    assert json.loads((place / "exported/first/model.json").read_text())["task"] == "detection"
    assert list((place / "work_dirs").rglob("report.json"))


@pytest.mark.slow
@runs("README.md:3")
def test_the_same_in_python(in_place):
    config = '"finetune/mask_rcnn_atto", epochs=1, options=LOADERS, work_dir="second"'
    names = run_python("README.md:3", ('"finetune/mask_rcnn"', config), LOADERS=LOADERS)
    assert names["run"].checkpoint.parent.name == "second"
    assert 0 <= names["metrics"]["coco/segm_mAP"] <= 1
    comment = re.search(r"boxes, .*", block_named("README.md:3").text)[0]
    for attribute in comment.replace(";", ",").split(", "):
        assert hasattr(names["found"], attribute), attribute


@runs("api.md:1")
def test_names_of_the_package():
    names = run_python("api.md:1")
    assert all(callable(names[name]) for name in ("load_model", "report", "test", "train"))


@runs("README.md:4", "plugging.md:1")
def test_a_backbone_in_a_config():
    for name in ("README.md:4", "plugging.md:1"):
        backbone = run_python(name)["backbone"]
        assert backbone.pop("init_cfg") == dict(type="Pretrained", checkpoint=...)
        assert isinstance(MODELS.build(backbone), ConvNeXt)


@runs("plugging.md:2")
def test_layer_decay_in_a_config():
    model = torch.nn.Module()
    model.backbone = ConvNeXt("atto")
    wrapper = run_python("plugging.md:2")["optim_wrapper"]
    rates = {group["lr"] for group in build_optim_wrapper(model, wrapper).optimizer.param_groups}
    # The stem; two blocks of stages 1 and 2, three and three of stage 3, two of stage 4; the norms of the outputs.
    assert sorted(rates, reverse=True) == pytest.approx([1e-4 * 0.95**depth for depth in range(7)])


@pytest.mark.slow
@runs("plugging.md:4")
def test_a_config_is_plugged(in_place):
    run_commands("plugging.md:4")
    assert Config.fromfile("fcn_convnext_t.py").model.backbone.type == "convnext_dense.ConvNeXt"


@runs("checkpoints.md:1")
def test_weights_are_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    official = {name: value for name, value in ConvNeXt("tiny").state_dict().items() if not name.startswith("norm")}
    torch.save(dict(model=official), "convnext_tiny_22k_1k_224.pth")
    run_python("checkpoints.md:1", backbone=ConvNeXt("tiny"))
    comment = re.search(r"# (Loaded \d+ of \d+ tensors)", block_named("checkpoints.md:1").text)[1]
    assert capsys.readouterr().out.startswith(comment)


@runs("checkpoints.md:2")
def test_checkpoints_are_converted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/fixtures/official_v1.pth", "IN")
    run_commands("checkpoints.md:2")
    assert Path("OUT.safetensors").is_file()


@runs("pretraining.md:2")
def test_both_weights_of_an_average_are_reached(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    average, raw = ConvNeXt("atto"), ConvNeXt("atto")
    for number, one in enumerate((average, raw), start=1):
        torch.nn.init.constant_(one.downsample_layers[0][0].weight, number)
    state = {f"backbone.{name}": value for name, value in average.state_dict().items()}
    raw_state = {f"backbone.{name}": value for name, value in raw.state_dict().items()}
    torch.save(dict(state_dict=state, ema_state_dict=raw_state), "made.pth")
    first, second = (line for line in block_named("pretraining.md:2").text.splitlines() if line[0] != "#")
    for line, number in ((first, 1), (second, 2)):
        found = {}
        exec(line, found)
        loaded = ConvNeXt("atto", init_cfg={**found["init_cfg"], "checkpoint": "made.pth"})
        loaded.init_weights()
        assert (loaded.downsample_layers[0][0].weight == number).all()


@runs("pretraining.md:3")
def test_shards_in_a_config(tmp_path):
    text = block_named("pretraining.md:3").text.replace("dict(...)", "dict(type='ToTensor')")
    config = tmp_path / "shards.py"
    config.write_text(f"_base_ = {str(ROOT / 'configs/classification/convnext_t_22k.py')!r}\n{text}")
    cfg = Config.fromfile(config)
    init_default_scope("convnext_dense")
    assert cfg.train_dataloader.sampler is None
    assert set(cfg.train_dataloader.dataset) == {"type", "shards", "num_images", "classes", "transform"}
    kind = DATASETS.get(cfg.train_dataloader.dataset.type)
    inspect.signature(kind).bind(**{k: v for k, v in cfg.train_dataloader.dataset.items() if k != "type"})


@pytest.mark.slow
@runs("family.md:1")
def test_what_models_cost(in_place, capsys):
    run_commands("family.md:1")
    assert "params (M)" in capsys.readouterr().out


@pytest.mark.slow
@runs("own_data.md:1")
def test_data_is_checked(in_place, capsys):
    run_commands("own_data.md:1")
    assert "0 errors" in capsys.readouterr().out


@pytest.mark.slow
@runs("finetuning.md:2", "running.md:1")
def test_a_start_from_a_trained_model_and_a_resumed_run(in_place):
    run_commands("finetuning.md:2")
    run_commands("running.md:1")
    assert Path(checkpoint()).is_file()


@pytest.mark.slow
@runs("using.md:1", "exporting.md:1", "exporting.md:2")
def test_an_exported_model_is_used(in_place, monkeypatch):
    run_commands("exporting.md:1")
    run_commands("using.md:1")
    assert (in_place / "pictures/image.png").is_file()
    assert (in_place / "outputs/predictions.csv").is_file()
    monkeypatch.syspath_prepend(in_place / "exported/nuclei")
    found = run_python("exporting.md:2")["result"]
    assert len(found["boxes"]) == len(found["masks"])


@pytest.mark.slow
@runs("using.md:2")
def test_a_model_in_python(in_place):
    names = run_python("using.md:2", CONFIG=f"{ATTO}/mask_rcnn_atto.py", CHECKPOINT=checkpoint())
    assert len(names["results"]) == 2
    assert names["picture"].shape[2] == 3
    assert names["found"].boxes.shape[1] == 4


@pytest.mark.slow
@runs("reports.md:1", "watching.md:1")
def test_reports_are_written(in_place):
    run_commands("watching.md:1")
    run_commands("reports.md:1", RUN1=ATTO, RUN2=ATTO)
    assert (in_place / "work_dirs/comparison/comparison.html").is_file()
