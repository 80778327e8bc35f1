"""Checkpoint files of all kinds: packed, in parts, of other pickle protocols, or no checkpoints at all.

The weights come from the official implementation; what is loaded must equal them bit by bit."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from documented_names import DATA
from safetensors.torch import save as to_safetensors
from safetensors.torch import save_file

from convnext_dense.checkpoints import containers, convert_checkpoint, load_weights, pickles, read_checkpoint
from convnext_dense.checkpoints.wrappers import unwrap
from convnext_dense.models import ConvNeXt

OFFICIAL = DATA / "official_v1.pth"
SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 32, 64))


@pytest.fixture
def weights(official_v1):
    return official_v1


def assert_loads(path, weights):
    model = ConvNeXt(SMALL, output_norms="none")
    load_weights(model, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def tar_of(files, path, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zip_of(files, path, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


PTH = OFFICIAL.read_bytes()
JUNK = {"run/": b"", "run/._weights.pth": b"\0\5\26\7", "__MACOSX/run/weights.pth": b"x", "run/log.txt": b"epoch 1\n"}
PACK = {
    "a.tar": lambda path, name, content: tar_of({name: content}, path, "w"),
    "a.tar.gz": lambda path, name, content: tar_of({name: content}, path, "w:gz"),
    "a.tgz": lambda path, name, content: tar_of({f"./run/{name}": content}, path, "w:gz"),
    "a.tar.bz2": lambda path, name, content: tar_of({name: content}, path, "w:bz2"),
    "a.tar.xz": lambda path, name, content: tar_of({name: content}, path, "w:xz"),
    "a.zip": lambda path, name, content: zip_of({name: content}, path),
    "stored.zip": lambda path, name, content: zip_of({f"run/{name}": content}, path, zipfile.ZIP_STORED),
    "junk.zip": lambda path, name, content: zip_of({**JUNK, f"run/{name}": content}, path),
    "weights.pth.gz": lambda path, name, content: path.write_bytes(gzip.compress(content)),
    "weights.pth.bz2": lambda path, name, content: path.write_bytes(bz2.compress(content)),
    "weights.pth.xz": lambda path, name, content: path.write_bytes(lzma.compress(content)),
    "twice.zip": lambda path, name, content: zip_of({f"{name}.gz": gzip.compress(content)}, path),
    "weights.pth": lambda path, name, content: tar_of({name: content}, path, "w:gz"),  # under a wrong name
}


@pytest.mark.parametrize("packing", PACK)
def test_the_one_checkpoint_in_an_archive_is_read(packing, tmp_path, weights):
    PACK[packing](tmp_path / packing, "weights.pth", PTH)
    assert_loads(tmp_path / packing, weights)
    assert [path.name for path in tmp_path.iterdir()] == [packing]  # nothing is unpacked beside it


@pytest.mark.parametrize("packing", ["a.tar.gz", "a.zip"])
@pytest.mark.parametrize("inner", ["weights.safetensors", "weights.npz", "weights", "legacy.pt", "../../escape.pth"])
def test_packed_files_are_recognised_by_their_content(packing, inner, tmp_path, weights):
    content = PTH
    if inner.startswith("weights"):
        content = to_safetensors(weights)
    if inner.endswith("npz"):
        arrays = io.BytesIO()
        np.savez(arrays, **{name: tensor.numpy() for name, tensor in weights.items()})
        content = arrays.getvalue()
    if inner == "legacy.pt":
        legacy = io.BytesIO()
        torch.save(weights, legacy, _use_new_zipfile_serialization=False)
        content = legacy.getvalue()
    PACK[packing](tmp_path / packing, inner, content)
    assert_loads(tmp_path / packing, weights)
    assert not (tmp_path.parent.parent / "escape.pth").exists()


def test_archive_is_converted_too(tmp_path, weights):
    path = PACK["a.tar.gz"](tmp_path / "a.tar.gz", "weights.pth", PTH)
    assert "Wrote 83 of 83 tensors" in convert_checkpoint(path, tmp_path / "out.safetensors", to="timm")
    assert_loads(tmp_path / "out.safetensors", weights)


@pytest.mark.parametrize(
    ("packing", "files", "text"),
    [
        (
            "zip",
            {"a.pth": PTH, "b.pth": PTH},
            r"a\.zip is an archive of 2 files \(a\.pth, b\.pth\): unpack it and name",
        ),
        ("zip", {"notes.txt": b"a", "more.txt": b"b"}, r"is an archive of 2 files \(notes\.txt, more\.txt\): unpack"),
        ("zip", {}, r"is an archive of 0 files: unpack"),
        ("zip", {"a.pth": b""}, r"a\.zip is empty"),
        ("zip", {"a.pth": b"<!DOCTYPE html>"}, r"a\.zip is a web page"),
        ("zip", {"a.pth": PTH[: len(PTH) // 2]}, r"a\.zip is damaged or not a checkpoint"),
        ("zip", {"x/constants.pkl": b"", "x/code/a.py": b"", "x/data.pkl": b""}, r"is a compiled program"),
        ("zip", {"x/archive_format": b"pt2", "x/models/model.json": b""}, r"is a compiled program"),
        ("tar", {"a.pth": PTH, "b.pth": PTH}, r"a\.tar is an archive of 2 files"),
        (
            "tar",
            {"pickle": b"", "sys_info": b"", "storages": b"", "tensors": b""},
            r"was written by torch 0\.1 and cannot be",
        ),
    ],
)
def test_other_archives_are_an_error_that_says_what_to_do(packing, files, text, tmp_path):
    path = tmp_path / f"a.{packing}"
    zip_of(files, path) if packing == "zip" else tar_of(files, path, "w")
    with pytest.raises(ValueError, match=text):
        read_checkpoint(path)


def test_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "_FREE_BYTES", 0)
    zeros = bytes(2_000_000)
    for name, write in PACK.items():
        write(tmp_path / name, "weights.pth", zeros)
        if name in ("a.tar", "stored.zip"):  # as large as their content
            continue
        with pytest.raises(ValueError, match=rf"{name} would grow to more than \d+ MiB: unpack it"):
            read_checkpoint(tmp_path / name)


def test_the_depth_of_nested_archives_is_limited(tmp_path):
    content = PTH
    for _ in range(5):
        content = gzip.compress(content)
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.gz is packed more than 2 times"):
        read_checkpoint(tmp_path / "a.gz")


def test_code_in_an_archive_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for protocol in (2, 4, 5):
        content = io.BytesIO()
        torch.save({"model": Attack()}, content, pickle_protocol=protocol)
        PACK["a.zip"](tmp_path / "a.zip", "weights.pth", content.getvalue())
        with pytest.raises(ValueError, match=r"a\.zip asks for more than tensors and plain values \(pathlib\."):
            read_checkpoint(tmp_path / "a.zip")
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.pth", b"7z\xbc\xaf\x27\x1c\0\4", r"a\.pth is a 7z archive: unpack it"),
        ("a.rar", b"Rar!\x1a\x07\x01\x00", r"is a rar archive"),
        ("a.pth.zst", b"\x28\xb5\x2f\xfd\0\0", r"is a zstd archive"),
        (
            "a.onnx",
            b"\x08\x08\x12\x07pytorch",
            r"is an ONNX model: name the \.pth or \.safetensors file that it was made",
        ),
        ("a.pth", b"", r"is empty"),
        ("a.safetensors", b"<html>", r"is a web page"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", r"is a text file.* git-lfs"),
        ("a.json", b"{}", r"is not an index of weights"),
        ("a.json", b"[1]", r"is not an index of weights"),
        ("a.json", b"oops", r"is not JSON"),
        (
            "model-00001-of-00002.safetensors",
            b"x",
            r"one of 2 parts: name their index, model\.safetensors\.index\.json",
        ),
        ("a.pth", gzip.compress(PTH)[:-2000], r"a\.pth is damaged or not a checkpoint"),
        ("a.pkl", pickle.dumps({"a.b": [1.0]}, protocol=2), r"a\.pkl is damaged or not a checkpoint .*magic number"),
        ("a.pkl", pickle.dumps({"a.b": [1.0]}, protocol=5), r"a\.pkl "),
    ],
)
def test_files_that_are_not_checkpoints_are_named(name, content, text, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=text):
        read_checkpoint(tmp_path / name)


def in_parts(folder, weights, ending=".safetensors"):
    stem = "model" if ending == ".safetensors" else "pytorch_model"
    names = list(weights)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-{number:05}-of-00002{ending}"
        tensors = {name: weights[name] for name in part}
        save_file(tensors, folder / file) if ending == ".safetensors" else torch.save(tensors, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / f"{stem}{ending}.index.json"
    index.write_text(json.dumps(dict(metadata=dict(total_size=1), weight_map=weight_map)))
    return index


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
@pytest.mark.parametrize("by", ["index", "folder"])
def test_checkpoint_in_parts_is_read_from_its_index_or_folder(ending, by, tmp_path, weights):
    index = in_parts(tmp_path, weights, ending)
    assert_loads(index if by == "index" else tmp_path, weights)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda index: (index.parent / "model-00002-of-00002.safetensors").unlink(),
            r"a part model-00002.*not lie besid",
        ),
        (
            lambda index: index.write_text('{"weight_map": {"a.b": "../b.safetensors"}}'),
            r"a part \.\./b.*not lie beside",
        ),
        (
            lambda index: index.write_text('{"weight_map": {"a.b": "model-00001-of-00002.safetensors"}}'),
            r"index\.json says that a\.b is in model-00001-of-00002\.safetensors, but it is not",
        ),
    ],
)
def test_missing_parts_are_named(change, text, tmp_path, weights):
    index = in_parts(tmp_path, weights)
    shutil.copy(tmp_path / "model-00001-of-00002.safetensors", tmp_path.parent / "b.safetensors")
    change(index)
    with pytest.raises(ValueError, match=text):
        read_checkpoint(index)


@pytest.mark.parametrize("name", ["model.safetensors", "best.pth"])
def test_folder_with_one_checkpoint_stands_for_it(name, tmp_path, weights):
    save_file(weights, tmp_path / name) if name.endswith("rs") else torch.save(weights, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert_loads(tmp_path, weights)


def test_folder_with_no_or_several_checkpoints_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder with 0 checkpoints: name one file"):
        read_checkpoint(tmp_path)
    for epoch in (1, 2):
        shutil.copy(OFFICIAL, tmp_path / f"epoch_{epoch}.pth")
    with pytest.raises(
        ValueError, match=r"is a folder with 2 checkpoints \(epoch_1\.pth, epoch_2\.pth\): name one file"
    ):
        read_checkpoint(tmp_path)


def training_file(weights):
    return {
        "model": weights,
        "optimizer": {"state": {0: {"exp_avg": torch.rand(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "meta": {"epoch": 3, "best": np.float64(0.5), "history": np.arange(4.0), "seed": 2**40, "name": "größe\n"},
        "half": torch.rand(3).half(),
        "shared": [weights["norm.weight"], weights["norm.weight"], (1, None, True), b"\0\xff", {"norm.weight": 1}],
    }


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor | np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["weights.pth.tar", "weights.pt"])
def test_every_pickle_protocol_is_read_safely(protocol, zipped, name, tmp_path, weights):
    content = training_file(weights)
    if protocol in (3, 5):  # with NumPy and bytes, which have their own instructions there
        del content["meta"]["history"], content["meta"]["best"], content["shared"][3]
    path = tmp_path / name
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(path), content)
    assert_loads(path, weights)


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_later_protocol_is_refused_and_not_run(protocol, zipped, tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "weights.pth"
    for content in (Attack(), {"model": {"a.b": Attack()}}, {Attack(): 1}):
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"asks for more than tensors and plain values \(pathlib\.\w*\.?\w*Path"):
            read_checkpoint(path)
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value", [["a", "b", "a", ("a", "b")], {"x": {"x": "x"}}, [b"a", b"b" * 300], "é" * 300, [[]] * 3]
)
def test_rewritten_pickle_loads_to_the_same_value(value):
    """Python's own pickle reads both."""
    for protocol in (4, 5):
        rewritten = pickles._rewrite(io.BytesIO(pickle.dumps(value, protocol=protocol)))
        assert rewritten[:2] == b"\x80\x02"
        assert pickle.loads(rewritten) == value
    assert pickle.loads(pickles._rewrite(io.BytesIO(pickle.dumps(PurePosixPath, protocol=4)))) is PurePosixPath


