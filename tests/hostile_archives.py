"""Hostile archives: zips and tars that lie of what is in them, are larger inside than any disk, or point away."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from hostile import Case, encoded, noise, written

GOOD = encoded(noise())
_BLOCK = 1 << 20  # of zeros that bombs are made of


def wholes() -> dict[str, bytes]:
    """A small whole one of each kind."""
    return {
        "plain.zip": _zip({"a/1.png": GOOD, "b/2.png": GOOD}, zipfile.ZIP_STORED),
        "packed.zip": _zip({"a/1.png": GOOD, "b/2.png": GOOD}),
        "bz2.zip": _zip({"1.png": GOOD}, zipfile.ZIP_BZIP2),
        "lzma.zip": _zip({"1.png": GOOD}, zipfile.ZIP_LZMA),
        "ustar.tar": _tar(tarfile.USTAR_FORMAT),
        "pax.tar": _tar(tarfile.PAX_FORMAT),
        "gnu.tar": _tar(tarfile.GNU_FORMAT),
        "packed.tar.gz": gzip.compress(_tar(tarfile.USTAR_FORMAT), mtime=0),
        "packed.tar.bz2": bz2.compress(_tar(tarfile.USTAR_FORMAT)),
        "packed.tar.xz": lzma.compress(_tar(tarfile.PAX_FORMAT)),
    }


def zips(root: Path) -> Iterator[Case]:
    """Names that point away, damage, and what is locked."""
    fine = {
        "up": {"../../up.png": GOOD, "../../../../../../etc/x.png": GOOD},
        "absolute": {"/tmp/absolute.png": GOOD, "//x/y.png": GOOD, "C:\\a\\b.png": GOOD},
        "backslash": {"..\\..\\up.png": GOOD},
        "both": {"a.png": GOOD, "a.png/b.png": GOOD},
        "nested": {"good.png": GOOD, "inner.zip": _zip({"a.png": GOOD})},
        "deep": {"/".join(["d"] * 30_000) + ".png": GOOD, "good.png": GOOD},
    }
    skipped = {
        "text": {"good.png": GOOD, "text.png": b"text"},
        "newline": {"good.png": GOOD, "two\nlines.png": b"text"},
        "terminal": {"good.png": GOOD, "\x1b[2J\x1b]0;x\x07.png": b"text"},
        "zero": {"good.png": GOOD, "cut\0off.png": b"text"},
    }
    for expected, made in (("fine", fine), ("skipped", skipped)):
        for name, members in made.items():
            if name == "zero":  # zipfile itself cuts the name there
                yield Case(name, written(root / f"{name}.zip", _zip(members)), "any")
                continue
            yield Case(name, written(root / f"{name}.zip", _zip(members)), expected)
    link = zipfile.ZipInfo("link.png")
    link.external_attr, link.create_system = (stat.S_IFLNK | 0o777) << 16, 3
    yield Case(
        "link", written(root / "link.zip", _zip({"good.png": GOOD}, more=[(link, b"/etc/passwd")])), "skipped"
    )
    locked = bytearray(_zip({"1.png": GOOD, "2.png": GOOD}, zipfile.ZIP_STORED))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        where = locked.rindex(mark)
        locked[where + at] |= 1
    yield Case("encrypted", written(root / "encrypted.zip", bytes(locked)), "skipped", "encrypted")
    whole = _zip({"1.png": GOOD, "2.png": GOOD})
    for keep in (0, 1, 10, 30, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        yield Case(f"cut {keep}", written(root / f"cut{keep}.zip", whole[:keep]), "error")
    end = whole.rindex(b"PK\x05\x06")
    for name, at, value in (
        ("count", 8, b"\xff\xff\xff\xff"),
        ("directory size", 12, b"\xff\xff\xff\x7f"),
        ("directory offset", 16, b"\xff\xff\xff\x7f"),
    ):
        lying = bytearray(whole)
        lying[end + at : end + at + len(value)] = value
        yield Case(name, written(root / f"{name}.zip", bytes(lying)), "any")
    nothing = {"nothing": {}, "no picture": {"a.txt": b"x"}, "only a zip": {"inner.zip": whole}}
    for name, members in nothing.items():
        yield Case(name, written(root / f"{name}.zip", _zip(members)), "error", "no picture")


def zip_bombs(root: Path) -> Iterator[Case]:
    """Deflated, of many entries, overlapping, one in the other; honest about it and not."""
    zeros = deflated_zeros(3 << 10)
    honest = [Entry("a.png", 8, zeros, 3 << 30)]
    yield Case("deflated", written(root / "deflated.zip", raw_zip(honest)), "error", "unpacks")
    lying = [Entry("a.png", 8, zeros, 2000), _stored("good.png")]
    yield Case("lying", written(root / "lying.zip", raw_zip(lying)), "skipped")
    for method, pack in ((12, bz2.compress), (14, _zip_lzma)):
        packed = pack(bytes(64 << 20))
        lying = [Entry("a.png", method, packed, 2000), _stored("good.png")]
        yield Case(f"lying {method}", written(root / f"lying{method}.zip", raw_zip(lying)), "skipped")
    huge = [Entry("a.png", 0, b"x", 2**32 - 2), _stored("good.png")]
    yield Case("lying stored", written(root / "stored.zip", raw_zip(huge)), "error", "unpacks")
    small = deflated_zeros(8)
    same = [Entry("0.png", 8, small, 8 << 20), *(Entry(f"{k}.png", 8, b"", 8 << 20, 0) for k in range(1, 2000))]
    yield Case("overlapping", written(root / "overlapping.zip", raw_zip(same)), "error", "unpacks")
    quoted = [Entry(f"{k}.png", 8, b"", 1000, 0) for k in range(6000)]
    yield Case("many", written(root / "many.zip", raw_zip([_stored("good.png"), *quoted])), "any")
    inner = _zip({"bomb.zip": raw_zip(honest)})
    yield Case("nested", written(root / "nested.zip", inner), "error", "no picture")
    away = [Entry("a.png", 8, b"", 100, 2**32 - 2), _stored("good.png")]
    yield Case("offset", written(root / "offset.zip", raw_zip(away)), "any")
    strange = [Entry("a.png", 99, b"abc", 100), _stored("good.png")]
    yield Case("method", written(root / "method.zip", raw_zip(strange)), "skipped", "compression")


def tars(root: Path) -> Iterator[Case]:
    """Links, devices, names that point away, and headers that lie."""
    for name in ("link", "hard link", "device", "pipe", "directory", "up", "absolute"):
        yield Case(name, written(root / f"{name}.tar", _odd_tar(name)), "fine")
    whole = _tar(tarfile.PAX_FORMAT)
    for keep in (0, 100, 511, 513, len(GOOD) // 2, len(GOOD) + 100):
        yield Case(f"cut {keep}", written(root / f"cut{keep}.tar", whole[:keep]), "error")
    good = header("good.png", len(GOOD)) + padded(GOOD)
    ends = bytes(1024)
    lying = {
        "size": header("a.png", 0o77777777777) + padded(b"x"),
        "largest size": header("a.png", 2**62) + padded(b"x"),
        "negative size": header("a.png", -512) + padded(b"x"),
        "very negative size": header("a.png", -(2**62)) + padded(b"x"),
        "negative folder": header("a", -1024, b"5"),
        "long name": header("././@LongLink", 8 << 30, b"L") + padded(b"x"),
        "negative long name": header("././@LongLink", -512, b"L") + padded(b"x"),
        "pax": header("p", 8 << 30, b"x") + padded(b"x"),
        "negative pax": header("p", -512, b"x") + padded(b"x"),
        "pax size": _pax("size=-1024") + good,
        "pax huge size": _pax(f"size={2**70}") + good,
        "pax words": _pax("size=many") + good,
        "pax length": header("p", 20, b"x") + padded(b"99999999999 path=a\n") + good,
        "pax map": _pax("GNU.sparse.map=0,9999999999999,x") + good,
        "pax sparse": _pax("GNU.sparse.major=1\nGNU.sparse.minor=0\nGNU.sparse.realsize=99999999999") + good,
        "pax chain": _pax("comment=x") * 5000 + good,
        "long name chain": (header("././@LongLink", 2, b"L") + padded(b"a")) * 5000 + good,
        "sparse": header("a.png", 512, b"S") + padded(b"x"),
    }
    for name, data in lying.items():
        yield Case(name, written(root / f"{name}.tar", good + data + good + ends), "any")
    yield Case("sparse map", written(root / "sparse.tar", _sparse_header() + good + ends), "any")
    deep = "/".join(["d"] * 30_000) + ".png"
    yield Case("deep", written(root / "deep.tar", _pax(f"path={deep}") + good + good + ends), "fine")
    for name, data in {
        "text": b"text " * 400,
        "zeros": bytes(5000),
        "gzip of nothing": gzip.compress(b""),
        "cut gzip": gzip.compress(whole)[:-20],
        "xz of text": lzma.compress(b"text"),
        "xz with a huge dictionary": lzma.compress(
            whole, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": (3 << 30) // 2}]
        )[:200],
    }.items():
        yield Case(name, written(root / f"{name}.tar.gz", data), "error")


def tar_bombs(root: Path) -> Iterator[Case]:
    """Compressed tars of 3 GiB and more."""
    head, count = header("a.png", 3 << 30), 3 << 10
    start = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = start.compress(head) + start.flush(zlib.Z_FULL_FLUSH) + deflated_zeros(count, last=False)
    packed = {
        "gz": data,
        "bz2": bz2.compress(head) + bz2.compress(bytes(100 << 20)) * 40,
        "xz": lzma.compress(head) + lzma.compress(bytes(64 << 20)) * 60,
    }
    for kind, bomb in packed.items():
        yield Case(kind, written(root / f"a.tar.{kind}", bomb), "error", "unpacks")


FAMILIES = {"zips": zips, "zip bombs": zip_bombs, "tars": tars}
SLOW = {"tar bombs": tar_bombs}


# -- files byte by byte ----------------------------------------------------------------------------------------


class Entry:
    """A member of a zip, as its headers tell of it; at: where its data is said to be, if not where it is."""

    def __init__(self, name: str, method: int, data: bytes, size: int, at: int | None = None) -> None:
        self.name, self.method, self.data, self.size, self.at = name.encode(), method, data, size, at


def raw_zip(entries: list[Entry]) -> bytes:
    """A zip of what its headers say, right or wrong; the checksums are those of nothing."""
    body, directory = bytearray(), bytearray()
    first = entries[0]
    for entry in entries:
        at = len(body) if entry.at is None else entry.at
        packed = len(entry.data) or len(first.data)
        crc = zlib.crc32(entry.data) if entry.method == 0 else 0
        common = struct.pack(
            "<HHHHHIIIHH", 20, 0, entry.method, 0, 33, crc, packed, entry.size, len(entry.name), 0
        )
        if entry.at is None:
            body += b"PK\x03\x04" + common + entry.name + entry.data
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, at)
        directory += entry.name
    count = min(len(entries), 0xFFFF)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory + b"PK\x05\x06" + end)


def deflated_zeros(mebibytes: int, last: bool = True) -> bytes:
    """Raw deflated zeros, made in no time: each mebibyte is the same kilobyte."""
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeezed.compress(bytes(_BLOCK)) + squeezed.flush(zlib.Z_FULL_FLUSH)
    return block * mebibytes + (squeezed.flush() if last else b"")


def header(name: str, size: int, kind: bytes = b"0", link: str = "") -> bytes:
    """A header of a tar with the right checksum; sizes that octal digits cannot say stand in binary."""
    told = b"%011o\0" % size if 0 <= size < 8**11 else (size % 256**12 | 1 << 95).to_bytes(12, "big")
    if size < 0:
        told = b"\xff" + (size % 256**11).to_bytes(11, "big")
    fields = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + told + b"%011o\0" % 0
    rest = kind + link.encode().ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
    block = bytearray((fields + b" " * 8 + rest).ljust(512, b"\0"))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def _stored(name: str) -> Entry:
    return Entry(name, 0, GOOD, len(GOOD))


def _zip_lzma(data: bytes) -> bytes:
    """As a zip holds it: a version and the properties before it."""
    whole = lzma.compress(data, lzma.FORMAT_ALONE, preset=0)
    return b"\x09\x04\x05\0" + whole[:5] + whole[13:]


def _zip(
    members: dict[str, bytes],
    method: int = zipfile.ZIP_DEFLATED,
    more: list[tuple[zipfile.ZipInfo, bytes]] | None = None,
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
        for info, data in more or ():
            archive.writestr(info, data)
    return stream.getvalue()


def _tar(form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name in ("a/1.png", "b/2.png" if form == tarfile.USTAR_FORMAT else f"b/{'é' * 120}.png"):
            member = tarfile.TarInfo(name)
            member.size = len(GOOD)
            archive.addfile(member, io.BytesIO(GOOD))
    return stream.getvalue()


def _odd_tar(what: str) -> bytes:
    kinds = {"link": b"2", "hard link": b"1", "device": b"3", "pipe": b"6", "directory": b"5"}
    names = {"up": "../../../up.png", "absolute": "/tmp/absolute.png"}
    good = header("good.png", len(GOOD)) + padded(GOOD)
    if what in names:
        return header(names[what], len(GOOD)) + padded(GOOD) + good + bytes(1024)
    return header("odd.png", 0, kinds[what], "/etc/passwd") + good + bytes(1024)


def _pax(text: str) -> bytes:
    data = b""
    for line in text.split("\n"):
        length = len(line.encode()) + 2
        while len(str(length)) + len(line.encode()) + 2 != length:
            length = len(str(length)) + len(line.encode()) + 2
        data += f"{length} {line}\n".encode()
    return header("p", len(data), b"x") + padded(data)


def _sparse_header() -> bytes:
    """GNU's old kind, which says that more of its map follows, and never ends."""
    block = bytearray(header("a.png", 512, b"S"))
    block[257:265] = b"ustar  \0"
    block[386:482] = b"%011o\0%011o\0" % (0, 8**11 - 1) * 4
    block[482] = 1
    block[483:495] = b"%011o\0" % (8**11 - 1)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + (b"%011o\0%011o\0" % (8**10, 1)) * 21 + b"\1" + bytes(7)
