"""The benchmark runs from end to end and says what it must; never how long anything took."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.driver import SITE
from tests.fixtures.missing import skip_or_fail

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
COMMAND = "-m benchmarks.bench --shape tiny --rounds 1 --only teacher parity"
RATIOS = ("teacher_speedup_fp32", "teacher_speedup_fp32_tuned", "teacher_memory_ratio")
BF16_RATIOS = ("teacher_speedup", "teacher_speedup_tuned")


@pytest.mark.timeout(180)
def test_the_benchmark_compares_equal_work() -> None:
    if not SITE.is_dir():
        skip_or_fail("the reference's package is missing: run `make setup-bench`")
    done = subprocess.run(
        [sys.executable, *COMMAND.split()],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    for name in RATIOS:
        assert figures[name] > 0, name
    for name in BF16_RATIOS:
        assert figures[name] is None or figures[name] > 0, name
    if figures["teacher_speedup"] is None:
        assert figures["bf16_speedups_missing"]
    for goal in ("teacher", "distill"):
        for kind in ("loss_difference", "gradient_difference", "gradient_difference_global"):
            assert figures[f"{goal}_{kind}_fp32"] < 1e-4, (goal, kind)
    assert figures["machine"]["gemm_peak_gflops_fp32"] > 0
    assert "teacher" in done.stdout
    assert "kdcore-fp32" in done.stdout
