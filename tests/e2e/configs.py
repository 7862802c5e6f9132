"""Configs small enough to train in seconds, on real text."""

from typing import Any


def tiny_pipeline(teacher_steps: int = 60) -> dict[str, Any]:
    """Teacher, prune and distil on the offline sample: 2 layers of 32 become 1."""
    evaluation = {"max_sequences": 32, "every_steps": 20}
    reporting = {"log_every_steps": 2}
    return {
        "teacher": {
            "layer_drop": 0.1,
            "model": {
                "source": "scratch",
                "layers": 2,
                "hidden_size": 32,
                "heads": 2,
                "intermediate_size": 64,
                "max_positions": 64,
            },
            "tokenizer": {"source": "wordpiece", "vocab_size": 1000},
            "seq_len": 64,
            "schedule": {"max_steps": teacher_steps, "batch_size": 8},
            "optimiser": {"learning_rate": 0.002},
            "evaluation": evaluation,
            "reporting": reporting,
        },
        "distill": {
            "lines": {"max_tokens": 64},
            "schedule": {"max_steps": 40, "batch_size": 8},
            "optimiser": {"learning_rate": 0.002},
            "evaluation": evaluation,
            "reporting": reporting,
        },
    }
