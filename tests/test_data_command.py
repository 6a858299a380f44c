"""The command `everclip-data`, in this process and, for what it costs, in one of its own."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.commands import data as data_command
from everclip.data.datasets.spec import DataSpec, Download, keys, spec
from everclip.data.video.writing import write_video
from everclip.reporting.console import terminal
from tests.data.datasets import replicas
from tests.data.server import serve
from tests.data.test_retrieval import flickr30k

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command on a root in the temporary folder: exit code, output, errors."""
    monkeypatch.setattr(terminal, "_width", 500)

    def _command(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            data_command.main([*words, "--root", str(tmp_path)])
        assert isinstance(stop.value.code, int)
        return stop.value.code, *capsys.readouterr()

    return _command


def known_as(monkeypatch: pytest.MonkeyPatch, key: str, **changes: object) -> DataSpec:
    """Lets the command know other facts of a data set: a replica's."""
    changed = replace(spec(key), **changes)  # type: ignore[arg-type]  # of one test
    monkeypatch.setattr(data_command, "spec", lambda name: changed if name == key else spec(name))
    return changed


def test_status_of_everything_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time; from everclip.commands import data as c\n"
        "try: c.main(['status'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'hydra', 'scipy'} & set(sys.modules)\n"
        "assert time.process_time() < 2, time.process_time()\n"
    )
    replicas.mnist(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "EVERCLIP_DATA": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == keys()
    assert [line.split()[0] for line in lines if " there " in line] == ["mnist"]


def test_status_of_one_tells_what_is_expected(command: Command, tmp_path: Path) -> None:
    replicas.dtd(tmp_path)
    code, out, _ = command("status", "dtd")
    assert code == 0
    assert "there: mtil" in out
    assert f"there   {tmp_path}/dtd/images\n" in out
    assert f"missing {tmp_path}/dtd/split_zhou_DescribableTextures.json\n" in out
    assert "split coop: 47 classes, 2,820 train, 1,128 val, 1,692 test" in out
    assert "https://drive.google.com" in out
    assert "https://drive.google.com" not in command("status", "fgvc_aircraft")[1]


def test_an_unknown_name_gets_the_nearest(command: Command) -> None:
    code, _, err = command("prepare", "cifar-100")
    assert code == 2
    assert err.startswith("everclip-data: cifar-100 is no data set; there are: activitynet, caltech101, cifar10,")
    assert err.endswith("; did you mean cifar100?\n")
    assert command("verify", "mnist", "--split", "coop")[2].endswith("mnist has no split coop; it has: mtil\n")


def test_own_lists_are_looked_over_and_all_that_is_wrong_is_named(command: Command, tmp_path: Path) -> None:
    for part, shade in (("a", 9), ("b", 99)):
        (tmp_path / "photos" / part).mkdir(parents=True)
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / "photos" / part / "x.png")
    lines = ["x.png,a red ring,train", "y.png,gone,test", "x.png,,train", "x.png,a red ring,train"]
    (tmp_path / "photos/a/captions.csv").write_text("\n".join(["path,caption,split", *lines]))
    whole = tmp_path / "photos/b/captions.jsonl"
    whole.write_text('{"image": "x.png", "captions": ["a", "b"]}')
    assert command("verify", str(whole))[:2] == (0, f"{whole}: nothing wrong\n")
    code, out, _ = command("verify", str(tmp_path / "photos"))
    place, (first, second, third, last) = f"{tmp_path}/photos/a/captions.csv, line", out.splitlines()
    assert (code, last) == (2, f"{tmp_path}/photos: 3 wrong")
    assert first == f"{place} 3: {tmp_path}/photos/a/y.png is not there"
    assert second == f"{place} 4: x.png has an empty caption"
    assert third == f"{place} 5: x.png has the caption 'a red ring' already"
    (tmp_path / "photos/b/x.png").write_bytes(b"no picture")
    code, out, _ = command("verify", str(whole))
    assert (code, "photos/b/x.png cannot be read as a picture" in out) == (2, True)


def test_own_clips_with_captions_are_looked_over(command: Command, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, np.full((4, 16, 16, 3), len(name), np.uint8))
    place = tmp_path / "captions.csv"
    place.write_text("path,caption,split\na.mp4,a ring,train\nb.mp4,a star,test\n")
    code, out, _ = command("verify", str(place))
    assert (code, out.splitlines()[-1]) == (0, f"{place}: nothing wrong")
    (tmp_path / "b.mp4").write_bytes(b"no clip")
    code, out, _ = command("verify", str(place))
    assert (code, f"{tmp_path}/b.mp4 cannot be read as a video" in out) == (2, True)


def archive_of(folder: Path, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, name)
    return buffer.getvalue()


