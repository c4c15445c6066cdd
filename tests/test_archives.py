"""Zips and tars of a folder: what they become, and what no archive may do."""

import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from engine.datasets import archive, registry
from engine.errors import CancelledError, DataError, ReadOnlyError, StorageError
from tests.helpers import here
from tests.images import folder

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def unpacked(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    return tmp_path / "data" / "unpacked"


def inside(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if not p.name.startswith(".lock-")) if path.exists() else []


def tarred(root: Path, mode: str, top: str = "pets") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:
        packed.add(root, top)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], **attributes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in attributes.items():
                setattr(info, key, value)
            packed.writestr(info, content)
    return buffer.getvalue()


def tar_of(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:
        for info, content in members:
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sparse(text: bytes) -> bytes:
    """A member that PAX calls sparse, with this map of its holes."""
    info = tarfile.TarInfo("a/x.png")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    return tar_of((info, text.ljust(512, b"\0")))


def shifted(content: bytes) -> bytes:
    """A zip whose end says that its directory begins later than it does."""
    at = content.rindex(b"PK\x05\x06") + 16
    return content[:at] + (1 << 30).to_bytes(4, "little") + content[at + 4 :]


def overlapping() -> bytes:
    """A zip whose directory has a second entry for the bytes of the first."""
    content = zipped({"a/x.png": b"1" * 1000})
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[start:end]
    tail = bytearray(content[end:])
    tail[8:10] = tail[10:12] = (2).to_bytes(2, "little")
    tail[12:16] = (2 * len(entry)).to_bytes(4, "little")
    return content[:end] + entry.replace(b"a/x.png", b"b/y.png") + bytes(tail)


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


@pytest.mark.parametrize("kind", ["zip", "w:", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("top", ["", "pets", "a/b"])
def test_an_archive_is_the_folder_that_was_packed(tmp_path, unpacked, kind, top):
    root = folder(tmp_path / "pets", {"cat": 5, "dog": 5})
    if kind == "zip":
        content = zipped({os.path.join(top, p.relative_to(root)): p.read_bytes() for p in root.rglob("*.png")})
    else:
        content = tarred(root, kind, top or ".")
    seen = []
    place = archive.unpack(io.BytesIO(content), "My pets.zip", lambda *progress: seen.append(progress))
    assert sorted(p.name for p in place.iterdir()) == ["cat", "dog"] and seen
    fingerprint = registry.load(f"folder:{root}").fingerprint
    assert registry.load(f"folder:{place}").fingerprint == fingerprint
    (name,) = inside(unpacked)
    assert name.startswith("My-pets-")
    assert archive.unpack(io.BytesIO(content), "again.zip").parts[:-1] != () and len(inside(unpacked)) <= 2


def test_the_same_archive_is_unpacked_once(tmp_path, unpacked):
    content = tarred(folder(tmp_path / "pets", {"cat": 5, "dog": 5}), "w:gz")
    first = archive.unpack(io.BytesIO(content), "pets.tgz")
    before = (first / "cat" / "000.png").stat().st_mtime_ns
    assert archive.unpack(io.BytesIO(content), "pets.tgz") == first
    assert (first / "cat" / "000.png").stat().st_mtime_ns == before


def test_splits_stay_and_what_file_managers_leave_goes(unpacked):
    members = {"train/cat/1.png": b"1", "test/cat/1.png": b"2", "__MACOSX/train/._1.png": b"3", "train/.DS_Store": b"4"}
    place = archive.unpack(io.BytesIO(zipped(members)), "x.zip")
    assert sorted(p.name for p in place.iterdir()) == ["test", "train"]
    assert sorted(p.name for p in place.rglob("*") if p.is_file()) == ["1.png", "1.png"]


LINK = {"external_attr": (stat.S_IFLNK | 0o777) << 16}
DEVICE = {"external_attr": (stat.S_IFCHR | 0o666) << 16}
HOSTILE = {
    "up": (zipped({"../../evil.png": b"x"}), "leads out"),
    "up within": (zipped({"a/../../evil.png": b"x"}), "leads out"),
    "absolute": (zipped({"/etc/evil.png": b"x"}), "leads out"),
    "drive": (zipped({"C:\\evil.png": b"x"}), "leads out"),
    "backslashes": (zipped({"..\\..\\evil.png": b"x"}), "leads out"),
    "zip link": (zipped({"a/link.png": b"/etc/passwd"}, **LINK), "is a link or a device"),
    "zip device": (zipped({"a/null.png": b""}, **DEVICE), "is a link or a device"),
    "tar up": (tar_of((tarfile.TarInfo("../evil.png"), b"x")), "leads out"),
    "tar absolute": (tar_of((tarfile.TarInfo("/tmp/evil.png"), b"x")), "leads out"),
    "symlink": (tar_of(special("a/x.png", tarfile.SYMTYPE, "/etc/passwd")), "is a link or a device"),
    "link then through it": (
        tar_of(special("a", tarfile.SYMTYPE, "/tmp"), (tarfile.TarInfo("a/evil.png"), b"x")),
        "is a link or a device",
    ),
    "hard link": (tar_of(special("a/x.png", tarfile.LNKTYPE, "/etc/passwd")), "is a link or a device"),
    "device": (tar_of(special("a/null", tarfile.CHRTYPE)), "is a link or a device"),
    "pipe": (tar_of(special("a/pipe.png", tarfile.FIFOTYPE)), "is a link or a device"),
    "twice": (tar_of((tarfile.TarInfo("a/x.png"), b"1"), (tarfile.TarInfo("a/x.png"), b"2")), "twice"),
    "twice by case": (zipped({"a/x.png": b"1", "A/X.png": b"2"}), "twice"),
    "a file above a file": (zipped({"a": b"1", "a/x.png": b"2"}), "twice, or below a file"),
    "a file for a folder": (zipped({"a/x.png": b"2", "a": b"1"}), "twice, or below a file"),
    "a long name": (zipped({f"a/{'x' * 256}.png": b"1"}), "no disk holds"),
    "deep": (zipped({"a/" * 40 + "x.png": b"1"}), "no disk holds"),
    "a folder for a file": (zipped({"a/x.png": b"1", "a/x.png/": b""}), "twice, or below a file"),
    "nothing": (zipped({}), "is empty"),
    "a sparse file without its map": (sparse(b"no number"), "is damaged"),
    "a directory that begins after its end": (shifted(zipped({"a/x.png": b"1"})), "is damaged"),
    "files that overlap": (overlapping(), "is damaged"),
    "no archive": (b"\x89PNG no archive", "no zip and no tar"),
    "empty file": (b"", "no zip and no tar|is empty"),
    "zip bomb": (lambda: zipped({"a/x.bmp": b"\0" * (40 << 20)}), "grows beyond 17 MB"),
    "tar bomb": (lambda: tar_of((tarfile.TarInfo("a/x.bmp"), b"\0" * (40 << 20)), mode="w:gz"), "grows beyond 17 MB"),
    "many small": (lambda: zipped({f"a/{n}.bmp": b"\0" * (1 << 20) for n in range(40)}), "grows beyond 17 MB"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_an_archive_may_not_do(tmp_path, unpacked, case):
    content, said = here(HOSTILE[case][0]), HOSTILE[case][1]
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(unpacked.parent)}
    with pytest.raises(DataError, match=said) as caught:
        archive.unpack(io.BytesIO(content), "dragged.zip")
    assert "dragged.zip" in str(caught.value) and inside(unpacked) == []
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(unpacked.parent)} == before
    assert not Path("/tmp/evil.png").exists()


@pytest.mark.parametrize("kind", ["zip", "w:", "w:gz", "w:bz2", "w:xz"])
def test_damaged_archives_are_said_and_leave_nothing(tmp_path, unpacked, kind):
    root = folder(tmp_path / "pets", {"cat": 3, "dog": 3}, (64, 64))
    if kind == "zip":
        content = zipped({str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.png")})
    else:
        content = tarred(root, kind)
    for cut in (content[: len(content) // 2], content[:3000] + bytes(100) + content[3100:]):
        if kind == "w:" and cut[:512] == content[:512] and len(cut) == len(content):
            continue  # a plain tar has no checksum of its content
        with pytest.raises(DataError) as caught:
            archive.unpack(io.BytesIO(cut), "cut.zip")
        assert caught.value.remedy and inside(unpacked) == []


def test_hundreds_of_damaged_archives_end_in_a_folder_or_a_sentence(tmp_path, unpacked):
    root = folder(tmp_path / "pets", {"cat": 2, "dog": 2}, (4, 4))
    whole = [zipped({str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.png")}), tarred(root, "w:")]
    whole += [tar_of((tarfile.TarInfo("é" * 120 + "/x.png"), b"1")), sparse(b"1\n0\n9\n")]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole[rng.integers(len(whole))])
        for at in (
            rng.integers(len(content)),
            len(content) - rng.integers(1, min(200, len(content))),
            rng.integers(512),
        ):
            content[at] = rng.integers(256)
        for at in range(0, len(content) - 511, 512):  # a header whose sum is right is believed
            if content[at + 257 : at + 262] == b"ustar":
                content[at + 148 : at + 156] = b" " * 8
                content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
        try:
            archive.unpack(io.BytesIO(bytes(content)), "x.zip")
        except DataError:
            refused += 1
    assert refused > 25 and not any(name.startswith(".tmp-") for name in os.listdir(unpacked))


def test_an_encrypted_zip_is_refused(unpacked):
    content = bytearray(zipped({"a/x.png": b"secret"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    with pytest.raises(DataError, match="is encrypted"):
        archive.unpack(io.BytesIO(bytes(content)), "x.zip")
    assert inside(unpacked) == []


def test_announced_sizes_are_not_believed(unpacked):
    """A zip whose directory says 10 bytes, and whose content has 40 MB."""
    content = bytearray(zipped({"a/x.bmp": b"\0" * (40 << 20)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + offset
        content[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(DataError):
        archive.unpack(io.BytesIO(bytes(content)), "x.zip")
    assert inside(unpacked) == []


HEADER_BOMB = """
import gzip, io, resource, sys, tarfile
from engine.datasets import archive
from engine.errors import DataError
info = tarfile.TarInfo("x")
info.type, info.size = tarfile.XHDTYPE, 2 << 30
buffer = io.BytesIO()
with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as packed:
    packed.write(info.tobuf())
    for _ in range(512):
        packed.write(bytes(4 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    archive.unpack(buffer, "x.tgz")
except DataError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_header_that_announces_gigabytes_takes_none(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HEADER_BOMB], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ
    )
    assert int(done.stdout) < 50_000  # kB


def test_a_cancelled_or_forbidden_unpacking_leaves_nothing(tmp_path, unpacked, monkeypatch):
    content = tarred(folder(tmp_path / "pets", {"cat": 5, "dog": 5}), "w:gz")

    def cancel(done: int, of: int, left: float | None) -> None:
        if done:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        archive.unpack(io.BytesIO(content), "pets.tgz", cancel)
    monkeypatch.setattr(archive, "disk_free", lambda path: 0)
    with pytest.raises(StorageError, match="No space left to unpack"):
        archive.unpack(io.BytesIO(content), "pets.tgz")
    assert inside(unpacked) == []
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    with pytest.raises(ReadOnlyError):
        archive.unpack(io.BytesIO(content), "pets.tgz")


def test_names_of_any_kind_come_through(unpacked):
    names = ["<script>.png", "=1+1.png", "new\nline.png", "猫.png", "a" * 251 + ".png"]
    place = archive.unpack(io.BytesIO(zipped({f"{c}/{name}": b"1" for c in "ab" for name in names})), "x.zip")
    assert sorted(p.name for p in (place / "a").iterdir()) == sorted(names)
    info = tarfile.TarInfo("a/caf\udce9.png")
    place = archive.unpack(io.BytesIO(tar_of((info, b"1"), (tarfile.TarInfo("b/x.png"), b"1"))), "y.tar")
    assert os.listdir(os.fsencode(place / "a")) == [b"caf\xe9.png"]


def test_images_come_through_bit_for_bit(tmp_path):
    root = folder(tmp_path / "pets", {"cat": 5, "dog": 5})
    place = archive.unpack(io.BytesIO(tarred(root, "w:xz")), "pets.txz")
    one, other = (registry.load(f"folder:{path}") for path in (root, place))
    assert np.array_equal(one.train_images, other.train_images)


def test_folders_without_images_come_through_and_are_counted(unpacked, monkeypatch):
    members = {"pets/cat/1.png": b"1", "pets/dog/1.png": b"2", "pets/mouse/": b""}
    place = archive.unpack(io.BytesIO(zipped(members)), "x.zip")
    assert sorted(p.name for p in place.iterdir()) == ["cat", "dog", "mouse"]
    monkeypatch.setattr(archive, "MOST_MEMBERS", 20)
    many = tar_of(*(special(f"pets/{n}", tarfile.DIRTYPE) for n in range(21)))
    before = inside(unpacked)
    with pytest.raises(DataError, match="more than 20 files"):
        archive.unpack(io.BytesIO(many), "many.tar")
    assert inside(unpacked) == before


UNPACK = """
import sys
from engine.datasets import archive
steps = []
print(archive.unpack(open(sys.argv[1], "rb"), "pets.tgz", lambda done, of, left: steps.append(done)), len(steps))
"""


def test_two_processes_unpack_it_once(tmp_path, unpacked):
    (tmp_path / "pets.tgz").write_bytes(tarred(folder(tmp_path / "pets", {"cat": 60, "dog": 60}), "w:gz"))
    command = [sys.executable, "-c", UNPACK, str(tmp_path / "pets.tgz")]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    results = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    places, steps = zip(*(out.split() for out, _ in results), strict=True)
    assert places[0] == places[1] and "0" in steps, "both unpacked it"
    assert len(inside(unpacked)) == 1


def test_what_a_killed_unpacking_left_goes(tmp_path, unpacked):
    content = tarred(folder(tmp_path / "pets", {"cat": 5, "dog": 5}), "w:gz")
    (tmp_path / "pets.tgz").write_bytes(content)
    code = UNPACK.replace("steps.append(done)", "done and __import__('os').kill(__import__('os').getpid(), 9)")
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "pets.tgz")], cwd=ROOT)
    assert killed.returncode == -9 and inside(unpacked)[0].startswith(".tmp-")
    place = archive.unpack(io.BytesIO(content), "pets.tgz")
    assert inside(unpacked) == [archive.unpacked_from(place).name]
