from __future__ import annotations

import errno
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import raster
from ddpm.data import load, open_source, to_uint8
from ddpm.errors import UserError


def picture(k: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (*size, 3), dtype=np.uint8)


def save(path: Path, k: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # PIL chooses by suffix, and some of ours deceive on purpose.
    Image.fromarray(picture(k, size)).save(path, {".webp": "WEBP"}.get(path.suffix.lower(), "PNG"), lossless=True)


def zipped(
    folder: Path, target: Path, top: str = "", method: int = zipfile.ZIP_STORED, between: str = "/"
) -> Path:
    """Names in the archive are as given: zipfile's own write would mend them."""
    with zipfile.ZipFile(target, "w", method) as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            name = (top + str(path.relative_to(folder))).replace("/", between)
            if path.is_dir():
                archive.writestr(zipfile.ZipInfo(name + between), b"")
            else:
                archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), method)
    return target


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    root = tmp_path / "animals"
    for k, name in enumerate(["dog/2.png", "cat/b/deep.webp", "cat/a.PNG", "dog/1.png", "emu/x.png"]):
        save(root / name, k)
    return root


def test_classes_from_folders_in_stable_order(animals: Path) -> None:
    source = open_source(animals)
    assert source.name == "animals"
    assert source.classes == ("cat", "dog", "emu")
    assert source.labels is not None and source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 0, 1, 1, 2]
    names = [source.describe(i) for i in range(len(source))]
    assert names == ["cat/a.PNG", "cat/b/deep.webp", "dog/1.png", "dog/2.png", "emu/x.png"]
    for i, k in enumerate([2, 1, 3, 0, 4]):
        np.testing.assert_array_equal(source.picture(i), picture(k))
    assert source.notes == ("3 classes from sub-folders: cat, dog, emu",)


def test_classes_off(animals: Path) -> None:
    source = open_source(animals, labels="none")
    assert (len(source), source.classes, source.labels) == (5, (), None)


def test_flat_folder_has_no_classes(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / "p" / f"{k}.png", k)
    source = open_source(tmp_path / "p")
    assert (len(source), source.classes, source.labels, source.notes) == (3, (), None, ("no classes",))


def test_pictures_beside_class_folders_are_refused(animals: Path) -> None:
    save(animals / "stray.png", 9)
    with pytest.raises(
        UserError, match=r"1 picture \(such as stray.png\) beside the class folders cat, dog, emu: "
    ):
        open_source(animals)
    assert len(open_source(animals, labels="none")) == 6


def test_pictures_beside_one_folder_are_one_set(tmp_path: Path) -> None:
    save(tmp_path / "p" / "a.png", 0)
    save(tmp_path / "p" / "more" / "b.png", 1)
    source = open_source(tmp_path / "p")
    assert (len(source), source.classes) == (2, ())


@pytest.mark.parametrize(
    "suffix",
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".JPG", ".JPEG", ".PNG", ".WebP", ".TIF"],
)
def test_suffixes(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "p" / f"a{suffix}", 0)
    (tmp_path / "p" / "a.txt").write_text("no picture")
    source = open_source(tmp_path / "p")
    assert len(source) == 1
    np.testing.assert_array_equal(source.picture(0), picture(0))


def test_hidden_files_and_resource_forks_are_ignored(animals: Path, tmp_path: Path) -> None:
    before = open_source(animals).fingerprint()
    for name in ("cat/._a.png", ".git/a.png", "__MACOSX/cat/a.png", ".hidden.png"):
        save(animals / name, 9)
    assert len(open_source(animals)) == 5
    assert open_source(animals).fingerprint() == before
    assert open_source(zipped(animals, tmp_path / "z.zip")).fingerprint() == before


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["", "animals/", "a/animals/", "./", "/", "../a/", "a//b/"])
def test_zip_is_the_folder(animals: Path, tmp_path: Path, top: str, method: int) -> None:
    folder, archive = open_source(animals), open_source(zipped(animals, tmp_path / "z.v2.zip", top, method))
    assert archive.name == "z.v2"
    assert (archive.classes, archive.notes) == (folder.classes, folder.notes)
    np.testing.assert_array_equal(archive.labels, folder.labels)  # type: ignore[arg-type]
    assert archive.fingerprint() == folder.fingerprint()
    for i in range(5):
        assert archive.describe(i) == folder.describe(i)
        np.testing.assert_array_equal(archive.picture(i), folder.picture(i))


