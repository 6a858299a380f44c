"""Readers of videos on tiny copies in the publishers' layouts; what is in a file is no matter here."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image

from everclip.config.build import build
from everclip.data.datasets import (
    activitynet,
    clip_lists,
    hmdb51,
    kinetics400,
    msrvtt,
    msvd,
    qvhighlights,
    ssv2,
    ucf101_videos,
)
from everclip.data.datasets.ucf_layout import spoken
from everclip.data.sequences import grounding, orders
from everclip.data.sequences.single_session import base_to_novel
from everclip.data.video.form import Clips
from everclip.data.video.sampling import Even, Segment
from everclip.errors import ConfigError, DataError, MissingError
from tests.data.conftest import paths
from tests.data.datasets.replicas import put

CLIPS = Clips(Segment(4), views=2)
ACTIONS = ("ApplyEyeMakeup", "TaiChi", "YoYo")


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    """Three classes of four groups of two clips; the first two groups are for testing."""
    folder = tmp_path / "ucf101"
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(ACTIONS, start=1):
        for group in range(1, 5):
            for clip in (1, 2):
                file = f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
                put(folder / "UCF-101" / file, b"")
                lists["test" if group < 3 else "train"].append(file if group < 3 else f"{file} {label}")
    put(folder / "ucfTrainTestlist/classInd.txt", "".join(f"{i} {n}\r\n" for i, n in enumerate(ACTIONS, start=1)))
    for part, lines in lists.items():
        put(folder / f"ucfTrainTestlist/{part}list01.txt", "\n".join(lines) + "\n")
    return tmp_path


def test_ucf101(ucf: Path) -> None:
    data = ucf101_videos.load(root=str(ucf), clips=CLIPS)
    assert data.names == ("apply eye makeup", "tai chi", "yo yo")
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert paths(data.test)[:2] == ["v_ApplyEyeMakeup_g01_c01.avi", "v_ApplyEyeMakeup_g01_c02.avi"]
    groups = [{name.split("_c")[0] for name in paths(part)} for part in (data.train, data.test)]
    assert not groups[0] & groups[1]
    assert (data.train.form, data.test.form) == (CLIPS.trained, CLIPS)  # type: ignore[attr-defined]
    (ucf / "ucf101/UCF-101/YoYo/v_YoYo_g03_c01.avi").unlink()
    with pytest.raises(MissingError, match=r"v_YoYo_g03_c01\.avi is not there, but trainlist01\.txt names it"):
        ucf101_videos.load(root=str(ucf))


def test_tcds_orders() -> None:
    names = [str(number) for number in range(101)]
    assert orders.resolve("seed1000", names)[:12] == [37, 97, 56, 55, 33, 84, 3, 4, 72, 59, 66, 48]
    assert orders.resolve("seed1993", names)[:6] == [68, 56, 78, 8, 23, 84]
    assert orders.resolve("seed2021", names)[:6] == [90, 2, 46, 4, 78, 8]
    for seed in (1000, 1993, 2021):  # as TCD shuffles in place
        shuffled = np.arange(101)
        np.random.RandomState(seed).shuffle(shuffled)
        assert orders.resolve(f"seed{seed}", names) == shuffled.tolist()


def vclimb_lists() -> dict[str, list[dict[str, list[str]]]]:
    def of(group: int) -> list[dict[str, list[str]]]:
        return [{n: [f"v_{n}_g{group:02d}_c01"] for n in task} for task in (["YoYo"], ["TaiChi", "ApplyEyeMakeup"])]

    return {"train": of(3), "val": of(4), "test": of(1)}


def test_vclimbs_sessions_are_read_without_running_code(ucf: Path) -> None:
    put(ucf / "ucf101/UCF101_data.pkl", pickle.dumps(vclimb_lists(), protocol=2))
    data = ucf101_videos.load(root=str(ucf), split="vclimb10", clips=CLIPS)
    assert data.names == ("yo yo", "tai chi", "apply eye makeup")  # in the order of the sessions
    assert paths(data.train) == ["v_YoYo_g03_c01.avi", "v_TaiChi_g03_c01.avi", "v_ApplyEyeMakeup_g03_c01.avi"]
    assert data.val is not None
    assert (data.val.labels.tolist(), data.test.labels.tolist()) == ([0, 1, 2], [0, 1, 2])
    for content, reason in (
        (pickle.dumps(Path("x")), r"it asks for pathlib\."),
        (b"cos\nsystem\n(S'touch pwned'\ntR.", r"it asks for os\.system"),
        (b"no pickle", ""),
    ):
        put(ucf / "ucf101/UCF101_data.pkl", content)
        with pytest.raises(DataError, match=rf"UCF101_data\.pkl cannot be read as lists of clips: {reason}"):
            ucf101_videos.load(root=str(ucf), split="vclimb10")
    put(ucf / "ucf101/UCF101_data.pkl", pickle.dumps({"train": [["YoYo"]], "val": [], "test": []}))
    with pytest.raises(DataError, match="is no list of vCLIMB"):
        ucf101_videos.load(root=str(ucf), split="vclimb10")
    assert clip_lists.read_plain_pickle(_written(ucf / "plain.pkl", {"a": [1, "b", {2: (3.5, None)}]})) == {
        "a": [1, "b", {2: (3.5, None)}]
    }


def _written(path: Path, content: object) -> Path:
    put(path, pickle.dumps(content))
    return path


def test_vifis_base_and_novel_classes(ucf: Path) -> None:
    own = ucf / "ucf101/vifi_clip"
    put(own / "ucf_splits/fs_base_s1_train.txt", "v_TaiChi_g03_c01.avi 0\nv_YoYo_g03_c01.avi 1\n")
    put(own / "ucf_splits/base_val.txt", "v_YoYo_g01_c01.avi 1\nv_TaiChi_g01_c01.avi 0\n")
    put(own / "ucf_splits/novel_val.txt", "v_ApplyEyeMakeup_g01_c01.avi 0\n")
    put(own / "ucf_101_base_labels.csv", "id,name\n0,TaiChi\n1,YoYo\n")
    put(own / "ucf_101_novel_labels.csv", "id,name\n0,ApplyEyeMakeup\n")
    data = ucf101_videos.load(root=str(ucf), split="vifi1", clips=CLIPS)
    assert data.names == ("TaiChi", "YoYo", "ApplyEyeMakeup")
    sequence = base_to_novel(dataset=data, shots=None)
    assert sequence.sessions[0].new.names == ("TaiChi", "YoYo")
    assert sequence.sessions[0].train.labels.tolist() == [0, 1]
    assert [(task.name, task.samples.labels.tolist()) for task in sequence.tasks] == [("base", [1, 0]), ("novel", [2])]


def test_hmdb51(tmp_path: Path) -> None:
    for name in ("brush_hair", "catch"):
        lines = []
        for number, part in enumerate((1, 1, 2, 0)):
            file = f"a (b)_{name}_{number}.avi"
            put(tmp_path / "hmdb51/videos" / name / file, b"")
            lines.append(f"{file} {part} ")
        put(tmp_path / f"hmdb51/testTrainMulti_7030_splits/{name}_test_split1.txt", "\n".join(lines))
    data = hmdb51.load(root=str(tmp_path), clips=CLIPS)
    assert data.names == ("brush hair", "catch")
    assert paths(data.train)[:2] == ["a (b)_brush_hair_0.avi", "a (b)_brush_hair_1.avi"]
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 1, 1], [0, 1])


def test_ssv2(tmp_path: Path) -> None:
    folder = tmp_path / "ssv2"
    labels = {"Holding something": "1", "Moving something left": "0"}
    entries = [{"id": "7", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]},
               {"id": "9", "label": "moving a pen left", "template": "Moving [something] left"}]  # fmt: skip
    put(folder / "labels/labels.json", json.dumps(labels))
    put(folder / "labels/train.json", json.dumps(entries))
    put(folder / "labels/validation.json", json.dumps(entries[:1]))
    for number in (7, 9):
        put(folder / f"20bn-something-something-v2/{number}.webm", b"")
    data = ssv2.load(root=str(tmp_path), clips=CLIPS)
    assert data.names == ("moving something left", "holding something")
    assert list(zip(paths(data.train), data.train.labels.tolist(), strict=True)) == [("7.webm", 1), ("9.webm", 0)]
    assert paths(data.test) == ["7.webm"]


def test_kinetics400_without_the_clips_that_are_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "kinetics400"
    header = "label,youtube_id,time_start,time_end,split\n"
    put(
        folder / "annotations/train.csv",
        header + "yoga,-a_1,3,13,train\nabseiling,b,0,10,train\nyoga,gone,1,11,train\n",
    )
    put(folder / "annotations/val.csv", header + "yoga,c,20,30,val\n")
    for file in ("train/yoga/-a_1_000003_000013.mp4", "train/b_000000_000010.mp4", "val/c_000020_000030.mp4"):
        put(folder / file, b"")
    data = kinetics400.load(root=str(tmp_path), clips=CLIPS)
    assert data.names == ("abseiling", "yoga")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 0], [1])
    assert "1 of 3 clips of train.csv are not there and left out" in caplog.text
    put(folder / "annotations/val.csv", header)
    with pytest.raises(DataError, match=r"val\.csv lists no clips"):
        kinetics400.load(root=str(tmp_path), clips=CLIPS)


@pytest.mark.parametrize(("name", "words"), [("ApplyEyeMakeup", "apply eye makeup"), ("brush_hair", "brush hair")])
def test_names_in_words(name: str, words: str) -> None:
    assert spoken(name) == words


def test_sequences_over_videos(ucf: Path, compose: Callable[..., DictConfig]) -> None:
    def made(*words: str) -> object:
        return build("sequence", compose(f"paths.data={ucf}", *words).sequence)

    cil = made("sequence=video_cil_ucf101", "sequence.base_classes=1", "sequence.way=1")
    few = made("sequence=video_few_shot", "sequence.shots=2", "sequence.dataset.clips.sampling.frames=16")
    novel = made("sequence=video_base_to_novel", "sequence/clips@sequence.dataset.clips=dense", "sequence.shots=1")
    whole = made("sequence=video_zero_shot")
    order = orders.resolve("seed1000", ACTIONS)
    assert [s.new.ids for s in cil.sessions] == [(i,) for i in order]  # type: ignore[attr-defined]
    assert (few.sessions[0].train.num_frames, len(few.sessions[0].train)) == (16, 6)  # type: ignore[attr-defined]
    assert len(whole.sessions[0].train) == 12  # type: ignore[attr-defined]
    assert [len(task.samples) for task in novel.tasks] == [8, 4]  # type: ignore[attr-defined]


@pytest.fixture
def msrvtt_root(tmp_path: Path) -> Path:
    """Five clips with two captions each; of the last two one caption is for testing."""
    folder = tmp_path / "msrvtt"
    sentences = [{"video_id": f"video{i}", "caption": f"clip {i} told {k}"} for i in range(5) for k in (1, 2)]
    of = ("train", "train", "validate", "test", "test")
    videos = [{"video_id": f"video{i}", "split": split, "category": 0} for i, split in enumerate(of)]
    put(folder / "MSRVTT_data.json", json.dumps({"videos": videos, "sentences": sentences}))
    put(folder / "MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo1\nvideo2\n")
    table = "key,vid_key,video_id,sentence\r\nret0,msr4,video4,a test of four\r\nret1,msr3,video3,three\r\n"
    put(folder / "MSRVTT_JSFUSION_test.csv", table)
    put(folder / "MSRVTT_CL_validation.csv", table)
    for number in range(5):
        put(folder / f"videos/all/video{number}.mp4", b"")
    return tmp_path


def test_msrvtt(msrvtt_root: Path) -> None:
    data = msrvtt.load(root=str(msrvtt_root), clips=CLIPS.trained)
    assert paths(data.train.pictures) == ["video0.mp4", "video1.mp4", "video2.mp4"]
    assert data.train.texts[1] == ("clip 1 told 1", "clip 1 told 2")
    assert (paths(data.test.pictures), data.test.texts[0]) == (["video4.mp4", "video3.mp4"], ("a test of four",))
    assert data.train.num_frames == 4
    official = msrvtt.load(root=str(msrvtt_root), split="official", clips=CLIPS.trained)
    assert official.val is not None
    assert [len(part) for part in (official.train, official.val, official.test)] == [2, 1, 2]
    assert official.test.texts[0] == ("clip 3 told 1", "clip 3 told 2")
    with pytest.raises(ConfigError, match=r"clips\.views and clips\.crops average"):
        msrvtt.load(root=str(msrvtt_root), clips=CLIPS)
    (msrvtt_root / "msrvtt/videos/all/video1.mp4").unlink()
    with pytest.raises(DataError, match=r"MSRVTT_data\.json, caption 3: clip video1 is not below .*broken=leave_out"):
        msrvtt.load(root=str(msrvtt_root))
    assert len(msrvtt.load(root=str(msrvtt_root), broken="leave_out").train) == 2


def test_ctvrs_sessions_of_msrvtt(msrvtt_root: Path) -> None:
    lists = {"train": {1: {0: ["video1"]}, 2: {1: ["video0"]}}, "val": {1: {0: ["video3"]}, 2: {1: ["video4"]}}}
    put(msrvtt_root / "msrvtt/MSRVTT_10_dataset.pkl", pickle.dumps(lists))
    first, second = msrvtt.sessions(root=str(msrvtt_root), clips=CLIPS.trained)
    assert (paths(first.train.pictures), first.train.texts[0]) == (["video1.mp4"], ("clip 1 told 1", "clip 1 told 2"))
    assert (paths(second.test.pictures), second.test.texts) == (["video4.mp4"], (("a test of four",),))
    together = msrvtt.load(root=str(msrvtt_root), split="ctvr10", clips=CLIPS.trained)
    assert (paths(together.train.pictures), len(together.test)) == (["video1.mp4", "video0.mp4"], 2)
    put(msrvtt_root / "msrvtt/MSRVTT_10_dataset.pkl", pickle.dumps({"train": {1: {}}}))
    with pytest.raises(DataError, match="is no list of CTVR"):
        msrvtt.sessions(root=str(msrvtt_root))


def test_ctvrs_sessions_of_activitynet(tmp_path: Path, compose: Callable[..., DictConfig]) -> None:
    folder = tmp_path / "activitynet"
    sessions: dict[str, Any] = defaultdict(list)
    for part in ("train", "val"):
        sessions[part] = {1: {"Surfing": [f"v_{part}_a"]}, 2: {"Cricket": [f"v_{part}_b"]}}
    put(folder / "ACTNET_10_dataset.pkl", pickle.dumps(sessions))
    for part in ("train", "val"):
        said = {f"v_{part}_{key}": {"duration": 9.0, "timestamps": [[1, 2], [3, 4]], "sentences": [f" {key} 1.", "2"]}
                for key in "ab"}  # fmt: skip
        put(folder / f"{part}_queries.json", json.dumps(said))
        put(folder / f"clips/{part}/v_{part}_a_1.mp4", b"")
        put(folder / f"frames/{part}/v_{part}_b_1/frame_001.png", b"")
    put(folder / "clips/train/v_train_a_1/thumbnail.png", b"")  # files come first
    put(folder / "thumbnails/v_val_a_1/1.png", b"")
    first, second = activitynet.sessions(root=str(tmp_path), clips=CLIPS.trained)
    assert (paths(first.train.pictures), first.train.texts) == (["v_train_a_1.mp4"], (("a 1.",),))
    assert paths(first.test.pictures) == ["v_val_a_1.mp4"]
    assert (paths(second.test.pictures), second.test.texts) == (["v_val_b_1"], (("b 1.",),))
    assert len(activitynet.load(root=str(tmp_path), clips=CLIPS.trained).test) == 2
    sequence = build("sequence", compose("sequence=video_retrieval_activitynet_cil", f"paths.data={tmp_path}").sequence)
    assert [task.evaluator.keeps for task in sequence.tasks] == [True, True]
    put(folder / "val_queries.json", json.dumps({"v_val_a": {"sentences": []}}))
    with pytest.raises(DataError, match="has not the form of ActivityNet Captions"):
        activitynet.sessions(root=str(tmp_path))


def test_msvd(tmp_path: Path) -> None:
    folder = tmp_path / "msvd"
    put(folder / "raw-captions.pkl", pickle.dumps({f"clip{i}": [["a", "cat"], ["it", str(i)]] for i in range(3)}))
    for number, part in enumerate(("train", "val", "test")):
        put(folder / f"{part}_list.txt", f"clip{number}\n")
        put(folder / f"YouTubeClips/clip{number}.avi", b"")
    data = msvd.load(root=str(tmp_path), clips=CLIPS.trained)
    assert (paths(data.test.pictures), data.test.texts) == (["clip2.avi"], (("a cat", "it 2"),))
    assert data.train.texts == (("a cat", "it 0"),)
    put(folder / "raw-captions.pkl", pickle.dumps(["clip0"]))
    with pytest.raises(DataError, match="has not the form of MSVD"):
        msvd.load(root=str(tmp_path))


def test_qvhighlights(tmp_path: Path) -> None:
    folder = tmp_path / "qvhighlights"
    line = {
        "qid": 1, "query": " a cat ", "vid": "x_360.0_510.0", "duration": 8, "relevant_windows": [[2, 4], [6, 8]],
        "relevant_clip_ids": [1, 3], "saliency_scores": [[4, 2, 0], [3, 3, 3]],
    }  # fmt: skip
    other = {"qid": 2, "query": "a dog", "vid": "x_360.0_510.0", "duration": 8, "relevant_windows": [[0, 8]]}
    put(folder / "videos/x_360.0_510.0.mp4", b"")
    put(folder / "highlight_train_release.jsonl", f"{json.dumps(line)}\n{json.dumps(other)}\n")
    put(folder / "highlight_val_release.jsonl", json.dumps(line))
    clips = Clips(Even(4))
    data = qvhighlights.load(root=str(tmp_path), clips=clips)
    assert (data.train.texts, len(data.test)) == ((("a cat",), ("a dog",)), 1)
    assert data.train._moments.tolist() == [[[0.25, 0.5], [0.75, 1.0]], [[0.0, 1.0], [-1.0, -1.0]]]
    assert data.train._judged.tolist() == [[[0, 0, 0], [4, 2, 0], [0, 0, 0], [3, 3, 3]], [[4, 4, 4]] * 4]
    assert data.train.shown().tolist() == [0, 0]
    halves = qvhighlights.load(root=str(tmp_path), clips=Clips(Even(2)))
    assert halves.train._judged[0].tolist() == [[4, 2, 0], [3, 3, 3]]
    assert data.train.subset([1]).texts == (("a dog",),)
    assert data.train.subset([1]).fingerprint() != data.train.subset([0]).fingerprint()
    for wrong, said in (
        ({"relevant_windows": [[4, 2]]}, "must be parts of the 8 seconds"),
        ({"relevant_windows": []}, "has no moment"),
        ({"relevant_clip_ids": [1, 9]}, "has not the form of QVHighlights"),
        ({"relevant_clip_ids": [-1, 1]}, "has not the form of QVHighlights"),
        ({"duration": 0}, "has not the form of QVHighlights"),
        ({"duration": float("inf")}, "has not the form of QVHighlights"),
        ({"query": ""}, "has no text"),
    ):
        put(folder / "highlight_val_release.jsonl", json.dumps(line | wrong))
        with pytest.raises(DataError, match=rf"highlight_val_release\.jsonl, line 1.*{said}"):
            qvhighlights.load(root=str(tmp_path), clips=clips)


def test_ones_own_texts_of_moments(tmp_path: Path) -> None:
    line = {"qid": 1, "query": "a cat", "vid": "a", "duration": 8, "relevant_windows": [[2, 4]]}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    put(tmp_path / "train.jsonl", json.dumps(line))
    with pytest.raises(MissingError, match=r"test\.jsonl is not there; expected train\.jsonl and test\.jsonl in"):
        grounding.folder(root=str(tmp_path), clips=Clips(Even(4)))
    put(tmp_path / "test.jsonl", json.dumps(line))
    sequence = grounding.folder(root=str(tmp_path), clips=Clips(Even(4)), name="mine")
    assert (sequence.name, sequence.tasks[0].samples.texts) == ("grounding_mine", (("a cat",),))
    put(tmp_path / "b.gif", b"GIF89a")
    put(tmp_path / "train.jsonl", "\n".join(json.dumps(line | {"vid": clip}) for clip in "aba"))
    with pytest.raises(DataError, match=r"b\.gif cannot be read as a video: .*sequence\.broken=leave_out"):
        grounding.folder(root=str(tmp_path), clips=Clips(Even(4)))
    left = grounding.folder(root=str(tmp_path), clips=Clips(Even(4)), broken="leave_out")
    assert len(left.sessions[0].train) == 2
