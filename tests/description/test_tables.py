"""The tables of published and computed sizes in the documents, and that they are those that are computed. Published
numbers come from published.json; computed ones may differ by as much as the papers' printed digits allow."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from mmengine.utils import digit_version
from PIL import Image

from convnext_dense.description import TABLES, build_table, picture
from convnext_dense.description.documents import DOCUMENTS, replace_table
from convnext_dense.description.markdown import format_difference, format_table
from convnext_dense.description.published import read_published
from convnext_dense.description.tables import roadmap_gmacs

ROOT = Path(__file__).parents[2]
PUBLISHED = read_published()
KEPT_PICTURE = ROOT / "docs/roadmap.png"


def rows(name: str) -> list[list[str]]:
    """The cells of a table of the documents by row, including the header and the rule."""
    (document,) = (document for document, names in DOCUMENTS.items() if name in names)
    text = (ROOT / document).read_text(encoding="utf-8")
    table = text.partition(f"<!-- table {name} -->")[2].partition(f"<!-- end of table {name} -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]


def differences(row: list[str]) -> list[float]:
    return [abs(float(cell.removesuffix(" %"))) for cell in row if cell.endswith(" %") and cell[:1] in "+-"]


def half_a_digit(printed: str) -> float:
    """Half of the last digit of a printed number, and half of the last digit of the table's own two."""
    return 0.5 * 10 ** -len(printed.partition(".")[2]) + 0.005