WRAPPERS = [
    "state_dict", "model", "model_ema", "ema_state_dict", "model_state", "model_state_dict", "net", "network",
    "teacher", "student", "ema", "module", "params", "params_ema", "weights", "encoder",
]  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_one_set_of_weights_is_found_under_any_key(wrapper, tmp_path, weights):
    path = tmp_path / "weights.pth"
    noise = {"optimizer": {"state": {0: {"exp_avg": torch.rand(3)}}}, "epoch": 1, "best_acc": torch.tensor(0.5)}
    noise["named_optimizer"] = {"state": {"norm.weight": {"exp_avg": torch.rand(3)}}}
    for content in ({wrapper: weights}, {"ckpt": {wrapper: weights}}, {wrapper: {"module": weights}}):
        torch.save({**content, **noise}, path)
        assert_loads(path, weights)
        assert set(unwrap(read_checkpoint(path))) == set(weights)
    for prefix in (wrapper, f"{wrapper}."):
        load_weights(ConvNeXt(SMALL), path, prefix=prefix)


@pytest.mark.parametrize(
    ("one", "other"),
    [("teacher", "student"), ("net", "ema"), ("params", "params_ema"), ("encoder", "momentum_encoder")],
)
def test_two_networks_are_an_error_without_a_prefix(one, other, tmp_path, weights):
    path = tmp_path / "weights.pth"
    second = {name: tensor + 1 for name, tensor in weights.items()}
    first, last = sorted((one, other))
    for outside in ({}, {"model": None}):
        content = {one: weights, other: {"module": second}}
        torch.save({"model": content} if outside else content, path)
        with pytest.raises(
            ValueError, match=rf"several ConvNeXts, under '{first}\.', '{last}\.': choose one with prefix="
        ):
            load_weights(ConvNeXt(SMALL), path)
        for prefix, expected in ((one, weights), (other, second)):
            model = ConvNeXt(SMALL, output_norms="none")
            load_weights(model, path, prefix=f"{prefix}.")
            assert torch.equal(model.stages[2][2].gamma, expected["stages.2.2.gamma"])


