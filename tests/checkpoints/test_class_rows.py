"""Per-class rows: each class starts from the row of the same name; expected rows are worked out by hand."""

import torch

from convnext_dense.checkpoints import ClassDim, ClassRows, measure_class_dims
from convnext_dense.checkpoints.class_rows import read_class_names
from convnext_dense.checkpoints.matching import match_weights

OLD, NEW = ("cat", "dog", "Traffic Light"), ("traffic_light", "horse", "cat", "cow")


def fill(dim, in_file, in_model, names=NEW, names_in_file=OLD):
    rows = ClassRows({"w": (dim,)}, names, names_in_file)
    return rows.fill({"w": in_file}, {"w": in_model}).get("w"), rows


def test_a_linear_layer_keeps_its_background_row_behind_the_classes():
    filled, _ = fill(ClassDim(after=1), torch.tensor([10.0, 11, 12, 19]), torch.tensor([0.0, 1, 2, 3, 4]))
    assert filled.tolist() == [12, 1, 10, 3, 19]


def test_box_values_of_a_class_are_adjacent_in_a_linear_layer():
    in_file = torch.arange(12.0).reshape(12, 1) + 100
    filled, _ = fill(ClassDim(width=4), in_file, torch.zeros(16, 1))
    assert filled.flatten().tolist() == [108, 109, 110, 111, 0, 0, 0, 0, 100, 101, 102, 103, 0, 0, 0, 0]


def test_classes_of_a_box_are_adjacent_in_a_convolution():
    # Two boxes per position, three classes and background each: [box 0: c d t bg, box 1: c d t bg].
    in_file = torch.tensor([1.0, 2, 3, 9, 4, 5, 6, 8]).reshape(8, 1, 1, 1)
    filled, _ = fill(ClassDim(groups=2, after=1), in_file, torch.zeros(10, 1, 1, 1))
    assert filled.flatten().tolist() == [3, 0, 1, 0, 9, 6, 0, 4, 0, 8]


def test_feature_inputs_come_before_the_scores_that_a_layer_also_reads():
    in_file = torch.arange(10.0).reshape(2, 5)  # two features, three scores
    filled, _ = fill(ClassDim(1, before=2), in_file, torch.full((2, 6), -1.0))
    assert filled.tolist() == [[0, 1, 4, -1, 2, -1], [5, 6, 9, -1, 7, -1]]


def test_a_layer_that_reads_and_returns_scores_takes_over_both():
    # PointRend's last layer: a row per class over one feature and the scores of all classes.
    in_file = torch.arange(12.0).reshape(3, 4)
    rows = ClassRows({"w": (ClassDim(0), ClassDim(1, before=1))}, ("d", "c"), ("b", "c", "d"))
    assert rows.fill({"w": in_file}, {"w": torch.zeros(2, 3)})["w"].tolist() == [[8, 11, 10], [4, 7, 6]]


def test_without_a_common_class_the_tensor_is_new_unless_background_stays():
    filled, rows = fill(ClassDim(), torch.ones(3), torch.zeros(2), names=("a", "b"))
    assert filled is None
    assert rows.new == ["w"]
    filled, rows = fill(ClassDim(after=1), torch.ones(4), torch.zeros(3), names=("a", "b"))
    assert filled.tolist() == [0, 0, 1]
    assert str(rows) == "0 of 2 classes start from their rows; 2 are new: a, b, in w"


def test_the_same_classes_in_another_order_are_reordered():
    in_file, in_model = torch.tensor([1.0, 2.0]), torch.zeros(2)
    filled, rows = fill(ClassDim(), in_file, in_model, names=("b", "a"), names_in_file=("a", "b"))
    assert filled.tolist() == [2, 1]
    assert str(rows) == "2 of 2 classes start from their rows: b, a, in w"


def test_names_that_differ_only_in_case_are_different_classes():
    rows = ClassRows({}, ("T", "t", "x"), ("t", "T"))
    assert rows.shared == {0: 1, 1: 0}
    assert ClassRows({}, ("Person",), ("person", "car")).shared == {0: 0}