def test_single_top_folder_is_stepped_through(animals: Path) -> None:
    (animals.parent / "outer" / "inner").mkdir(parents=True)
    animals.rename(animals.parent / "outer" / "inner" / "animals")
    (animals.parent / "outer" / "empty").mkdir()
    source = open_source(animals.parent / "outer")
    assert source.classes == ("cat", "dog", "emu")
    assert source.describe(0) == "cat/a.PNG"
    assert source.name == "outer"


def test_folders_named_like_splits_are_remarked_on(tmp_path: Path) -> None:
    save(tmp_path / "p" / "train" / "a.png", 0)
    save(tmp_path / "p" / "test" / "b.png", 1)
    assert "look like splits" in open_source(tmp_path / "p").notes[1]


def test_links_are_followed_and_end(animals: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "y.png", 7)
    (animals / "fox").symlink_to(tmp_path / "elsewhere")
    (animals / "cat" / "loop").symlink_to(animals)
    (animals / "gnu").symlink_to(tmp_path / "elsewhere")  # once is enough
    (animals / "aardvark").symlink_to(animals / "dog")  # which has a name of its own
    source = open_source(animals)
    assert source.classes == ("cat", "dog", "emu", "fox")
    assert len(source) == 6
    assert source.notes[-1] == "other files are left alone: 3 links to folders that are read already"


def test_fingerprint_follows_names_and_contents(animals: Path) -> None:
    seen = {open_source(animals).fingerprint()}
    (animals / "dog" / "1.png").rename(animals / "dog" / "0.png")  # the order stays
    seen.add(open_source(animals).fingerprint())
    save(animals / "dog" / "0.png", 77)
    seen.add(open_source(animals).fingerprint())
    os.utime(animals / "dog" / "0.png", (1, 1))
    seen.add(open_source(animals).fingerprint())
    assert len(seen) == 3
    assert all(len(each) == 64 for each in seen)


def test_look_reads_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "p"
    root.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(0, (10, 20))).save(root / "a.jpg", exif=turned)
    Image.fromarray(picture(0, (10, 20))).save(root / "b.jpg")
    Image.fromarray(picture(0, (10, 20))[..., 0]).save(root / "c.png")
    Image.fromarray(np.dstack([picture(0), picture(1)[..., :1]])).save(root / "d.png")
    (root / "e.png").write_bytes(b"junk")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    look = open_source(root).look()
    assert look.sizes == {(20, 10): 1, (10, 20): 2, (8, 8): 1}
    assert (look.seen, look.grey, look.colour, look.alpha) == (5, 1, 3, 1)
    assert look.unreadable == (("e.png", "not a picture in a known format"),)


