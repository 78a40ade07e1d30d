"""Downloads from a server on this machine that cuts off, sends all again, sends rubbish, or is not
there.
"""

import hashlib
import shutil
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_datasets import BUILDERS

from copra_lab.tasks import SETS, benchmarks, load_task
from copra_lab.utils import download
from copra_lab.utils.download import Archive, install, unpack

DATA = bytes(range(256)) * 4000


class Server:
    """``files`` by path. Of the first answer only `cut` bytes are sent, if it is set; ``ranges``
    are what was asked for.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {"/data.bin": DATA}
        self.cut, self.resumes, self.ranges = 0, True, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body, asked = outer.files.get(self.path), self.headers.get("Range")
                outer.ranges.append(asked)
                if body is None:
                    return self.send_error(404)
                start = (
                    int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.resumes else 0
                )
                if start >= len(body):
                    return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                stop, outer.cut = outer.cut or len(body), 0
                self.wfile.write(body[start:stop])

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server():
    s = Server()
    thread = threading.Thread(target=s.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield s
    s.http.shutdown()
    s.http.server_close()
    thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.mark.parametrize("resumes", [True, False])
def test_a_download_that_was_cut_off_goes_on(server, tmp_path, resumes):
    server.cut, server.resumes = 300_000, resumes
    file = tmp_path / "new" / "data.bin"
    with pytest.raises(
        ConnectionError,
        match=r"was cut off \(the connection was cut\), and 0 MB are there: call again to resume",
    ):
        download.download(server.url + "/data.bin", file, md5(DATA))
    assert not file.exists()
    assert file.with_name("data.bin.part").read_bytes() == DATA[:300_000]
    download.download(server.url + "/data.bin", file, md5(DATA))
    assert file.read_bytes() == DATA
    assert [f.name for f in file.parent.iterdir()] == ["data.bin"]
    assert server.ranges == [None, "bytes=300000-"]


def test_a_download_that_was_ended_before_its_last_step(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(DATA)
    download.download(server.url + "/data.bin", tmp_path / "data.bin", md5(DATA))
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_a_damaged_download_is_removed_and_can_be_repeated(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"of another version")
    with pytest.raises(
        ValueError,
        match="arrived damaged, and was removed: call again, or put it",
    ):
        download.download(server.url + "/data.bin", tmp_path / "data.bin", md5(DATA))
    assert list(tmp_path.iterdir()) == []
    download.download(server.url + "/data.bin", tmp_path / "data.bin", md5(DATA))


def test_no_such_file_and_no_network(server, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"/gone cannot be downloaded: HTTP Error 404"):
        download.download(server.url + "/gone", tmp_path / "gone")
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded: .*refused"):
        download.download(server.url + "/data.bin", tmp_path / "data.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_told_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 0, 10**6)
    )
    with pytest.raises(
        ValueError,
        match=r"needs 0\.0 GB, packed and unpacked, in .*: make room, or give another root",
    ):
        download.download(server.url + "/data.bin", tmp_path / "data.bin")


# --- archives as the authors of each data set pack them --------------------------------------------------------------


def pack(home: Path, names: list[str], file: Path) -> bytes:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as z:
            for name in names:
                for f in sorted((home / name).rglob("*")):
                    z.write(f, f.relative_to(home))
    else:
        with tarfile.open(file, "w:gz") as tar:
            for name in names:
                tar.add(home / name, name)
    return file.read_bytes()


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A data set on the server, in its archives, none of it on this disk; gives the root."""

    def publish(key: str) -> Path:
        there = tmp_path / "there"
        BUILDERS[key](there)
        archives = []
        for a in SETS[key].archives:
            name, home = a.file(tmp_path).name, there / a.into
            if key == "caltech101":  # an archive in an archive
                (tmp_path / "caltech-101").mkdir()
                pack(home, [a.gives], tmp_path / "caltech-101" / "101_ObjectCategories.tar.gz")
                data = pack(tmp_path, ["caltech-101"], tmp_path / name)
            elif name == a.gives:
                data = (home / name).read_bytes()
            else:
                data = pack(home, [a.gives], tmp_path / name)
            server.files["/" + name] = data
            archives.append(replace(a, url=f"{server.url}/{name}", md5=md5(data) if a.md5 else ""))
        shutil.rmtree(there)
        monkeypatch.setitem(SETS, key, replace(SETS[key], archives=tuple(archives)))
        return tmp_path / "root"

    return publish


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key, row in SETS.items() if row.archives])
def test_a_data_set_is_downloaded_unpacked_and_read(server, published, key, tmp_path):
    root = published(key)
    with pytest.raises(
        FileNotFoundError,
        match="call again with download=True to download it, or download http",
    ):
        load_task(key, root=root, side=16, download=False)
    task = load_task(key, root=root, side=16, shots=2)
    BUILDERS[key](tmp_path / "again")
    there = load_task(key, root=tmp_path / "again", side=16, shots=2, download=False)
    assert task.train.images.equal(there.train.images)
    assert task.test.images.equal(there.test.images)
    assert task.classes == there.classes
    asked = len(server.ranges)
    assert asked == len(SETS[key].archives)
    load_task(key, root=root, side=16, shots=2)
    assert len(server.ranges) == asked, "what is there is not asked for"
    assert not [f for f in root.rglob("*") if f.name.endswith((".part", ".unpacking"))]


