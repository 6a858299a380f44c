"""The user's own clips in folders and lists, by the code that reads pictures."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from PIL import Image
from torchvision.transforms import PILToTensor

from everclip.commands import parts
from everclip.config.identity import digest
from everclip.data.images import FileImages
from everclip.data.sequences.folder import folder
from everclip.data.sequences.manifest import manifest
from everclip.data.video.form import Clips
from everclip.data.video.sampling import Segment
from everclip.errors import DataError
from tests.conftest import run_words
from tests.data.video.conftest import Write, bars

CLIPS = Clips(Segment(3), views=2)


@pytest.fixture
def videos(write: Write, tmp_path: Path) -> Path:
    """Three files and a folder of frames per class."""
    for label, name in enumerate(("jump", "wave")):
        for number in range(3):
            write(f"videos/{name}/{number}.{('mp4', 'mkv', 'webm')[number]}", bars(4 + 3 * label + number),
                  **({"codec": "libvpx", "options": {}} if number == 2 else {}))  # fmt: skip
        (tmp_path / "videos" / name / "frames").mkdir()
        for number, frame in enumerate(bars(5 + label)):
            Image.fromarray(frame).save(tmp_path / "videos" / name / "frames" / f"{number}.png")
    return tmp_path / "videos"


def test_folders_become_a_sequence(videos: Path) -> None:
    sequence = folder(root=str(videos), base_classes=1, way=1, clips=CLIPS)
    train, test = sequence.sessions[0].train, sequence.tasks[0].samples
    assert (len(train), len(test)) == (3, 1)
    assert (train.num_frames, train.drawn) == (3, True)
    assert train.read([0, 1], PILToTensor()).images.shape == (2, 3, 3, 32, 32)
    assert test.read([0], PILToTensor()).images.shape == (1, 2, 3, 3, 32, 32)  # two views
    moved = shutil.copytree(videos, videos.parent / "moved")
    assert folder(root=str(moved), base_classes=1, way=1, clips=CLIPS).fingerprint() == sequence.fingerprint()
    fewer = Clips(Segment(2), views=2)
    assert folder(root=str(videos), base_classes=1, way=1, clips=fewer).fingerprint() != sequence.fingerprint()


def test_mistakes_are_told(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(videos / "jump" / "0.mp4", videos / "wave" / "again.mp4")
    (videos / "wave" / "broken.mp4").write_bytes(b"nothing")
    (videos / "wave" / "notes.txt").write_text("no clip")
    frame = videos / "jump" / "frames" / "2.png"
    frame.write_bytes(frame.read_bytes()[:45])
    folder(root=str(videos), clips=CLIPS, broken="leave_out")
    assert f"left out 2 damaged clips: {frame} cannot be read as a picture" in caplog.text
    assert "broken.mp4 cannot be read as a video: Invalid data" in caplog.text
    assert "clips are of another class than the same clip elsewhere" in caplog.text
    assert "1 entries are no clips and left out" in caplog.text
    (videos / "wave" / "broken.mp4").unlink()
    frame.unlink()
    (videos / "none").mkdir()
    (videos / "list.csv").write_text("path,label,split\njump/0.mp4,a,train\njump/1.mkv,a,test\nnone,b,train\n")
    with pytest.raises(DataError, match="none cannot be read as a video: it has no frames"):
        manifest(file=str(videos / "list.csv"), clips=CLIPS)
    with pytest.raises(DataError, match=r"list\.csv: label 'b' has damaged files alone"):
        manifest(file=str(videos / "list.csv"), clips=CLIPS, broken="leave_out")
    (videos / "none").rmdir()
    (videos / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no clips \(\.mp4, "):
        folder(root=str(videos), clips=CLIPS)


def test_a_list_names_files_and_folders_of_frames(videos: Path) -> None:
    lines = [f"{name}/{clip},{name},{split}" for name in ("jump", "wave")
             for clip, split in (("0.mp4", "train"), ("frames", "train"), ("1.mkv", "test"))]  # fmt: skip
    (videos / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    sequence = manifest(file=str(videos / "list.csv"), clips=CLIPS)
    train, test = sequence.sessions[0].train, sequence.tasks[0].samples
    assert isinstance(train, FileImages)
    assert [path.name for path in train.paths] == ["0.mp4", "frames"] * 2
    assert (train.form, len(test)) == (CLIPS.trained, 2)
    with pytest.raises(DataError, match="frames is not there"):
        manifest(file=str(videos / "list.csv"))


def test_the_command_trains_on_clips(
    videos: Path, compose: Callable[..., DictConfig], tmp_path: Path, cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("sequence=video_folder", f"sequence.root={videos}", "sequence.way=1", "sequence.base_classes=1",
             "sequence/clips=dense", "sequence.clips.sampling.frames=2", "sequence.clips.sampling.stride=2",
             "sequence.clips.views=2")  # fmt: skip
    assert digest(compose(*words)) == digest(compose(*words, "data.video.cache=disk", "data.video.backend=pyav"))
    assert digest(compose(*words)) != digest(compose(*words, "sequence.clips.sampling.stride=3"))
    caplog.set_level(logging.INFO)
    sequence, *_ = parts.make_parts(compose(*words, "check=true", "method=ncm"), load=False)
    assert sequence.name == "folder_videos"
    short = ("trainer=cpu", "logger=none", "method=ncm", "data.video.cache=disk")
    folder = run_words(tmp_path / "a" / "run", cache_dir, *words, *short)
    assert folder.read_sessions()[0]["accuracy"] == 100  # one class
    assert len(list((cache_dir / "videos").rglob("*.npy"))) == 6