def test_folder_of_every_kind(tmp_path: Path) -> None:
    """As they come from a shoe box: each under its own suffix, one colour each, counted by its mode."""
    colours = {"a.bmp": 10, "b.gif": 20, "c.jpg": 30, "d.png": 40, "e.tif": 50, "f.tiff": 60, "g.webp": 70}
    for name, value in colours.items():
        Image.new("RGB", (8, 8), (value, 2 * value, 3 * value)).save(tmp_path / name)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "h.jpg")
    (tmp_path / "i.tif").write_bytes(raster.tiff(np.full((8, 8, 3), 100 * 257, np.uint16)))
    (tmp_path / "j.png").write_bytes(raster.png(np.full((8, 8), 100 * 257, np.uint16)))
    (tmp_path / "k.png").write_bytes(raster.png(np.full((8, 8, 4), 255, np.uint8)))
    (tmp_path / "l.tif").write_bytes(raster.tiff(np.full((8, 8, 3), 7, np.uint16), planar=True)[:100])
    source = open_source(tmp_path)
    pictures = load(source, (8, 8), 3, cache=tmp_path / "cache")
    x, _ = pictures.batch(torch.arange(len(pictures)))
    mean = to_uint8(x).float().mean((2, 3)).numpy()
    expected = [(v, 2 * v, 3 * v) for v in colours.values()] + [(255, 0, 0)] + [(100, 100, 100)] * 2 + [(255,) * 3]
    assert np.abs(mean - expected).max() <= 3  # JPEG and WebP are not exact
    assert [name for name, _ in pictures.skipped] == ["l.tif"]
    look = source.look()
    assert (look.seen, look.grey, look.colour, look.alpha, len(look.unreadable)) == (12, 1, 10, 1, 1)
    assert look.modes == {
        "colour": 6,
        "colour palette": 1,
        "CMYK": 1,
        "16-bit colour": 1,
        "16-bit grey": 1,
        "colour with transparency": 1,
    }
    assert look.modes.total() == look.grey + look.colour


def test_set_of_grey_palettes_is_grey(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("a.gif", "b.png", "c.tif", "d.bmp"):
        image = Image.fromarray(grey)
        image.putpalette(np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[::-1], 3).tobytes())
        image.save(tmp_path / name)
    source = open_source(tmp_path)
    assert source.look().modes == {"grey palette": 4} and source.look().colour == 0
    for i in range(4):
        np.testing.assert_array_equal(source.picture(i)[..., 0], 252 - 4 * grey)


def test_size_of_a_turned_tiff(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 8
    Image.fromarray(picture(0, (10, 20))).save(tmp_path / "a.tif", exif=turned)
    assert open_source(tmp_path).look().sizes == {(20, 10): 1}


def test_look_is_spread_over_the_source(tmp_path: Path) -> None:
    for k in range(20):
        save(tmp_path / "p" / f"{k:02}.png", k, (k + 1, 1))
    look = open_source(tmp_path / "p").look(limit=4)
    assert sorted(h for h, _ in look.sizes) == [1, 6, 11, 16]


def test_damaged_zip_member_is_skipped(animals: Path, tmp_path: Path) -> None:
    path = zipped(animals, tmp_path / "z.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("dog/1.png").header_offset
    data[at + 120] ^= 0xFF
    path.write_bytes(data)
    pictures = load(open_source(path), (8, 8), 3, cache=tmp_path / "cache")
    assert [name for name, _ in pictures.skipped] == ["dog/1.png"]
    assert "CRC" in pictures.skipped[0][1]
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_corrupt_zip(animals: Path, tmp_path: Path, keep: int) -> None:
    path = zipped(animals, tmp_path / "z.zip")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        UserError, match=r"z\.zip: not a whole zip archive \(.*\): copy or download it again"
    ) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_zip_without_pictures(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "z.zip").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match=r"z\.zip: no picture in this archive: put \.jpg"):
        open_source(tmp_path / "z.zip")


def test_files_that_are_no_pictures_are_counted_and_named(animals: Path) -> None:
    for name in ("cat/notes.txt", "dog/a.heic", "dog/b.HEIC", ".hidden.heic"):
        (animals / name).write_bytes(b"x")
    assert "other files are left alone: 2 .heic, 1 .txt" in open_source(animals).notes


@pytest.mark.parametrize("top", ["", "./", "\\"])
def test_zip_with_backslashes_is_the_folder(animals: Path, tmp_path: Path, top: str) -> None:
    (animals / "cat" / "empty.png").mkdir()  # a folder, whatever it is called
    path = zipped(animals, tmp_path / "z.zip", top, between="\\")
    with zipfile.ZipFile(path) as archive:
        assert f"{top}cat\\a.PNG".replace("/", "\\") in archive.namelist()
    source = open_source(path)
    assert (source.classes, len(source)) == (("cat", "dog", "emu"), 5)
    assert source.fingerprint() == open_source(animals).fingerprint()


