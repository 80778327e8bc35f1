"""Compiles the Triton kernels for sm_90 without a GPU, and prints what each is specialised on and what it spills.

The interpreter, in which the tests run the kernels, takes programs that a compiler refuses.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from convnext_dense.kernels import block_kernels, depthwise_triton, layer_norm_triton

PTXAS = Path(triton.backends.nvidia.__file__).parent / "bin" / "ptxas"
CHANNELS = 96
NORM = dict(channels=CHANNELS, rows_block=16, channels_block=128)
CONV = dict(channels=CHANNELS, kernel_size=int(sys.argv[1]), columns_block=8, channels_block=32)
PARAMETERS = dict(channels=CHANNELS, hidden=4 * CHANNELS, taps=int(sys.argv[1]) ** 2, has_gamma=True)
RESIDUAL = dict(has_scale=True, **NORM)
KERNELS = (
    (depthwise_triton._convolve_kernel, dict(flipped=False, has_bias=True, adds=False, copies=True, **CONV)),
    (depthwise_triton._convolve_kernel, dict(flipped=True, has_bias=False, adds=True, copies=False, **CONV)),
    (depthwise_triton._weight_grad_kernel, CONV),
    (layer_norm_triton._forward_kernel, dict(eps=1e-6, **NORM)),
    (layer_norm_triton._backward_kernel, dict(rebuilds=True, **NORM)),
    (block_kernels.add_kernel, RESIDUAL),
    (block_kernels.branch_grad_kernel, RESIDUAL),
    (block_kernels.narrow_kernel, dict(block=1024, **PARAMETERS)),
    (block_kernels.finish_kernel, dict(hidden_block=512, rows_block=64, columns_block=32, **PARAMETERS)),
    (block_kernels.gelu_grad_kernel, {**NORM, "channels": 4 * CHANNELS, "exact": False}),
)
FLOAT32 = (
    "added_ptr", "bias1_partial_ptr", "bias1_ptr", "bias2_partial_ptr", "bias2_ptr", "bias_ptr", "gamma_ptr",
    "mean_ptr", "norm_ptr", "partial_ptr", "rstd_ptr", "shortcut_ptr", "taps_ptr", "weight1_ptr", "weight2_grad_ptr",
    "weight2_ptr", "weight_ptr",
)  # fmt: skip


def compile_kernel(kernel: JITFunction, constants: dict) -> dict:
    """Compile a kernel for bfloat16 maps."""
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = "*fp32" if name in FLOAT32 else "*bf16" if name.endswith("_ptr") else "i32"
        if name.endswith("_ptr"):
            attributes[index,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assembled = subprocess.run(
        [PTXAS, "-v", "-arch=sm_90a", "-o", "/dev/null", "/dev/stdin"],
        input=compiled.asm["ptx"], capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    return {
        "kernel": f"{Path(kernel.fn.__code__.co_filename).stem}.{kernel.__name__}",
        "registers": int(re.search(r"Used (\d+) registers", assembled)[1]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", assembled))),
        "specialised": [
            param.name
            for param in kernel.params
            if not param.is_constexpr and not param.do_not_specialize and not param.name.endswith("_ptr")
        ],
    }


if __name__ == "__main__":
    print(json.dumps([compile_kernel(*kernel) for kernel in KERNELS]))