@pytest.mark.parametrize("also", [("model_ema", 1), ("ema", 1), ("state_dict_ema", 1), ("ema_state_dict", 1)])
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_trained_weights_come_before_their_average(key, also, tmp_path, weights):
    average = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({also[0]: average, key: weights}, tmp_path / "both.pth")
    assert_loads(tmp_path / "both.pth", weights)
    model = ConvNeXt(SMALL)
    load_weights(model, tmp_path / "both.pth", prefix=also[0])
    assert torch.equal(model.stages[2][2].gamma, average["stages.2.2.gamma"])


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}",
        lambda name: name.replace("stages.2.", "stages.2._fsdp_wrapped_module."),
        lambda name: name.replace("stages.", "stages._orig_mod."),
        lambda name: name.replace("stages.2.1.", "stages.2.1._checkpoint_wrapped_module."),
        lambda name: f"model.{name}",
        lambda name: f"net.backbone._orig_mod.{name}",
        lambda name: f"model.module.{name}",
    ],
)
def test_wrapper_prefixes_are_removed_from_names(rename, tmp_path, weights):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {rename(name): tensor for name, tensor in weights.items()}}, path)
    assert_loads(path, weights)


def test_one_tensor_under_two_names_is_an_error(weights):
    with pytest.raises(ValueError, match=r"has module\.norm\.weight and norm\.weight, which are one tensor"):
        unwrap({**weights, "module.norm.weight": weights["norm.weight"]})


class Detector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = ConvNeXt(SMALL)
        self.head = torch.nn.Linear(3, 3)


@pytest.mark.parametrize("prefix", ["model.", "net.", "teacher.module.", "module.", ""])
def test_whole_model_under_a_prefix_is_loaded_completely(prefix, tmp_path):
    trained, model = Detector(), Detector()
    torch.save(
        {"state_dict": {prefix + name: tensor for name, tensor in trained.state_dict().items()}}, tmp_path / "a.pth"
    )
    report = load_weights(model, tmp_path / "a.pth")
    assert (report.missing, report.new, report.unexpected) == ((), (), ())
    assert torch.equal(model.head.weight, trained.head.weight)


def test_two_whole_models_are_an_error_without_a_prefix(tmp_path):
    state = Detector().state_dict()
    torch.save({"teacher": state, "student": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"several ConvNeXts, under 'student\.', 'teacher\.': choose one with prefix="):
        load_weights(Detector(), tmp_path / "a.pth")
    assert load_weights(Detector(), tmp_path / "a.pth", prefix="student.").missing == ()
