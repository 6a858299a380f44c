"""Videos of every kind, frame by frame; what cannot be read is said in one line."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.data.video.reading import Backend, open_video
from everclip.errors import DataError, MissingError
from tests.data.video.conftest import Frames, Write, bars, numbers

KINDS = {
    "a.mp4": {},
    "b.mp4": {"options": {"bf": "2", "g": "4", "crf": "10"}},
    "c.avi": {"codec": "mpeg4", "options": {"bf": "2", "qscale": "2"}},
    "d.webm": {"codec": "libvpx", "options": {"crf": "4", "b:v": "1M", "deadline": "realtime"}},
    "e.mkv": {"options": {"bf": "3", "g": "5", "crf": "10"}},
    "f.ts": {"options": {"bf": "2", "g": "6", "crf": "10"}},
}  # fmt: skip


def read(path: Path, wanted: list[int] | None = None, backend: Backend = "pyav") -> Frames:
    with open_video(path, backend) as video:
        return np.stack([np.asarray(f) for f in video.frames(list(range(len(video))) if wanted is None else wanted)])


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_found_by_number(name: str, write: Write) -> None:
    path = write(name, **KINDS[name])
    whole = read(path)
    assert numbers(whole) == list(range(12))
    assert np.abs(whole.astype(int) - bars()).mean() < 4
    for wanted in ([11], [0, 5, 11], [3, 4, 7], [2, 9]):
        assert np.array_equal(read(path, wanted), whole[wanted])


@pytest.mark.parametrize("name", ["a.mp4", "b.mp4", "d.webm", "e.mkv"])
def test_backends_give_the_same_frames(name: str, write: Write) -> None:
    pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError, OSError))
    path = write(name, **KINDS[name])
    ours, theirs = read(path), read(path, backend="torchcodec")
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 2
    assert np.abs(read(path, [3, 10]).astype(int) - read(path, [3, 10], "torchcodec")).max() <= 2


def test_times_of_a_variable_rate(write: Write) -> None:
    path = write("a.mp4", bars(5), times=np.array([0, 1, 2, 10, 11]), options={"bf": "0"})
    with open_video(path) as video:
        assert video.index.times == pytest.approx([0, 0.125, 0.25, 1.25, 1.375], abs=1e-3)


def test_folders_of_frames_and_animations(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    pictures = [Image.fromarray(frame) for frame in bars()]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "clip" / f"img_{number + 1}.png")
    (tmp_path / "clip" / "notes.txt").write_text("no frame")
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=250)
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=250, lossless=True)
    assert np.array_equal(read(tmp_path / "clip"), bars())
    assert np.array_equal(read(tmp_path / "a.webp", [1, 7]), bars()[[1, 7]])
    assert numbers(read(tmp_path / "a.gif")) == list(range(12))
    with open_video(tmp_path / "a.gif") as video:
        assert video.index.times.tolist() == [number / 4 for number in range(12)]


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The mp4 with a display matrix as telephones write it."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 20] = struct.pack(">5i", a, b, 0, c, d)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "quarters"),
    [
        pytest.param((0, 1, -1, 0), -1, id="clockwise"),
        pytest.param((0, -1, 1, 0), 1, id="counterclockwise"),
        pytest.param((-1, 0, 0, -1), 2, id="upside-down"),
    ],
)
def test_rotated_files_are_shown_upright(matrix: tuple[int, int, int, int], quarters: int, write: Write) -> None:
    frames = np.concatenate([bars(4), bars(4)], axis=2)
    plain = read(write("a.mp4", frames))
    shown = read(turned(write("b.mp4", frames), matrix))
    assert np.array_equal(shown, np.rot90(plain, quarters, axes=(1, 2)))


def test_one_frame_is_a_video(write: Write) -> None:
    assert read(write("a.mp4", bars(1))).shape == (1, 32, 32, 3)


def cut_off(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def test_of_a_truncated_file_what_is_there_is_shown(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    path = write("a.avi", noise, codec="mpeg4", options={"g": "3"})
    whole = read(path)
    some = read(cut_off(path, 0.85))
    assert 3 <= len(some) <= 11
    assert np.array_equal(some[: len(some) - 1], whole[: len(some) - 1])
    assert f"a.avi: {len(some)} of 12 frames are there; the file is cut off" in caplog.text
    path = write("a.mkv", noise, options={"g": "3"})  # says how long it is, not how many frames it has
    whole = read(path)
    caplog.clear()
    some = read(cut_off(path, 0.5))
    assert 3 <= len(some) <= 9
    assert np.array_equal(some[: len(some) - 1], whole[: len(some) - 1])
    (told,) = caplog.messages
    assert re.fullmatch(rf"{path}: 0\.[2-9] of 1\.5 s are there; the file may be cut off", told)


def test_sound_beside_the_pictures_is_no_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    av = pytest.importorskip("av")
    for name in ("a.mkv", "late.mkv", "a.flv"):
        with av.open(str(tmp_path / name), "w") as container:
            pictures = container.add_stream("flv" if name == "a.flv" else "mpeg4", rate=8)
            pictures.width = pictures.height = 32
            sound = container.add_stream("mp3", rate=44100)
            for number in range(8):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
                frame.pts = number + (16 if name == "late.mkv" else 0)
                container.mux(pictures.encode(frame))
            for number in range(80):  # of 2 s
                heard = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16p", layout="mono")
                heard.rate, heard.pts = 44100, 1152 * number
                container.mux(sound.encode(heard))
            for stream in (pictures, sound):
                container.mux(stream.encode(None))
        assert len(read(tmp_path / name)) == 8
    assert caplog.messages == []


def audio_only(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


BROKEN = {
    "empty.mp4": (lambda path: path.write_bytes(b""), "Invalid data"),
    "text.mp4": (lambda path: path.write_text("no video at all" * 50), "Invalid data"),
    "playlist.mp4": (lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"), ""),
    "sound.m4v": (audio_only, "it has no pictures, only audio"),
    "gone.mp4": (lambda path: None, "No such file"),
    "empty.gif": (lambda path: path.write_bytes(b"GIF89a"), ""),
    "frames": (lambda path: path.mkdir(), "it has no frames"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_video_is_said_in_one_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, reason = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} cannot be read as a video: .*{reason}") as raised:
        read(tmp_path / name)
    assert str(raised.value).count("\n") == 0
    assert capfd.readouterr().err == ""


def test_a_file_without_its_table_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"a\.mp4 cannot be read as a video: "):
        read(cut_off(write("a.mp4"), 0.7))  # the table of an mp4 comes last


def test_a_damaged_frame_is_named(write: Write) -> None:
    path = write("a.mp4", options={"g": "1", "bf": "0"})
    whole = path.read_bytes()
    with open_video(path) as video:
        index = video.index
    start = whole.index(b"mdat") + 4
    path.write_bytes(whole[:start] + bytes(len(whole) // 4) + whole[start + len(whole) // 4 :])
    with open_video(path, known=index) as video:
        with pytest.raises(DataError, match=r"a\.mp4: frame 0 of 12 is damaged and cannot be decoded"):
            next(video.frames([0]))
        assert numbers(np.stack([np.asarray(frame) for frame in video.frames([11])])) == [11]


def test_without_a_decoder_the_remedy_is_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.mp4")
    for name in ("av", "torchcodec"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "everclip.data.video.with_pyav", raising=False)
    with pytest.raises(MissingError, match=r"videos need a decoder: pip install 'everclip\[video\]'"), open_video(path):
        pass


def test_what_is_written_twice_is_the_same(write: Write) -> None:
    """Fingerprints name the sizes of files: clips that are drawn again must be those of before."""
    assert len({write("a.mp4").read_bytes() for _ in range(64)}) == 1
