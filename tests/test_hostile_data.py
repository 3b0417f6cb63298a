"""Hostile DATA (`hostile.py`): one line or a counted skip, whatever it is.

No stack trace, no hang, no crash; nothing run, nothing written beside the cache, and memory bounded.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import re
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import hostile
from ddpm.data import bounds, decode, open_source
from ddpm.errors import UserError
from hostile import Case, encoded, noise, written
from hostile_archives import header, padded
from hostile_folders import closed
from hostile_pictures import png_header, wholes
from hostile_tables import Payload
from hostile_trial import Outcome, Trial, tried

MEMORY = 1 << 30
"""Bytes that no case may take more than, beyond those of the process itself."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    (root / "here").mkdir()
    (root / "place").mkdir()
    return root


@pytest.fixture(scope="module")
def trial(root: Path) -> Iterator[Trial]:
    with Trial(root / "here" / "cache") as trial:
        yield trial


def there(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all that is in a folder but the cache; of what is very deep in it, nothing."""
    found = {}
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("d", "cache")]
        for name in (*folders, *files):
            status = os.lstat(os.path.join(path, name))  # noqa: PTH118
            found[f"{path}/{name}"] = status.st_size, status.st_mtime_ns
    return found


def wrong(case: Case, outcome: Outcome) -> str:
    """What is not as it should be; "" if all is."""
    expected = ("error", "skipped", "fine") if case.expected == "any" else (case.expected,)
    faults = [] if outcome.kind in expected else [f"{outcome.kind}, not {case.expected}"]
    if case.says not in outcome.text:
        faults.append(f"{case.says!r} not said")
    if not outcome.text.isprintable():
        faults.append("more than one line")
    if outcome.grown > MEMORY or "memory" in outcome.text:
        faults.append(f"{outcome.grown / 1e6:.0f} MB")
    if re.search("Traceback|Warning:|Error:", outcome.stderr):  # libtiff's own lines cannot be turned off
        faults.append(f"stderr {outcome.stderr}")
    return f"{case.name}: {'; '.join(faults)}: {outcome.text[-1500:]}" if faults else ""


@pytest.mark.parametrize("family", hostile.families())
def test_every_case_is_what_it_should_be(family: str, root: Path, trial: Trial) -> None:
    place = root / "place" / family
    place.mkdir()
    faults, count = [], 0
    for case in hostile.families()[family](place):
        before = there(place), there(root / "here")
        faults.append(wrong(case, trial(case)))
        if (there(place), there(root / "here")) != before:
            faults.append(f"{case.name}: wrote something")
        count += 1
    assert not [fault for fault in faults if fault]
    assert not list(place.glob(hostile.SENTINEL))
    assert sorted(path.name for path in root.iterdir()) == ["here", "place"]
    assert count >= 5 or family == "tables"


def test_payloads_would_run(tmp_path: Path) -> None:
    """Or that none of them ran would say nothing."""
    pickle.loads(pickle.dumps(Payload(tmp_path))).close()
    assert (tmp_path / hostile.SENTINEL).exists()


def test_a_trial_tells_of_hangs_crashes_and_traces(
    tmp_path: Path, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or that there were none would say nothing."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ddpm.data.open_sources", fail)
    assert tried("x", "centre", tmp_path)[0] == "trace"
    (tmp_path / "a").mkdir()
    case = Case("good", written(tmp_path / "a" / "good.png", encoded(noise())).parent, "fine")
    assert trial(case).kind == "fine"
    child = trial._child
    assert child is not None
    child.send_signal(signal.SIGSEGV)
    assert trial(case).kind == "crash"
    monkeypatch.setattr(trial, "_patience", 0.001)
    assert trial(case).kind == "hang"


def test_what_may_not_be_read() -> None:
    """Root may read everything, so this is tried as nobody."""
    folder = Path(tempfile.mkdtemp())  # pytest's own is closed to others
    try:
        folder.chmod(0o755)
        (folder / "here").mkdir()
        (folder / "here").chmod(0o777)
        with Trial(folder / "here" / "cache", user=65534 if os.geteuid() == 0 else None) as trial:
            faults = [wrong(case, trial(case)) for case in closed(folder)]
        assert not [fault for fault in faults if fault]
        assert len(faults) >= 10
    finally:
        for path, _, _ in os.walk(folder):
            Path(path).chmod(0o755)
        shutil.rmtree(folder)


# -- limits, lowered -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_packed_tars_of_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bounds, "MOST", 1 << 18)
    data = header("a.png", 1 << 20) + bytes(1 << 20) + bytes(1024)
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind]
    path = written(tmp_path / f"a.tar.{kind}", pack(data))
    with pytest.raises(UserError, match=r"a\.tar\.\w+: unpacks to more than 262 kB, .* give the folder itself"):
        open_source(path)
    assert list((tmp_path / "cache").iterdir()) == []
    random = np.random.default_rng(0).bytes(1 << 20)  # as large, and so packed no better than pictures are
    good = padded(header("a.png", len(random)) + random) + bytes(1024)
    assert len(open_source(written(tmp_path / f"b.tar.{kind}", pack(good)))) == 1


@pytest.mark.parametrize(
    ("sides", "bytes_there", "refused"),
    [
        ((16384, 16384), 270_000, False),
        ((16384, 16385), 10_000_000, True),
        ((16384, 16384), 260_000, True),
        ((8192, 8192), 0, False),
        ((1 << 20, 1), 0, False),
        (((1 << 20) + 1, 1), 0, True),
    ],
)
def test_how_large_a_picture_may_be(sides: tuple[int, int], bytes_there: int, refused: bool) -> None:
    """2^28 pixels; 2^26 with less than a byte for a thousand; 2^20 a side."""
    data = png_header(*sides).ljust(bytes_there, b"\0")
    try:
        with decode.opened(io.BytesIO(data)) as image:
            assert image.size == sides
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        assert refused
    else:
        assert not refused


def test_a_usual_progressive_jpeg_has_few_passes() -> None:
    usual = encoded(noise(64, 64), "JPEG", progressive=True)
    assert 1 < usual.count(b"\xff\xda") <= 20
    with decode.opened(io.BytesIO(usual)) as image:
        assert decode.raw(image).shape == (64, 64, 3)


# -- bytes that hypothesis damages -----------------------------------------------------------------------------

DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 16), st.binary(max_size=16)), min_size=1, max_size=4)


def damaged(data: bytes, damage: list[tuple[float, int, bytes]]) -> bytes:
    for where, length, put in damage:
        at = int(where * len(data))
        data = data[:at] + put + data[at + length :]
    return data


PICTURES = wholes()


@settings(max_examples=250)
@given(name=st.sampled_from(sorted(PICTURES)), damage=DAMAGE, crop=st.sampled_from(["centre", "random", "pad"]))
def test_damaged_pictures_decode_or_say_why(name: str, damage: list[tuple[float, int, bytes]], crop: Any) -> None:
    data = damaged(PICTURES[name], damage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, as in production
        try:
            with decode.opened(io.BytesIO(data)) as image:
                pixels = decode.fit(image, decode.Fit((8, 8), 3, crop))
        except Exception as error:
            reason = decode.fault(error, name)
            assert reason and reason.isprintable() and len(reason) <= 300
        else:
            assert pixels.dtype == np.uint8 and pixels.shape[0] == 3 and min(pixels.shape[1:]) >= 8


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    made = hostile.wholes(tmp_path_factory.mktemp("wholes"))
    return {name: data for name, data in made.items() if name not in PICTURES and "/" not in name}


@settings(max_examples=300)
@given(data=st.data(), damage=DAMAGE)
def test_damaged_files_open_or_say_why(
    data: st.DataObject, damage: list[tuple[float, int, bytes]], others: dict[str, bytes], root: Path
) -> None:
    name = data.draw(st.sampled_from(sorted(name for name in others if not name.endswith(".parquet"))))
    folder = root / "here" / "drawn"
    shutil.rmtree(folder, ignore_errors=True)
    path = written(folder / name, damaged(others[name], damage))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            source = open_source(path)
            look = source.look()
            assert look.seen == len(source) == look.grey + look.colour + len(look.unreadable)
            assert source.labels is None or len(source.labels) == len(source)
        except UserError as error:
            assert str(error).isprintable()


# -- by the thousand -------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_thousands_of_hostile_files(root: Path) -> None:
    """Every case there is, and whole files of every format damaged by a seed."""
    counts: Counter[str] = Counter()
    faults, most, slowest = [], 0, 0.0
    place = root / "place" / "by the thousand"
    place.mkdir()

    def all_of_them() -> Iterator[Case]:
        for name, family in hostile.families(slow=True).items():
            (place / name).mkdir()
            yield from family(place / name)
        yield from hostile.mutated(place, seed=0, count=5000)

    with Trial(root / "here" / "cache") as trial:
        for case in all_of_them():
            outcome = trial(case)
            counts[outcome.kind] += 1
            faults.append(wrong(case, outcome))
            most, slowest = max(most, outcome.grown), max(slowest, outcome.seconds)
    assert not [fault for fault in faults if fault]
    assert not list(place.rglob(hostile.SENTINEL))
    assert sorted(path.name for path in root.iterdir()) == ["here", "place"]
    assert counts.total() >= 5000
    print(
        f"files tried {counts.total():,}, refused {counts['error']:,}, skipped {counts['skipped']:,}, fine "
        f"{counts['fine']:,}, stack traces {counts['trace']}, crashes {counts['crash']}, hangs {counts['hang']}; "
        f"at most {most / 1e6:.0f} MB more memory, {slowest:.1f} s"
    )