def test_prepare_downloads_checks_and_extracts(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas.cifar10(tmp_path / "publisher")
    content = archive_of(tmp_path / "publisher/cifar-10-batches-py", "cifar-10-batches-py")
    with serve() as served:
        served.files["cifar-10-python.tar.gz"] = content
        url = f"{served.url}/cifar-10-python.tar.gz"
        good = Download(url, "data_batch_1", md5=hashlib.md5(content).hexdigest())
        known_as(monkeypatch, "cifar10", downloads=(replace(good, md5="0" * 32),))
        code, _, err = command("prepare", "cifar10")
        assert (code, "published is 000" in err) == (2, True)
        assert not (tmp_path / "cifar-10-batches-py").exists()
        known_as(monkeypatch, "cifar10", downloads=(good,))
        code, out, err = command("prepare", "cifar10")
        assert (code, err) == (0, "")
        assert f"cifar10: there, in {tmp_path}/cifar-10-batches-py" in out
        assert command("prepare", "cifar10")[0] == 0
        assert len(served.requests) == 2
    assert list((tmp_path / ".downloads").iterdir()) == []
    assert (tmp_path / "cifar-10-batches-py/test_batch").is_file()


def test_prepare_opens_archives_in_archives_and_puts_lists(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas.caltech101(tmp_path / "publisher")
    (tmp_path / "outer").mkdir()
    pictures = archive_of(tmp_path / "publisher/caltech-101/101_ObjectCategories", "101_ObjectCategories")
    (tmp_path / "outer/101_ObjectCategories.tar.gz").write_bytes(pictures)
    with serve() as served:
        served.files["caltech-101.tgz"] = archive_of(tmp_path / "outer", "caltech-101")
        served.files["list.json"] = b"{}"
        inner = ("caltech-101/101_ObjectCategories.tar.gz",)
        downloads = (
            Download(f"{served.url}/caltech-101.tgz", "101_ObjectCategories", "caltech-101", inner=inner),
            Download(f"{served.url}/list.json", "list.json", "caltech-101"),
        )
        known_as(monkeypatch, "caltech101", downloads=downloads)
        code, out, _ = command("prepare", "caltech101")
    assert code == 2
    assert "split_zhou_Caltech101.json is missing" in out
    assert f"by hand, into {tmp_path}/caltech-101:\n    Get split_zhou_Caltech101.json (CoOp) from" in out
    assert (tmp_path / "caltech-101/list.json").read_bytes() == b"{}"
    assert not (tmp_path / "caltech-101/caltech-101/101_ObjectCategories.tar.gz").exists()
    assert command("prepare", "caltech101", "--split", "mtil")[0] == 0


@pytest.mark.parametrize("key", [key for key in keys() if not spec(key).downloads])
def test_what_cannot_be_downloaded_is_explained(key: str, command: Command) -> None:
    code, out, _ = command("prepare", key)
    assert code == 2
    assert "  by hand, into " in out
    assert key != "imagenet" or "Register at https://image-net.org" in out


def test_verify_counts_pictures_per_split_and_class(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas.dtd(tmp_path)
    code, out, _ = command("verify", "dtd")
    assert code == 2
    assert "dtd: split mtil: 2 classes, published are 47\n" in out
    assert "dtd: split mtil: 2 train pictures, published are 1,880\n" in out
    assert "dtd: split mtil: 1 test pictures of 'zigzagged' (class 1), published are 40\n" in out
    one = replace(spec("dtd").splits["mtil"], classes=2, counts={"train": 2, "test": 2}, per_class={"train": (1, 1)})
    known_as(monkeypatch, "dtd", splits={"mtil": one})
    code, out, _ = command("verify", "dtd")
    assert code == 0
    assert out.endswith("dtd: as published (split mtil); no checksums of its pictures are published\n")


def test_verify_compares_checksums(command: Command, tmp_path: Path) -> None:
    replicas.cifar10(tmp_path)
    code, out, _ = command("verify", "cifar10")
    assert code == 2
    found = hashlib.md5((tmp_path / "cifar-10-batches-py/test_batch").read_bytes()).hexdigest()
    assert f"test_batch has MD5 {found}, published is 40351d587109b95175f43aff81a1287e\n" in out


def test_verify_tells_another_order_of_arrays(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas.mnist(tmp_path)
    raw = tmp_path / "MNIST/raw"
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in raw.iterdir()}
    assert set(md5) == set(spec("mnist").md5)
    one = replace(spec("mnist").splits["mtil"], counts={"train": 3, "test": 2}, per_class={})
    known_as(monkeypatch, "mnist", splits={"mtil": one}, md5=md5)
    as_published = (0, "mnist: as published (split mtil)\n", "")
    assert command("verify", "mnist") == as_published
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    (raw / f"{labels.name}.gz").write_bytes(gzip.compress(labels.read_bytes(), 1))
    labels.unlink()
    assert command("verify", "mnist") == as_published  # however it is gzipped
    content = images.read_bytes()
    images.write_bytes(content[:16] + content[-784:] + content[16:-784])
    code, out, _ = command("verify", "mnist")
    assert (code, len(out.splitlines())) == (2, 1)
    assert out.startswith(f"mnist: {images} has MD5 ")


@pytest.mark.parametrize("key", ["cifar10", "cifar100", "mnist"])
def test_what_is_read_from_other_files_than_the_published_says_so(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert spec(key).identified
    getattr(replicas, key)(tmp_path)
    import_module(f"everclip.data.datasets.{key}").load(root=str(tmp_path))
    first, *others = spec(key).md5
    (said,) = caplog.messages
    assert said.startswith(f"{spec(key).title}: {spec(key).folder(tmp_path) / first} has MD5 ")
    assert f", and {len(others)} more such files; results may differ" in said


def test_verify_finds_what_is_cut_off_or_there_twice(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas.cub200(tmp_path)
    one = replace(spec("cub200").splits["official"], classes=2, counts={"train": 2, "test": 2}, per_class={})
    known_as(monkeypatch, "cub200", splits={"official": one})
    assert len(command("verify", "cub200")[1].splitlines()) == 1
    first, second = tmp_path / "CUB_200_2011/images/001.Black_footed_Albatross", "002.Laysan_Albatross"
    content = (first / "b.jpg").read_bytes()
    (first / "a.jpg").write_bytes(content + bytes(10))  # whole, with something after its end
    (first.parent / second / "a.jpg").write_bytes(content)
    code, out, _ = command("verify", "cub200")
    same = f"one is {first.parent / second}/a.jpg, the same as {first}/b.jpg"
    assert (code, out.splitlines()) == (
        0,
        [
            f"cub200: note: split official: 1 training pictures are there twice, byte for byte; {same}",
            "cub200: note: split official: 1 pictures are of another class than the same picture elsewhere, byte for "
            f"byte; {same}",
            "cub200: as published (split official); no checksums of its pictures are published",
        ],
    )
    Image.new("RGB", (40, 40)).save(first / "a.jpg", "PNG")
    assert command("verify", "cub200")[0] == 0
    for file, end in (("a.jpg", 30), ("b.jpg", 100)):
        (first / file).write_bytes((first / file).read_bytes()[:-end])
    (first.parent / second / "c d.jpg").write_text("<html>not found</html>")
    code, out, _ = command("verify", "cub200")
    assert (code, out.count(" cannot be read as a picture: "), len(out.splitlines())) == (2, 3, 3)


def test_pairs_are_counted_and_only_what_a_split_needs_is_fetched(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flickr30k(tmp_path)
    code, out, _ = command("verify", "flickr30k", "--split", "karpathy")
    assert code == 2
    assert "flickr30k: split karpathy: 11 train pictures, published are 29,000\n" in out
    assert "flickr30k: split karpathy: 55 train captions, published are 145,000\n" in out
    small = replace(spec("flickr30k").splits["karpathy"], counts={"train": 11}, captions={"train": 55, "test": 5})
    known_as(monkeypatch, "flickr30k", splits={**spec("flickr30k").splits, "karpathy": small})
    assert command("verify", "flickr30k", "--split", "karpathy")[:2] == (
        0, "flickr30k: as published (split karpathy); no checksums of its pictures are published\n",
    )  # fmt: skip
    assert "split kaggle: 0 train, 31,783 test, 158,915 test captions" in command("status", "flickr30k")[1]
    fetched: list[str] = []
    monkeypatch.setattr(data_command, "_fetch", lambda download, target: fetched.append(download.gives))
    monkeypatch.setattr(data_command, "extract", lambda archive, folder: archive.touch())
    (tmp_path / ".downloads").mkdir()
    assert command("prepare", "coco_captions", "--split", "karpathy")[0] == 2
    assert fetched == ["train2014", "val2014", "dataset_coco.json"]


def test_verify_deep_opens_every_picture(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replicas.cub200(tmp_path)
    one = replace(spec("cub200").splits["official"], classes=2, counts={"train": 2, "test": 2}, per_class={})
    known_as(monkeypatch, "cub200", splits={"official": one})
    assert command("verify", "cub200", "--deep")[0] == 0
    images = tmp_path / "CUB_200_2011/images"
    cut = images / "001.Black_footed_Albatross/a.jpg"
    content = cut.read_bytes()
    cut.write_bytes(content[:200] + content[300:])  # both ends are there
    (images / "002.Laysan_Albatross/c d.jpg").write_text("<html>not found</html>")
    assert str(cut) not in command("verify", "cub200")[1]
    code, out, _ = command("verify", "cub200", "--deep")
    assert code == 2
    assert f"cub200: {cut} cannot be read as a picture" in out
    assert "c d.jpg cannot be read as a picture" in out
    assert len(out.splitlines()) == 2


def test_verify_names_what_the_reader_refuses(command: Command, tmp_path: Path) -> None:
    replicas.oxford_pets(tmp_path)
    (tmp_path / "oxford_pets/annotations/test.txt").write_text("Abyssinian_201\n")
    code, out, _ = command("verify", "oxford_pets")
    assert (code, "test.txt, line 1: 'Abyssinian_201' has not the published form" in out) == (2, True)


def test_verify_of_everything_passes_over_what_is_not_there(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("verify", "all")
    assert (code, out.splitlines()) == (0, [f"{key}: not there" for key in keys()])
    code, _, err = command("verify", "sun397")
    assert (code, "sun397/SUN397 is not there; everclip-data prepare sun397" in err) == (2, True)
    replicas.cifar10(tmp_path)
    assert command("verify", "all")[0] == 2
