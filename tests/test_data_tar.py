"""Archives are made by Python's tarfile, or header by header where it would not make them so."""

from __future__ import annotations

import errno
import gc
import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data import load, open_source
from ddpm.data.tar import Members
from ddpm.errors import UserError

KINDS = {
    ".tar": "w",
    ".tar.gz": "w:gz",
    ".tgz": "w:gz",
    ".tar.bz2": "w:bz2",
    ".tbz2": "w:bz2",
    ".tar.xz": "w:xz",
    ".txz": "w:xz",
    ".TAR.GZ": "w:gz",
}
NOISE = np.random.default_rng(0).bytes(9000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def encoded(k: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(k)).save(stream, "PNG")
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    root = tmp_path / "animals"
    for k, name in enumerate(["dog/2.png", "cat/b/deep.png", "cat/a.PNG", "dog/1.png", "emu/x.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(k))
    return root


def packed(folder: Path, target: Path, mode: str = "w", top: str = "") -> Path:
    with tarfile.open(target, mode) as archive:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.add(path, top + str(path.relative_to(folder)), recursive=False)
    return target


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("top", ["", "./", "animals/", "../a/animals/"])
def test_tar_is_the_folder(animals: Path, tmp_path: Path, suffix: str, top: str) -> None:
    folder = open_source(animals)
    archive = open_source(packed(animals, tmp_path / f"set.v2{suffix}", KINDS[suffix], top))
    assert archive.name == "set.v2"
    assert (archive.classes, archive.notes) == (folder.classes, folder.notes)
    np.testing.assert_array_equal(archive.labels, folder.labels)  # type: ignore[arg-type]
    assert archive.fingerprint() == folder.fingerprint()
    for i in range(5):
        assert archive.describe(i) == folder.describe(i)
        np.testing.assert_array_equal(archive.picture(i), folder.picture(i))


def test_content_decides_the_compression(animals: Path, tmp_path: Path) -> None:
    assert len(open_source(packed(animals, tmp_path / "really-gz.tar", "w:gz"))) == 5
    assert len(open_source(packed(animals, tmp_path / "plain.tar.gz", "w"))) == 5


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, form: int) -> None:
    long = f"{'a' * 90}/{'b' * 60}.png"
    names = [long, "ä/1.png"]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for k, name in enumerate(names):
            add(archive, name, encoded(k))
    source = open_source(tmp_path / "a.tar")
    assert [source.describe(i) for i in range(2)] == names
    np.testing.assert_array_equal(source.picture(1), pixels(1))


def test_only_regular_files_count(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(9))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "cat/1.png", encoded(1))
        for name, kind, link in (
            ("cat/2.png", tarfile.SYMTYPE, str(secret)),
            ("cat/3.png", tarfile.SYMTYPE, "1.png"),
            ("cat/4.png", tarfile.LNKTYPE, str(secret)),  # a hard link to what the archive does not hold
            ("cat/5.png", tarfile.CHRTYPE, ""),
            ("cat/6.png", tarfile.FIFOTYPE, ""),
            ("cat/7.png", tarfile.DIRTYPE, ""),
            ("dog/8.png", tarfile.LNKTYPE, "cat/1.png"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member)
        for name in ("cat/._1.png", ".git/a.png", "__MACOSX/cat/1.png", "cat/notes.txt"):
            add(archive, name, encoded(2))
    source = open_source(tmp_path / "a.tar")
    assert [source.describe(i) for i in range(len(source))] == ["cat/1.png", "dog/8.png"]
    assert source.classes == ("cat", "dog")
    for i in range(2):
        np.testing.assert_array_equal(source.picture(i), pixels(1))
    assert "other files are left alone: 1 .txt" in source.notes


def test_nothing_is_written_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with tarfile.open("a.tar.gz", "w:gz") as archive:
        for k, name in enumerate(("../outside.png", f"{tmp_path}/absolute.png", "x/../../up.png")):
            add(archive, name, encoded(k))
    source = open_source("a.tar.gz", labels="none")
    assert len(source) == 3
    assert {path.name for path in tmp_path.rglob("*")} == {"here", "a.tar.gz", "cache"}
    assert sorted(source.picture(i).tobytes() for i in range(3)) == sorted(pixels(k).tobytes() for k in range(3))
    assert list(cache.iterdir()) == []  # what it is unpacked into has no name


def test_the_later_of_two_files_with_one_name_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "1.png", encoded(1))
        add(archive, "./1.png", encoded(2))
    source = open_source(tmp_path / "a.tar")
    assert len(source) == 1
    np.testing.assert_array_equal(source.picture(0), pixels(2))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("pread", [True, False])
def test_many_threads(tmp_path: Path, suffix: str, pread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pread:  # as on Windows
        monkeypatch.delattr(os, "pread")
    data = {f"{k}.png": bytes([k]) * (1000 + k) for k in range(50)}
    with tarfile.open(tmp_path / f"a{suffix}", KINDS[suffix]) as archive:  # type: ignore[call-overload]
        for name, content in data.items():
            add(archive, name, content)
    members = Members(tmp_path / f"a{suffix}", tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for name, content in zip([*data] * 40, pool.map(members.read, [*data] * 40), strict=True):
            assert content == data[name]
    assert members.size("7.png") == 1007
    with pytest.raises(KeyError):
        members.read("no.png")


def test_files_are_closed(animals: Path, tmp_path: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    gc.collect()
    before = opened()
    source = open_source(packed(animals, tmp_path / "a.tar.gz", "w:gz"))
    assert opened() == before + 1
    del source
    gc.collect()
    assert opened() == before


# -- damage ------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"{path}: ")
    return text


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.6])
def test_cut_off(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"a{suffix}"
    with tarfile.open(path, KINDS[suffix]) as archive:  # type: ignore[call-overload]
        for k in range(3):
            add(archive, f"{k}.png", NOISE)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    text = refused(path)
    assert "not a whole tar archive (" in text and text.endswith("): copy or download it again")


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_damaged_inside(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with tarfile.open(path, KINDS[suffix]) as archive:  # type: ignore[call-overload]
        add(archive, "1.png", NOISE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "not a whole tar archive (" in refused(path)


def test_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    """tarfile would end there, without a word."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for k in range(3):
            add(archive, f"{k}.png", b"x" * 600)
    data = bytearray(path.read_bytes())
    data[2 * (512 + 1024) + 10] ^= 0xFF  # a name in the third header, so its checksum is wrong
    path.write_bytes(data)
    assert "not a whole tar archive (damaged header after 2 files)" in refused(path)


def test_no_end_mark_is_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "1.png", encoded(0).ljust(512, b"\0"))
    path.write_bytes(path.read_bytes()[:1024])
    assert len(open_source(path)) == 1


def test_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(NOISE)
    assert "not a whole tar archive (" in refused(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        add(archive, "readme.txt", b"hello")
    assert "no picture in this archive: put .jpg" in refused(tmp_path / "b.tar")
    with tarfile.open(tmp_path / "c.tar", "w"):
        pass
    assert "no picture in this archive" in refused(tmp_path / "c.tar")


def test_damaged_picture_is_skipped_by_name(animals: Path, tmp_path: Path) -> None:
    (animals / "dog" / "1.png").write_bytes(encoded(3)[:90])
    pictures = load(open_source(packed(animals, tmp_path / "a.tar")), (8, 8), 3)
    assert [name for name, _ in pictures.skipped] == ["dog/1.png"]
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 0, 1, 2]


def test_nowhere_to_unpack(animals: Path, tmp_path: Path, cache: Path) -> None:
    cache.write_text("not a folder")
    text = refused(packed(animals, tmp_path / "a.tgz", "w:gz"))
    assert f"cannot be unpacked in {cache} (" in text
    assert text.endswith(
        "name another folder in DDPM_CACHE, or give a .zip or plain .tar, which are read in place"
    )
    assert len(open_source(packed(animals, tmp_path / "a.tar"))) == 5


def test_sparse_files_are_named(tmp_path: Path) -> None:
    """GNU tar 1.30, section on sparse formats: type S, the map of what is stored inside the header."""
    member = tarfile.TarInfo("holes.png")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = b"%011o\0" % 100_000
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "1.png", encoded(1))
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(512) + whole)
    source = open_source(tmp_path / "a.tar")
    assert [source.describe(i) for i in range(2)] == ["1.png", "holes.png"]
    with pytest.raises(OSError, match="stored with holes: pack the archive without --sparse"):
        source.picture(1)
    np.testing.assert_array_equal(source.picture(0), pixels(1))


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, r"cannot be unpacked in .* \(No space left on device\): free space there"),
        (errno.EFBIG, r"cannot be unpacked in .*: free space there"),
        (errno.EIO, r"cannot be unpacked into .* now \(Input/output error\): check the disks of both, and start"),
    ],
)
def test_only_a_full_disk_is_no_room(
    animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    path = packed(animals, tmp_path / "a.tgz", "w:gz")

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gzip.GzipFile.read", fail)
    with pytest.raises(UserError, match=f"a\\.tgz: {says}"):
        open_source(path)
