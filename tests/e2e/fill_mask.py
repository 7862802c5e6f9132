"""Loads a checkpoint in a fresh process that has transformers, and no code of ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

CODE = """
import json, sys
from transformers import AutoModelForMaskedLM, pipeline
AutoModelForMaskedLM.from_pretrained(sys.argv[1])
fill = pipeline("fill-mask", sys.argv[1])
assert not [name for name in sys.modules if name.split(".")[0] in ("app", "kdcore", "worker")]
guesses = fill(f"the city is the capital of {fill.tokenizer.mask_token} .")
print(json.dumps([guess["token_str"] for guess in guesses]))
"""


def guesses(folder: Path) -> list[str]:
    """What the checkpoint's model puts into a gap; -I keeps our own code out of reach."""
    finished = subprocess.run(
        [sys.executable, "-I", "-c", CODE, str(folder)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    found: list[str] = json.loads(finished.stdout.splitlines()[-1])
    return found
