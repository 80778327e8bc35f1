"""The table of public weights against the sources of its numbers and addresses, and the models that they fill."""

import gzip
import json
import re
from pathlib import Path

import mmdet
import mmseg
import pytest
import timm
import torch
import yaml
from file_server import serving
from released_tensors import (
    cascade_mask_rcnn,
    classifier,
    dinov3,
    isotropic_classifier,
    mask_rcnn,
    upernet,
    with_mmpretrain_names,
)

from convnext_dense.checkpoints import Checkpoint, detect_layout, fetch, find_entry, read_zoo
from convnext_dense.checkpoints.digests import find_digest
from convnext_dense.checkpoints.downloads import cached_path
from convnext_dense.checkpoints.licences import UNKNOWN, find_licence
from convnext_dense.checkpoints.zoo import TASKS
from convnext_dense.cli.zoo_entries import build_model
from convnext_dense.description.documents import ZOO as PAGE
from convnext_dense.description.documents import describe_zoo
from convnext_dense.description.published import read_published
from convnext_dense.errors import UserError

ROOT = Path(__file__).parents[2]
ZOO = read_zoo()
PUBLISHED = read_published()
FIXTURES = ROOT / "tests/fixtures"
ARCHS = dict(t="tiny", s="small", b="base", l="large", xl="xlarge", h="huge")

each_entry = pytest.mark.parametrize("entry", ZOO.values(), ids=list(ZOO))


@each_entry
def test_entry_is_complete(entry):
    assert entry.task in TASKS
    assert entry.address.startswith(("https://", "timm:", "hf:"))
    assert (entry.config is None) == bool(entry.backbone)
    assert entry.gated == (entry.page is not None)
    assert all((entry.layout, entry.licence, entry.source))
    assert all(0 < value < 100 for value in entry.published.values())
    assert (entry.measured, entry.size, entry.sha256) == (None, None, None)  # nothing was downloaded yet
    if entry.address.startswith("https://"):
        assert entry.sha256_prefix == find_digest(cached_path(entry.address).name)


def test_files_have_different_names():
    """The cache keeps files by name alone."""
    names = [cached_path(entry.address).name for entry in ZOO.values() if entry.address.startswith("https://")]
    assert len(names) == len(set(names))


@each_entry
def test_config_exists(entry):
    if entry.config is not None:
        assert (ROOT / entry.config).is_file()


@each_entry
def test_licence_is_that_of_its_origin(entry):
    assert find_licence(f"zoo:{entry.name}", entry.layout) == entry.licence
    known = find_licence(entry.address, entry.layout)
    assert known in (UNKNOWN, entry.licence)


def of_authors(folder):
    configs = {entry.config: entry for entry in ZOO.values() if "fbaipublicfiles" in entry.address}
    return {config: entry for config, entry in configs.items() if config and config.startswith(folder)}


def test_numbers_of_the_authors_are_those_of_the_paper():
    coco = {row["config"]: row for row in PUBLISHED["coco"]["models"].values()}
    ade20k = {row["config"]: row for row in PUBLISHED["ade20k"]["models"].values()}
    detectors, segmenters = of_authors("configs/detection/"), of_authors("configs/segmentation/")
    assert (detectors.keys(), segmenters.keys()) == (coco.keys(), ade20k.keys())
    for config, entry in detectors.items():
        assert entry.published == {"box AP": coco[config]["box_AP"], "mask AP": coco[config]["mask_AP"]}
    for config, entry in segmenters.items():
        row = ade20k[config]
        assert entry.published == {"mIoU": row["mIoU_ss"], "mIoU, multi-scale and flip": row["mIoU_ms_flip"]}


def test_accuracies_of_the_authors_are_those_of_the_paper():
    rows = PUBLISHED["classification"]["models"]
    entries = of_authors("configs/classification/")
    assert entries.keys() == {config for config in rows if "roadmap" not in config}
    for config, entry in entries.items():
        assert entry.published == ({"top-1": rows[config]["top1"]} if "top1" in rows[config] else {})


def test_openmmlabs_rows_are_those_of_its_own_tables():
    """Addresses and numbers in the tables that mmdet and mmseg ship beside their configs."""
    tables = {}
    for package, file in (
        (mmdet, "convnext/metafile.yml"),
        (mmdet, "rtmdet/metafile.yml"),
        (mmseg, "convnext/metafile.yaml"),
    ):
        content = yaml.safe_load((Path(package.__file__).parent / ".mim/configs" / file).read_text())
        for model in content["Models"]:
            results = model["Results"] if isinstance(model["Results"], list) else [model["Results"]]
            tables[model["Weights"]] = {name: value for row in results for name, value in row["Metrics"].items()}
    shipped = [entry for entry in ZOO.values() if "v3.3.0" in entry.source or "mmsegmentation" in entry.source]
    assert len(shipped) == 3 + 1 + 6
    for entry in shipped:
        theirs = tables[entry.address]
        theirs = {name.replace("mIoU(ms+flip)", "mIoU, multi-scale and flip"): value for name, value in theirs.items()}
        assert entry.published == theirs


def test_addresses_of_classifiers_are_those_that_timm_knows():
    """timm's table of the official files, which lacks isotropic ones and those without a moving average."""
    urls = {timm.get_pretrained_cfg(name).url for name in timm.list_models("convnext*", pretrained=True)}
    for entry in ZOO.values():
        if "fbaipublicfiles" in entry.address and entry.task in ("classification", "backbone"):
            absent = re.search(r"noema|iso|dinov3|1k_ft_384", entry.name)
            assert (entry.address in urls) != bool(absent), entry.name
        if entry.address.startswith("timm:"):
            assert timm.is_model_pretrained(entry.address.removeprefix("timm:"))


