"""Hostile folders and names: links in circles and out of the folder, pipes, devices, depth, names of any kind."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hostile import Case, encoded, noise, written

NAMES = {
    "space": "a picture of mine.png",
    "unicode": "día_日本語_🦊.png",
    "decomposed": "e\u0301.png",
    "newline": "two\nlines.png",
    "return": "over\rwritten.png",
    "terminal": "\x1b]0;title\x07\x1b[31mred.png",
    "right-to-left": "\u202egnp.exe.png",
    "markup": "[bold red][/]{0}%s.png",
    "quotes": "'\"`$(touch sentinel);.png",
    "dash": "--out.png",
    "long": 251 * "n" + ".png",
    "not-utf8": "caf\udce9.png",
    "dots": "...png",
    "windows": "con.png",
    "backslash": "..\\..\\up.png",
}
_BROKEN = b"not a picture"


def names(root: Path) -> Iterator[Case]:
    """Pictures by strange names, whole and broken, and folders by such names."""
    for what, name in NAMES.items():
        for data, expected in ((encoded(noise()), "fine"), (_BROKEN, "skipped")):
            folder = root / f"{what} {expected}"
            written(folder / "good.png", encoded(noise()))
            try:
                written(folder / name, data)
            except OSError:
                continue  # the disk takes no such name
            hidden = name.startswith(".")
            yield Case(f"{what} {expected}", folder, "fine" if hidden else expected)
        with suppress(OSError):
            for k, name_of_class in enumerate((name[:-4].strip(".") or "dots", "other")):
                written(root / f"{what} class" / name_of_class / "1.png", encoded(noise(seed=k)))
            refused = {"not-utf8": "not UTF-8", "newline": "", "return": "", "terminal": ""}
            expected = "error" if what in refused else "fine"
            yield Case(f"{what} class", root / f"{what} class", expected, refused.get(what, ""))
        with suppress(OSError):
            written(root / f"{what} folder" / name[:-4] / "1.png", encoded(noise()))
            if what != "dots":
                yield Case(f"{what} folder", root / f"{what} folder" / name[:-4], "fine")


def links(root: Path) -> Iterator[Case]:
    """Circles of links, more paths than could be walked, links out of the folder and to nothing."""
    outside = written(root / "outside" / "far.png", encoded(noise(seed=5)))

    def good(name: str) -> Path:
        return written(root / name / "good.png", encoded(noise())).parent

    folder = good("circle")
    for name, to in (("self", "."), ("up", ".."), ("a", "b"), ("b", "a")):
        (folder / name).symlink_to(to)
    (folder / "loop.png").symlink_to("loop.png")
    yield Case("circle", folder, "skipped")
    folder = good("crossed")
    for k in range(14):
        (folder / f"{k:02d}").mkdir()
        for other in range(14):
            if other != k:
                (folder / f"{k:02d}" / f"{other:02d}").symlink_to(f"../{other:02d}")
    yield Case("crossed", folder, "fine")
    folder = good("out")
    (folder / "out").symlink_to(outside.parent)
    (folder / "far.png").symlink_to(outside)
    yield Case("out", folder, "fine")
    folder = good("nothing")
    (folder / "gone.png").symlink_to("nowhere.png")
    yield Case("nothing", folder, "skipped", "No such file")
    (root / "only a circle").symlink_to("only a circle")
    yield Case("only a circle", root / "only a circle", "error")
    folder = good("devices")
    (folder / "zero.png").symlink_to("/dev/zero")
    yield Case("devices", folder, "skipped", "a device")
    folder = good("folders")
    (folder / "folder.png").mkdir()
    (folder / "linked.png").symlink_to("folder.png")
    yield Case("folders", folder, "fine")


def special(root: Path) -> Iterator[Case]:
    """What opening waits for, or never ends, in a folder and as DATA."""
    kinds = {"pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK, "device": stat.S_IFCHR}
    for what, kind in kinds.items():
        folder = written(root / what / "good.png", encoded(noise())).parent
        made = []
        for name in ("bad.png", "dataset.json", "metadata.csv", "dataset_info.json", "train-idx3-ubyte", "x.npz"):
            with suppress(PermissionError):
                os.mknod(folder / name, 0o666 | kind, os.makedev(1, 5))  # of the device: /dev/zero
                made.append(name)
        if made:
            yield Case(what, folder, "skipped", f"is a {what}")
        for suffix in (".png", ".zip", ".tar", ".tar.gz", ".npz", ".npy", ".csv", ".json", ".parquet", ".gz", ""):
            path = root / f"only {what}{suffix}"
            with suppress(PermissionError):
                os.mknod(path, 0o666 | kind, os.makedev(1, 5))
                yield Case(path.name, path, "error", f"is a {what}")
    empty = written(root / "empty" / "notes.txt", b"").parent
    yield Case("no picture", empty, "error", "no picture")
    for suffix in (".png", ".zip", ".tar", ".tgz", ".npz", ".npy", ".csv", ".json", ".jsonl", ".parquet", ""):
        yield Case(f"empty{suffix}", written(root / f"nothing{suffix}", b""), "error")


def size(root: Path) -> Iterator[Case]:
    """Files with holes that are larger than any memory, and folders deeper than Python can call."""
    folder = written(root / "holes" / "good.png", encoded(noise())).parent
    with suppress(OSError):
        for suffix in (".png", ".zip", ".tar", ".npz", ".npy", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ""):
            path = folder / "hole.png" if suffix == ".png" else root / f"hole{suffix}"
            with path.open("wb") as file:
                file.truncate(1 << 40)
            if suffix == ".png":
                yield Case("a hole among pictures", folder, "skipped", "too large")
            else:
                yield Case(path.name, path, "error")
    folder = written(root / "well-known" / "good.png", encoded(noise())).parent
    with suppress(OSError), (folder / "dataset.json").open("wb") as file:
        file.truncate(1 << 40)
        yield Case("a hole by a known name", folder, "fine")
    for name, depth, expected in (("deep", 1200, "fine"), ("deeper than a path", 2500, "error")):
        yield Case(name, _deep(root / name, depth), expected)
        subprocess.run(["rm", "-r", str(root / name)], check=True)  # Python's own way calls itself for each folder


def closed(root: Path) -> Iterator[Case]:
    """What may not be read; for who is not root."""
    folder = written(root / "file" / "good.png", encoded(noise())).parent
    written(folder / "closed.png", encoded(noise())).chmod(0)
    yield Case("a picture", folder, "skipped", "Permission denied")
    folder = written(root / "folder" / "good.png", encoded(noise())).parent
    written(folder / "sub" / "1.png", encoded(noise())).parent.chmod(0)
    yield Case("a folder inside", folder, "error", "sub: cannot be read (Permission denied)")
    folder = written(root / "unlisted" / "good.png", encoded(noise())).parent
    folder.chmod(0o100)
    yield Case("a folder", folder, "error", "Permission denied")
    for suffix in (".zip", ".tar", ".npz", ".npy", ".csv", "-idx3-ubyte"):
        path = written(root / f"closed{suffix}", b"x")
        path.chmod(0)
        yield Case(path.name, path, "error", "Permission denied")
    inside = written(root / "door" / "a.npz", b"x")
    inside.parent.chmod(0)
    yield Case("behind a closed folder", inside, "error")


FAMILIES = {"names": names, "links": links, "special files": special, "size": size}


def _deep(root: Path, depth: int) -> Path:
    """Folders in folders with a picture at their end, beyond what a path can name."""
    written(root / "good.png", encoded(noise()))
    at = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    file = os.open("end.png", os.O_WRONLY | os.O_CREAT, dir_fd=at)
    os.write(file, encoded(noise()))
    os.close(file)
    os.close(at)
    return root