def norm_operations(depths: list[int], channels: list[int]) -> int:
    """Operations of all LayerNorms at 224 x 224, of which timm's counter takes five per value.

    A stage of d blocks has d norms on its map, and one more in the downsampling layer behind it, unless it is the last;
    the stem has a norm on the map of the first stage, and the last norm is on the pooled features.
    """
    sides = [224 // stride for stride in (4, 8, 16, 32)]
    norms = [depths[0] + 2, depths[1] + 1, depths[2] + 1, depths[3]]
    return 5 * (sum(n * c * s**2 for n, c, s in zip(norms, channels, sides, strict=True)) + channels[-1])


def test_every_variant_has_the_printed_number_of_parameters():
    _, _, *found = rows("archs")
    assert len(found) == sum(len(PUBLISHED[key]) for key in PUBLISHED if key.startswith("architectures"))
    for name, computed, printed, *_ in found:
        assert float(computed) == pytest.approx(float(printed), abs=half_a_digit(printed)), name


def test_every_variant_has_the_printed_macs():
    """Those of V2 count GRN too, and those of timm's own sizes LayerNorm, which is added here by hand."""
    norms = {f"V1 {arch}": norm_operations(**_shape(facts)) for arch, facts in PUBLISHED["architectures_timm"].items()}
    norms["V2 small"] = norm_operations(**_shape(PUBLISHED["architectures_v2"]["small"]))
    _, _, *found = rows("archs")
    for row in found:
        for computed, printed in ((row[4], row[5]), (row[7], row[8])):
            if printed != "-":
                relative = 0.005 if row[0].startswith("V2") and row[0] not in norms else 0.0
                macs = float(computed) + norms.get(row[0], 0) / 1e9
                assert macs == pytest.approx(float(printed), rel=relative, abs=half_a_digit(printed)), row[0]


def _shape(facts: dict) -> dict[str, list[int]]:
    return dict(depths=facts["depths"], channels=facts["channels"])


@pytest.mark.parametrize(
    ("name", "models"),
    [
        (
            "detection",
            [
                *PUBLISHED["coco"]["models"].values(),
                *PUBLISHED["dino"]["models"].values(),
                PUBLISHED["rtmdet"]["convnext_b"],
                *PUBLISHED["dense_v2"]["mask_rcnn"].values(),
                PUBLISHED["dense_v2"]["mask_rcnn_openmmlab"],
            ],
        ),
        (
            "segmentation",
            [
                *PUBLISHED["ade20k"]["models"].values(),
                *PUBLISHED["dense_v2"]["upernet"].values(),
                *PUBLISHED["dinov3"]["linear"].values(),
                *PUBLISHED["dinov3"]["upernet"].values(),
            ],
        ),
    ],
)
def test_dense_models_have_the_published_size(name, models):
    wanted = {Path(model["config"]).stem: model for model in models if isinstance(model, dict) and "config" in model}
    _, _, *found = rows(name)
    assert {row[0] for row in found} == set(wanted)
    for row in found:
        model = wanted[row[0]]
        gflops = model.get("gflops", model.get("gflops_1280x800"))
        assert row[5] == "-" if gflops is None else float(row[5]) == gflops
        assert gflops is None or float(row[4]) == pytest.approx(gflops, rel=0.02)
        assert row[3] == "-" or max(differences(row[3:4])) < 1.0


def test_every_dense_config_and_every_other_model_is_in_the_comparison():
    leaves = [path for task in ("detection", "segmentation") for path in (ROOT / "configs" / task).rglob("*.py")]
    wanted = {path.stem for path in leaves if "roadmap" not in path.name}
    _, _, *found = rows("models")
    assert {row[0] for row in found} == wanted
    assert {row[6] for row in found} == {"not measured"}
    _, _, *others = rows("peers")
    assert len(others) == len(PUBLISHED["comparison"])
    assert all(row[-1] for row in others), "a number without a source"


def test_classifiers_have_the_published_size():
    wanted = {
        Path(leaf).stem: facts for leaf, facts in PUBLISHED["classification"]["models"].items() if "top1" in facts
    }
    _, _, *found = rows("classification")
    assert {row[0] for row in found} == set(wanted)
    for row in found:
        assert float(row[4]) == pytest.approx(wanted[row[0]]["gflops"], rel=0.01)
        assert max(differences(row[1:7])) < 1.0


def test_roadmap_table_has_the_printed_macs_but_for_two_values_that_contradict_the_paper():
    found = [row for row in rows("roadmap") if row[0] in PUBLISHED["roadmap"]["resnet50"]]
    tiny = found[: len(found) // 2]  # table 10; table 11 follows
    noted = {row[0]: row for row in found if "follows from no definition" in row[-1]}
    assert all(row[2] == row[3] for row in found if row not in noted.values())
    # A norm has no multiplications that are counted: the paper's 4.15 of the step before must stay 4.15.
    assert list(noted) == ["layer_norm", "separate_downsampling"]
    assert [row[3] for row in noted.values()] == ["4.46", "4.49"]  # table 10
    assert noted["layer_norm"][2] == next(row[3] for row in tiny if row[0] == "fewer_norms") == "4.15"
    # The last step is ConvNeXt-T, for which table 1 of the same paper has 4.5.
    assert noted["separate_downsampling"][2] == next(row[4] for row in rows("archs") if row[0] == "V1 tiny")
    assert round(float(noted["separate_downsampling"][2]), 1) == 4.5


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_documentation_has_the_computed_tables(document):
    """If this fails, run python tools/write_docs.py."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for name in DOCUMENTS[document]:
        assert replace_table(text, name, build_table(name)) == text, f"{document}: table {name} is out of date"
    assert {name for names in DOCUMENTS.values() for name in names} == set(TABLES)


def test_picture_shows_the_papers_accuracies_and_the_given_macs(tmp_path, monkeypatch):
    """Tables 10 and 11: the first and the last step, both Swin Transformers, and the steps that were not kept."""
    figures = []
    monkeypatch.setattr(picture, "Figure", lambda **kwargs: figures.append(Figure(**kwargs)) or figures[-1])
    steps = [step for step in PUBLISHED["roadmap"]["resnet50"] if step != "source"]
    gmacs = {
        "resnet50": {step: 1 + 0.01 * number for number, step in enumerate(steps)},
        "resnet200": {step: 11 + 0.01 * number for number, step in enumerate(steps)},
    }
    picture.draw_roadmap(PUBLISHED["roadmap"], gmacs, tmp_path / "roadmap.png")
    left, right = figures[0].axes
    labels = [text.get_text() for text in left.texts]
    assert len(labels) == 2 * 17  # rows of both tables
    assert (labels[0], labels[16]) == ("76.13", "81.97")  # ResNet-50, ConvNeXt-T
    assert (labels[17], labels[33]) == ("78.20", "83.60")  # ResNet-200, ConvNeXt-B
    bars = [bar for bars in left.containers if isinstance(bars, BarContainer) for bar in bars]
    assert [f"{bar.get_x() + bar.get_width():.2f}" for bar in bars] == labels
    not_kept = [left.get_yticklabels()[number % 17].get_text() for number, bar in enumerate(bars) if bar.get_hatch()]
    assert not_kept == 2 * ["kernel 5", "kernel 9", "kernel 11"]
    swins = [[line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] for axes in (left, right)]
    assert swins == [[81.3, 83.5], [4.5, 15.43]]
    stars = [float(x) for dots in right.collections if len(dots.get_offsets()) == 17 for x in dots.get_offsets()[:, 0]]
    assert stars == pytest.approx([*gmacs["resnet50"].values(), *gmacs["resnet200"].values()])


@pytest.mark.slow
# On Python 3.10, matplotlib is older and sets text elsewhere.
@pytest.mark.skipif(digit_version(matplotlib.__version__) < digit_version("3.11"), reason="drawn by matplotlib 3.11")
def test_picture_in_the_documentation_is_the_one_that_is_drawn(tmp_path):
    """If this fails, run python tools/write_docs.py. 12 x 9 inches of 100 dots, as a README shows without scaling."""
    picture.draw_roadmap(PUBLISHED["roadmap"], roadmap_gmacs(), tmp_path / "roadmap.png")
    drawn, kept = (np.asarray(Image.open(path).convert("L"), int) for path in (tmp_path / "roadmap.png", KEPT_PICTURE))
    assert drawn.shape == kept.shape == (900, 1200)
    assert (abs(drawn - kept) > 64).mean() < 0.01  # fonts are smoothed differently by different versions
    assert (kept < 64).mean() > 0.01  # there is something on it


def test_document_without_markers_is_an_error():
    with pytest.raises(ValueError, match="has no '<!-- table archs -->' followed by '<!-- end of table archs -->'"):
        replace_table("# Nothing", "archs", "a table")


def test_numbers_are_aligned_right():
    assert format_table(["name", "n"], [["a", "1.50"], ["bcdef", "-"]]).splitlines() == [
        "| name  |    n |",
        "| ----- | ---: |",
        "| a     | 1.50 |",
        "| bcdef |    - |",
    ]
    assert format_difference(98.0, 100.0) == "-2.00 %"