def released(entry):
    """Return the tensors of an entry's file as the code that wrote the file names and shapes them."""
    name = entry.name
    if entry.layout == "timm":
        # the files of DINOv3 have no classifier
        kwargs = dict(num_classes=0) if "dinov3" in name else {}
        with torch.device("meta"):
            return timm.create_model(entry.address.removeprefix("timm:").split(".")[0], **kwargs).state_dict()
    kind, arch = re.match(r"(.*?)_?convnext(?:v2)?_(?:iso_)?([a-z]+)", name).groups()
    if kind in ("dino", "rtmdet_l"):  # as the code of detrex and mmdet builds them, see the README of each folder
        file, key = ("detrex/dino_names", ARCHS[arch]) if kind == "dino" else ("mmpretrain/names", "rtmdet")
        shapes = json.loads(gzip.decompress((FIXTURES / f"{file}.json.gz").read_bytes()))[key]
        return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    arch, v2 = ARCHS.get(arch, arch), "convnextv2" in name
    if kind == "mask_rcnn":
        weights = mask_rcnn(arch, v2=v2)
    elif kind in ("cascade", "upernet"):
        weights = dict(cascade=cascade_mask_rcnn, upernet=upernet)[kind](arch)
    elif entry.layout == "official_isotropic":
        return isotropic_classifier(arch)
    elif entry.layout == "dinov3":
        return dinov3(arch)
    else:
        weights = classifier(arch, 21841 if name.endswith("_22k") else 1000, v2=v2)
        if "fcmae" in name:  # pre-trained alone: without a head, and the norm is not part of the encoder
            weights = {key: value for key, value in weights.items() if not key.startswith(("norm.", "head."))}
    return with_mmpretrain_names(weights) if entry.layout == "mmpretrain" else weights


@each_entry
def test_names_of_the_file_fill_the_model(entry):
    """Every tensor of the model is in the file in its shape; only norms and classifiers are left over, or new."""
    if entry.config and not (ROOT / entry.config).is_file():
        pytest.fail(f"{entry.config} does not exist")
    weights = released(entry)
    assert detect_layout(weights) == entry.layout
    report, _ = Checkpoint(f"zoo:{entry.name}", weights).fit(build_model(entry).state_dict())
    assert (report.missing, report.mismatched) == ((), ())
    if entry.config:
        assert (report.new, report.unexpected) == ((), ())
        assert len(report.loaded) + len(report.repeated) == len(weights)
    else:
        assert all(re.match(r"(norm\d|levels)\.", name) for name in report.new)
        assert all(re.match(r"(norms?|head)\.", name) for name in report.unexpected)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cascade_convnext_t_3", "cascade_convnext_t_3x"),
        ("CASCADE_CONVNEXT_T_3X", "cascade_convnext_t_3x"),
        ("upernet_convnext_tiny_160k", "upernet_convnext_t_160k"),
    ],
)
def test_unknown_name_is_an_error_with_the_nearest(name, near):
    with pytest.raises(
        UserError, match=rf"The zoo has no '{name}'; the nearest name is '{near}.*convnext-dense zoo list"
    ):
        fetch(f"zoo:{name}")


@pytest.mark.parametrize("name", ["", "foo"])
def test_nothing_is_suggested_for_a_name_that_is_near_none(name):
    with pytest.raises(UserError, match=rf"The zoo has no '{name}'; `convnext-dense zoo list` prints all of them"):
        fetch(f"zoo:{name}")


def test_entry_is_downloaded_and_compared(monkeypatch, tmp_path):
    entry = find_entry("rtmdet_l_convnext_b_100e")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with serving(b"not these weights") as server:
        address = server.address("rtmdet_l_convnext_b_4xb32-100e_coco-d4731b3d.pth")
        row = {**vars(entry), "address": address}
        monkeypatch.setattr("convnext_dense.checkpoints.zoo.read_zoo", lambda: {entry.name: type(entry)(**row)})
        with pytest.raises(UserError, match=r"but d4731b3d\.\.\. was published: it was not kept"):
            fetch("zoo:rtmdet_l_convnext_b_100e")


def test_gated_entry_names_the_page_of_its_licence(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(
        UserError,
        match=r"\(no network\)\. Accept its licence at https://ai\.meta\.com/.*/, and put the file at .*-21b726bb\.pth",
    ):
        fetch("zoo:dinov3_convnext_t")


def test_page_of_the_documentation_is_up_to_date():
    """If this fails, run python tools/write_docs.py."""
    assert f"<!-- table zoo -->\n\n{describe_zoo()}\n\n<!-- end" in (ROOT / PAGE).read_text(encoding="utf-8")


def test_page_of_the_documentation_has_every_entry_once_in_one_table():
    lines = describe_zoo().splitlines()
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert sorted(names) == sorted(read_zoo())
    tasks = [line.split("|")[2].strip() for line in lines[2:]]
    assert list(dict.fromkeys(tasks)) == ["detection", "segmentation", "classification", "backbone"]
    (line,) = (line for line in lines if "| cascade_convnext_t_3x " in line)
    assert "| box AP 50.4, mask AP 43.7 " in line  # arXiv 2201.03545, table 3
