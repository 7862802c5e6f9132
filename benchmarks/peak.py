"""Measures the machine's GEMM peak; prints the machine's facts as one line of JSON."""

import argparse
import json
import sys
from typing import Any

import torch

from benchmarks.machine import facts, gemm_gflops, matmul_setting, matmul_settings
from kdcore.device import pick_precision

_SIZES = ((2048, 2048, 2048), (4096, 3072, 768), (1024, 16_384, 768))
_SMALL_SIZES = ((256, 256, 256),)


def measure(device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Facts of the machine, and the best rate of a few products per arithmetic, in 10^9/s."""
    sizes = _SMALL_SIZES if quick else _SIZES
    for_s = 0.1 if quick else 1.0
    # kdcore's own question: has the hardware instructions for bf16, and do they pay?
    known = facts(device) | {"bf16_hardware": pick_precision("auto", device) == "bf16"}
    rates = []
    for setting in matmul_settings() if device.type == "cpu" else ["none"]:
        with matmul_setting(setting):
            rates += [gemm_gflops(size, torch.float32, device, for_s) for size in sizes]
    known["gemm_peak_gflops_fp32"] = max(rates)
    known["gemm_peak_gflops_bf16"] = (
        max(gemm_gflops(size, torch.bfloat16, device, for_s) for size in sizes)
        if known["bf16_hardware"]
        else None
    )
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="small products, for tests")
    options = parser.parse_args()
    json.dump(measure(torch.device(options.device), quick=options.quick), sys.stdout)


if __name__ == "__main__":
    main()