def test_an_archive_put_there_by_hand_needs_no_network(server, published):
    root = published("oxford-pets")
    for a in SETS["oxford-pets"].archives:
        a.file(root).parent.mkdir(parents=True, exist_ok=True)
        a.file(root).write_bytes(server.files["/" + a.file(root).name])
    assert len(load_task("oxford-pets", root=root, side=16).classes) == 3
    assert server.ranges == []


def test_half_an_archive_put_there_by_hand_is_told_and_kept(server, published):
    root = published("eurosat")
    (archive,) = SETS["eurosat"].archives
    archive.file(root).parent.mkdir(parents=True)
    archive.file(root).write_bytes(server.files["/EuroSAT.zip"][:500])
    with pytest.raises(
        ValueError, match=r"EuroSAT\.zip is not the file at .*: remove it and call again"
    ):
        load_task("eurosat", root=root, side=16)
    assert archive.file(root).stat().st_size == 500


def test_a_call_that_was_killed_while_unpacking(server, published):
    root = published("oxford-pets")
    annotations, images = SETS["oxford-pets"].archives
    home = root / "oxford-iiit-pet"
    install([annotations], root)
    images.file(root).write_bytes(server.files["/images.tar.gz"])
    left = home / ".images.tar.gz.unpacking" / "images"
    left.mkdir(parents=True)
    (left / "half.jpg").write_bytes(b"\xff\xd8")
    load_task("oxford-pets", root=root, side=16)
    assert not left.exists()
    assert not (home / "images" / "half.jpg").exists()
    assert server.ranges == [None]


@pytest.mark.parametrize("key", ["fgvc-aircraft", "eurosat"])
def test_an_archive_that_is_cut_off_leaves_nothing_that_looks_whole(server, published, key):
    root = published(key)
    (archive,) = SETS[key].archives
    name = "/" + archive.file(root).name
    server.files[name] = server.files[name][:-2000]
    for _ in range(2):
        with pytest.raises(
            ValueError,
            match=r"cannot be unpacked \(.*\): make room .* remove it and call again|arrived damaged",
        ):
            load_task(key, root=root, side=16)
    assert not any(
        f.is_dir() and any(f.iterdir()) and f.name != archive.into for f in root.iterdir()
    )


def test_an_archive_of_something_else(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("x")
    pack(tmp_path, ["other"], tmp_path / "a.tar.gz")
    with pytest.raises(ValueError, match=r"a\.tar\.gz holds no images: remove it"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "images")


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/copra-lab-outside.txt"])
def test_no_archive_writes_elsewhere(tmp_path, name):
    (tmp_path / "x.txt").write_text("x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "x.txt", name)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.write(tmp_path / "x.txt", name)
    (tmp_path / "in").mkdir()
    for file in ("a.tar", "a.zip"):
        with pytest.raises(ValueError, match=r"cannot be unpacked|holds no images"):
            unpack(tmp_path / file, tmp_path / "in" / "images")
    assert not (tmp_path / "outside.txt").exists()
    assert not Path("/tmp/copra-lab-outside.txt").exists()
    assert list((tmp_path / "in").iterdir()) == []


def test_several_who_want_the_same_fetch_it_once(server, published):
    root = published("dtd")
    with ThreadPoolExecutor(4) as pool:
        tasks = list(
            pool.map(
                lambda seed: load_task("dtd", root=root, side=16, shots=1, seed=seed), range(4)
            )
        )
    assert len({t.test.sources for t in tasks}) == 1
    assert server.ranges == [None]


def test_a_root_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=r"cannot be created .*: give another root"):
        benchmarks.listing("dtd", tmp_path / "file" / "root")


@pytest.mark.parametrize(
    "archive",
    [a for row in SETS.values() for a in row.archives if "cifar" not in a.url],
    ids=lambda a: a.gives,
)
def test_archives_are_torchvisions(archive: Archive):
    """All but CIFAR, of which torchvision takes the version that is made of pickles."""
    from torchvision import datasets as theirs

    names = (
        "caltech dtd eurosat fgvc_aircraft flowers102 food101 mnist oxford_iiit_pet sun397".split()
    )
    source = "".join(
        Path(getattr(theirs, name).__file__).read_text(encoding="utf-8") for name in names
    )
    assert archive.url.rpartition("/")[2] in source
    assert archive.md5 in source


def test_offline_one_sentence_names_every_file(server, published):
    root = published("oxford-pets")
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(FileNotFoundError) as e:
        load_task("oxford-pets", root=root, side=16)
    said = str(e.value)
    assert "Oxford-IIIT Pets is not in" in said
    assert "refused" in said
    assert "\n" not in said
    assert "give its root" in said
    assert all(f"{a.url} as {a.file(root)}" in said for a in SETS["oxford-pets"].archives)
