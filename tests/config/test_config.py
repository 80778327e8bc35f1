"""Reading configs: an unknown name is an error that names the nearest one."""

import pytest

from convnext_dense.config.reading import read_config

TEXT = """
data_root = "data/coco/"
pipeline = [dict(type="Load"), dict(type="Flip")]
model = dict(type="Toy", backbone=dict(arch="tiny", out_indices=(0, 1)))
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root, pipeline=pipeline))
train_cfg = dict(max_epochs=3)
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "toy_3x.py"
    path.write_text(TEXT)
    return path


def test_existing_keys_are_changed(config):
    cfg = read_config(config, {"train_dataloader.dataset.pipeline.1.type": "Crop", "train_cfg.max_epochs": 1})
    assert cfg.train_dataloader.dataset.pipeline[1].type == "Crop"
    assert cfg.train_cfg.max_epochs == 1


def test_plus_adds_a_key(config):
    assert read_config(config, {"+model.backbone.with_cp": True}).model.backbone.with_cp is True


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train_dataloader.batchsize", "train_dataloader.batch_size"),
        ("model.backbone.ach", "model.backbone.arch"),
        ("train_dataloader.dataset.pipeline.2.type", "train_dataloader.dataset.pipeline.1.type"),
    ],
)
def test_unknown_key_names_the_nearest(config, key, nearest):
    with pytest.raises(ValueError, match=rf"no key '{key}'. The nearest is '({nearest}|{nearest.replace('1', '0')})'"):
        read_config(config, {key: 1})


def test_variable_without_effect_is_refused(config):
    text = r"'data_root' is a variable of .*no effect.*train_dataloader\.dataset\.data_root.*--data"
    with pytest.raises(ValueError, match=text):
        read_config(config, {"data_root": "elsewhere/"})


def test_part_of_a_variable_is_refused_too(config):
    with pytest.raises(
        ValueError, match=r"'pipeline' is a variable .* is used in train_dataloader\.dataset\.pipeline\.1"
    ):
        read_config(config, {"pipeline.1.type": "Crop"})


def test_missing_file_names_the_nearest(config):
    with pytest.raises(ValueError, match=r"toy_4x.py does not exist. Did you mean .*toy_3x.py\?"):
        read_config(config.with_name("toy_4x.py"))


def test_file_with_a_syntax_error_is_reported(config):
    config.write_text("model = dict(\n")
    with pytest.raises(ValueError, match=r"toy_3x.py cannot be read: SyntaxError"):
        read_config(config)


def test_file_without_a_model_is_reported(config):
    config.write_text("x = 1\n")
    with pytest.raises(ValueError, match="has no 'model'"):
        read_config(config)