def test_the_later_of_two_files_with_one_name_counts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for k, name in enumerate(("1.png", "./1.png")):
            save(tmp_path / "1.png", k)
            archive.writestr(name, (tmp_path / "1.png").read_bytes())
    source = open_source(tmp_path / "z.zip")
    assert len(source) == 1
    np.testing.assert_array_equal(source.picture(0), picture(1))


def encrypted(path: Path, *names: str) -> Path:
    """Says that members are encrypted: bit 0 of the flags in both headers (APPNOTE 4.3.7, 4.3.12, 4.4.4)."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for name in names:
            data[archive.getinfo(name).header_offset + 6] |= 1
            data[data.rindex(name.encode()) - 46 + 8] |= 1
    path.write_bytes(data)
    return path


def test_encrypted_zip_members_are_skipped(animals: Path, tmp_path: Path) -> None:
    path = encrypted(zipped(animals, tmp_path / "z.zip"), "dog/1.png", "cat/a.PNG")
    pictures = load(open_source(path), (8, 8), 3, cache=tmp_path / "cache")
    assert [name for name, _ in pictures.skipped] == ["cat/a.PNG", "dog/1.png"]
    assert all("is encrypted" in why for _, why in pictures.skipped)
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 1, 2]


def test_links_to_nothing_are_unreadable_pictures(animals: Path, tmp_path: Path) -> None:
    (animals / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (animals / "cat" / "round.png").symlink_to("round.png")
    (animals / "cat" / "gone.txt").symlink_to("nothing")
    source = open_source(animals)
    assert len(source) == 7 and source.notes[-1] == "other files are left alone: 1 .txt"
    pictures = load(source, (8, 8), 3, cache=tmp_path / "cache")
    assert pictures.skipped[0] == ("cat/gone.png", "No such file or directory")
    assert [name for name, _ in pictures.skipped] == ["cat/gone.png", "cat/round.png"]
    assert len(pictures) == 5


def test_an_error_that_passes_is_no_content(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the hash of a reason would be remembered as the files'."""
    source = open_source(animals)

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("ddpm.data.bounds.read", fail)
    with pytest.raises(UserError, match=r"^cat/a\.PNG: cannot be read now \(Input/output error\): check the disk"):
        source.fingerprint()


def test_look_does_not_count_a_mistake_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((50, 32, 32), np.uint8))
    data = bytearray(path.read_bytes())
    data[20_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.npz: images cannot be read"):
        open_source(path).look()


def not_utf8(path: Path) -> Path:
    try:
        save(path, 0)
    except OSError:
        pytest.skip("the disk takes UTF-8 names alone")
    return path


def test_file_names_that_are_not_utf8_can_be_printed(tmp_path: Path) -> None:
    root = not_utf8(tmp_path / "b\udcff" / "caf\udce9.png").parent
    (root / "x.t\udcffxt").write_bytes(b"x")
    (root / "y.png").write_bytes(b"junk")
    source = open_source(root)
    assert (source.name, source.describe(0)) == ("b?", "caf?.png")
    assert source.notes[-1] == "other files are left alone: 1 .t?xt"
    np.testing.assert_array_equal(source.picture(0), picture(0))
    pictures = load(source, (8, 8), 3, cache=tmp_path / "cache")
    assert [name for name, _ in pictures.skipped] == ["y.png"]


def test_class_names_that_are_not_utf8_are_refused(animals: Path) -> None:
    not_utf8(animals / "caf\udce9" / "1.png")
    with pytest.raises(UserError, match=r"a class folder's name is not UTF-8 \(caf\?\): rename it"):
        open_source(animals)
    assert len(open_source(animals, labels="none")) == 6
