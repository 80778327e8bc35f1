"""Stand-ins for the operators of mmcv's compiled module that are not implemented here.

Source: the ``load_ext('_ext', [...])`` calls of https://github.com/open-mmlab/mmcv/tree/v2.1.0/mmcv/ops and, for
``line_nms_forward``, of the fork onedl-mmcv 2.3.6.
"""

from collections.abc import Callable
from importlib.metadata import packages_distributions
from typing import Any, NoReturn

from convnext_dense.errors import UserError

_UNSERVED_NAMES = """
    active_rotated_filter_backward active_rotated_filter_forward assign_score_withk_backward
    assign_score_withk_forward ball_query_forward bezier_align_backward bezier_align_forward bias_act
    box_iou_quadri box_iou_rotated chamfer_distance_backward chamfer_distance_forward contour_expand
    convex_giou convex_iou correlation_backward correlation_forward diff_iou_rotated_sort_vertices_forward
    dynamic_point_to_voxel_backward dynamic_point_to_voxel_forward dynamic_voxelize_forward filtered_lrelu
    filtered_lrelu_act_ furthest_point_sampling_forward furthest_point_sampling_with_dist_forward
    fused_bias_leakyrelu fused_indice_conv_forward gather_points_backward gather_points_forward
    get_indice_pairs_2d_backward get_indice_pairs_2d_forward get_indice_pairs_3d_backward
    get_indice_pairs_3d_forward get_indice_pairs_4d_forward group_points_backward group_points_forward
    hard_voxelize_forward indice_conv_backward indice_conv_forward indice_maxpool_backward
    indice_maxpool_forward iou3d_boxes_overlap_bev_forward iou3d_nms3d_forward iou3d_nms3d_normal_forward
    knn_forward line_nms_forward min_area_polygons nms_quadri nms_rotated pixel_group
    points_in_boxes_all_forward points_in_boxes_cpu_forward points_in_boxes_part_forward
    points_in_polygons_forward riroi_align_rotated_backward riroi_align_rotated_forward
    roi_align_rotated_backward roi_align_rotated_forward roiaware_pool3d_backward roiaware_pool3d_forward
    roipoint_pool3d_forward rotated_feature_align_backward rotated_feature_align_forward
    stack_ball_query_forward stack_group_points_backward stack_group_points_forward sync_bn_backward_data
    sync_bn_backward_param sync_bn_forward_mean sync_bn_forward_output sync_bn_forward_var
    three_interpolate_backward three_interpolate_forward three_nn_forward tin_shift_backward tin_shift_forward
    upfirdn2d
"""


class NotServedError(UserError, NotImplementedError):
    """The operator exists only in a compiled mmcv."""


def _stand_in(name: str) -> Callable[..., NoReturn]:
    def unserved_operator(*args: Any, **kwargs: Any) -> NoReturn:
        installed = packages_distributions().get("mmcv", ["mmcv-lite"])[0]  # or a fork's name
        compiled = installed.removesuffix("-lite")
        raise NotServedError(
            f"mmcv's operator {name!r} is not among those that convnext_dense implements with torchvision and torch: "
            f"replace {installed} by {compiled} with compiled operators "
            f"(`MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-build-isolation {compiled}`)"
        )

    unserved_operator.__name__ = unserved_operator.__qualname__ = name
    return unserved_operator


def _compiler_version() -> str:
    return "not compiled"


def _compiling_cuda_version() -> str:
    # This is what mmcv returns in a build without CUDA.
    return "not available"


OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _stand_in(name) for name in _UNSERVED_NAMES.split()},
    # mmcv's environment report calls these and must not fail.
    "get_compiler_version": _compiler_version,
    "get_compiling_cuda_version": _compiling_cuda_version,
}
