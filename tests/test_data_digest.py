from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ddpm.data import digest


def test_parts_keep_their_order() -> None:
    parts = [bytes([k]) * 5000 for k in range(200)]
    assert digest.of_parts(200, parts.__getitem__) == [hashlib.sha256(part).digest() for part in parts]


def test_files_by_content_and_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_BLOCK", 10)

    def of(*contents: bytes) -> str:
        paths = []
        for k, content in enumerate(contents):
            paths.append(tmp_path / f"{k}-{len(contents)}")
            paths[-1].write_bytes(content)
        return digest.of_files(paths)

    long = bytes(range(95))
    assert of(long) == of(long)
    changed = bytearray(long)
    changed[57] ^= 1
    different = {
        of(long),
        of(bytes(changed)),
        of(long[:90]),
        of(long[:50], long[50:]),
        of(long[10:] + long[:10]),
    }
    assert len(different) == 5
    assert digest.workers_here() >= 1
