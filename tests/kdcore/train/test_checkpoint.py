"""Checkpoints: atomic, verified, and the one before is used when the newest is damaged."""

from pathlib import Path

import pytest
import torch
from torch import nn

from faults.small_disk import MIB, small_disk
from kdcore.errors import CheckpointError, DiskFull
from kdcore.train.checkpoint import KEEP, Checkpointer


def save(checkpointer: Checkpointer, step: int) -> tuple[nn.Linear, Path]:
    torch.manual_seed(step)
    model = nn.Linear(3, 2)
    moments = {"weight/exp_avg": torch.randn(2, 3), "weight/step": torch.tensor(float(step))}
    return model, checkpointer.save(step, model, moments, {"totals": {"loss": 0.1 + 0.2}})


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    model, _ = save(checkpointer, 7)
    loaded, refused = checkpointer.load_newest()
    assert loaded is not None
    assert refused == []
    assert loaded.step == 7
    assert torch.equal(loaded.model["weight"], model.weight)
    assert loaded.optimiser["weight/step"].item() == 7.0
    assert loaded.state["totals"]["loss"] == 0.1 + 0.2


def test_keeps_the_last_ones_only(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    for step in range(1, 7):
        save(checkpointer, step)
    assert checkpointer.steps() == [6, 5, 4]
    assert len(checkpointer.steps()) == KEEP


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors", "state.json"])
def test_a_flipped_bit_falls_back_to_the_one_before(tmp_path: Path, name: str) -> None:
    checkpointer = Checkpointer(tmp_path)
    save(checkpointer, 1)
    _, newest = save(checkpointer, 2)
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / name).write_bytes(content)
    loaded, refused = checkpointer.load_newest()
    assert loaded is not None
    assert loaded.step == 1
    assert len(refused) == 1
    assert name in refused[0]


def damage(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def test_damaged_ones_do_not_crowd_out_the_good_ones(tmp_path: Path) -> None:
    """All that is there is damaged, so training restarts: what it saves must stay."""
    checkpointer = Checkpointer(tmp_path)
    for step in range(10, 10 + KEEP):
        damage(save(checkpointer, step)[1])
    for step in (1, 2):
        save(checkpointer, step)
        loaded, refused = checkpointer.load_newest()
        assert loaded is not None
        assert loaded.step == step
        assert refused == []


def test_a_sound_one_of_the_same_step_is_left_alone_and_a_damaged_one_replaced(
    tmp_path: Path,
) -> None:
    checkpointer = Checkpointer(tmp_path)
    _, folder = save(checkpointer, 3)
    before = folder.stat().st_ino
    save(checkpointer, 3)
    assert folder.stat().st_ino == before
    damage(folder)
    save(checkpointer, 3)
    loaded, refused = checkpointer.load_newest()
    assert loaded is not None
    assert refused == []
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("missing", ["manifest.json", "model.safetensors"])
def test_a_missing_file_falls_back(tmp_path: Path, missing: str) -> None:
    checkpointer = Checkpointer(tmp_path)
    save(checkpointer, 1)
    _, newest = save(checkpointer, 2)
    (newest / missing).unlink()
    loaded, refused = checkpointer.load_newest()
    assert loaded is not None
    assert loaded.step == 1
    assert len(refused) == 1


def test_nothing_to_load(tmp_path: Path) -> None:
    assert Checkpointer(tmp_path / "none").load_newest() == (None, [])
    with pytest.raises(CheckpointError):
        Checkpointer(tmp_path).load(3)


@pytest.mark.integration
def test_disk_full_keeps_the_last_good_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MIB) as disk:
        checkpointer = Checkpointer(disk.folder)
        save(checkpointer, 1)
        for leave_bytes in (0, 4096, 8192, 12288):
            disk.fill(leave_bytes)
            with pytest.raises(DiskFull, match=r"[1-9][0-9,]* bytes were needed"):
                save(checkpointer, 2)
            disk.clear()
            assert checkpointer.steps() == [1]
            assert checkpointer.load_newest()[1] == []
            assert not list(disk.folder.glob(".tmp-*"))
        save(checkpointer, 2)