def test_the_report_lists_what_starts_from_its_rows():
    names = ("Person", "car", "tree", "dog", "bus stop")
    rows = ClassRows({"fc.weight": (ClassDim(),)}, names, ("dog", "person", "car"))
    wanted, content = {"fc.weight": torch.zeros(5, 2)}, {"fc.weight": torch.ones(3, 2)}
    report, tensors = match_weights(wanted, content, "some.pth", classes=rows)
    report.raise_if_incomplete()
    assert tensors["fc.weight"].sum(1).tolist() == [2, 2, 0, 2, 0]
    text = "3 of 5 classes start from their rows: Person, car, dog; 2 are new: tree, bus stop, in fc.weight"
    assert text in str(report)


def test_another_number_of_channels_is_still_an_error():
    rows = ClassRows({"fc.weight": (ClassDim(),)}, NEW, OLD)
    report, _ = match_weights({"fc.weight": torch.zeros(4, 2)}, {"fc.weight": torch.ones(3, 7)}, "x", classes=rows)
    assert report.mismatched == ("fc.weight (file (3, 7), model (4, 2))",)
    report, _ = match_weights({"fc.weight": torch.zeros(4, 2)}, {}, "x", classes=rows)
    assert report.missing == ("fc.weight",)


def test_a_file_without_class_names_gives_rows_only_if_the_number_of_classes_is_equal():
    assert fill(ClassDim(), torch.ones(4), torch.zeros(4), names_in_file=None)[0].tolist() == [1, 1, 1, 1]
    filled, rows = fill(ClassDim(), torch.ones(3), torch.zeros(4), names_in_file=None)
    assert filled is None
    assert str(rows) == "new because the numbers of classes differ: w"


def test_a_file_with_another_number_of_names_than_rows_gives_no_rows():
    assert fill(ClassDim(), torch.ones(7), torch.zeros(4))[0] is None


def test_the_kind_of_layer_determines_the_order_of_entries():
    # Shapes for 3 and 4 classes, as mmdet's heads have them: RetinaNet with 9 anchors, SSD's softmax with 6, Fast
    # R-CNN, YOLOv3 with 3 anchors and 5 values before the classes, PointRend's layer that reads 256 features and scores
    some = {
        "retina.weight": (27, 256, 3, 3), "retina.bias": (27,),
        "ssd.weight": (24, 512, 3, 3),
        "fc_cls.weight": (4, 1024), "fc_cls.bias": (4,),
        "fc_reg.weight": (12, 1024), "fc_reg.bias": (12,),
        "yolo.weight": (24, 8, 1, 1),
        "point.weight": (256, 259, 1),
        "neck.weight": (256, 256, 1, 1),
        "both.weight": (3, 5),
        "odd.weight": (7, 3),
    }  # fmt: skip
    one_more = some | {
        "retina.weight": (36, 256, 3, 3), "retina.bias": (36,),
        "ssd.weight": (30, 512, 3, 3),
        "fc_cls.weight": (5, 1024), "fc_cls.bias": (5,),
        "fc_reg.weight": (16, 1024), "fc_reg.bias": (16,),
        "yolo.weight": (27, 8, 1, 1),
        "point.weight": (256, 260, 1),
        "both.weight": (4, 6),
        "odd.weight": (9, 3),
    }  # fmt: skip
    assert measure_class_dims(some, one_more, 3) == {
        "retina.weight": (ClassDim(groups=9),), "retina.bias": (ClassDim(groups=9),),
        "ssd.weight": (ClassDim(groups=6, after=1),),
        "fc_cls.weight": (ClassDim(after=1),), "fc_cls.bias": (ClassDim(after=1),),
        "fc_reg.weight": (ClassDim(width=4),), "fc_reg.bias": (ClassDim(width=4),),
        "yolo.weight": (ClassDim(groups=3, before=5),),
        "point.weight": (ClassDim(1, before=256),),
        "both.weight": (ClassDim(0), ClassDim(1, before=2)),
        "odd.weight": (),
    }  # fmt: skip


def test_class_names_are_found_where_mm_packages_store_them():
    assert read_class_names(dict(meta=dict(dataset_meta=dict(classes=["a", "b"])))) == ("a", "b")
    assert read_class_names(dict(meta=dict(CLASSES="one"))) == ("one",)
    assert read_class_names(dict(meta=dict(epoch=1))) is read_class_names({}) is None
