"""GIFs hold the pictures that a run has drawn, in the order of its epochs."""

from pathlib import Path

import pytest
from PIL import Image

from regx.analysis.figures import animation
from regx.analysis.figures.animation import animate
from regx.errors import RunFailed, UserError


def drawn(run: Path, name: str, level: int) -> Path:
    path = run / "plots" / "status" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (8, 6), (level, level, level, 255)).save(path)
    return path


def levels(path: Path) -> list[int]:
    """The grey of every frame."""
    with Image.open(path) as gif:
        found = []
        for place in range(getattr(gif, "n_frames", 1)):
            gif.seek(place)
            assert gif.size == (8, 6)
            pixel = gif.convert("RGB").getpixel((3, 3))
            assert isinstance(pixel, tuple)
            found.append(round(pixel[0]))
        return found


def test_a_frame_per_picture_in_order_of_epochs(tmp_path: Path) -> None:
    for epoch, level in ((5, 10), (100000, 250), (20, 90)):
        drawn(tmp_path, f"train_unit_status_{epoch:05d}.png", level)
    drawn(tmp_path, "val_point_status_00005.png", 40)
    drawn(tmp_path, "other.png", 40)
    found = list(animate(tmp_path, tmp_path / "new" / "folder"))
    assert [path.name for path in found] == ["point-status-val.gif", "unit-status-train.gif"]
    assert [levels(path) for path in found] == [[40], [10, 90, 250]]
    with Image.open(found[1]) as gif:
        assert gif.info["loop"] == 0
        assert {path.name for path in found[1].parent.iterdir()} == {path.name for path in found}, (
            "nothing is left over"
        )


def test_of_many_pictures_some_are_taken_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "_MOST_FRAMES", 3)
    for epoch in range(1, 10):
        drawn(tmp_path, f"train_unit_status_{epoch:05d}.png", 20 * epoch)
    (path,) = animate(tmp_path, tmp_path)
    assert levels(path) == [20, 100, 180]


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pictures of its status in plots/status; train with --plot-status"):
        list(animate(tmp_path, tmp_path))
    path = drawn(tmp_path, "train_unit_status_00001.png", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="choose another --out"):
        list(animate(tmp_path, tmp_path / "file"))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(RunFailed, match=r"train_unit_status_00001.png is damaged"):
        list(animate(tmp_path, tmp_path))
