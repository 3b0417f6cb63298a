"""TensorFlow's checkpoints, written here byte by byte as LevelDB's tables and protocol buffers are defined."""

import struct

import numpy as np
import pytest
import torch

from ddpm.convert.bundle import files_of, prefix_of, read_bundle
from ddpm.errors import UserError

KINDS = {"float32": 1, "float64": 2, "int64": 9, "float16": 19}


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def block(entries, restart=3):
    """A block whose keys share what they can with the one before, but at every restart."""
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out + b"".join(struct.pack("<I", at) for at in restarts) + struct.pack("<I", len(restarts))


def table(entries, size=4, compression=0):
    """A table with `size` entries a block; checksums are left at 0."""
    data, index = b"", []

    def put(part):
        nonlocal data
        handle = varint(len(data)) + varint(len(part))
        data += part + bytes([compression]) + bytes(4)
        return handle

    for at in range(0, len(entries), size):
        rows = entries[at : at + size]
        index.append((rows[-1][0] + b"~", put(block(rows))))
    ends = put(block([])), put(block(index, restart=1))
    return data + b"".join(ends).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write(prefix, variables, shards=1, **options):
    """A checkpoint of variables, dealt out over so many data files."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    data, entries = [bytearray() for _ in range(shards)], [(b"", field(1, shards) + field(3, field(1, 1)))]
    for i, (name, value) in enumerate(sorted(variables.items())):
        shape = b"".join(field(2, field(1, n)) for n in value.shape)
        shard, raw = i % shards, value.tobytes()
        where = [field(3, shard)] * bool(shard) + [field(4, len(data[shard]))] * bool(data[shard])
        checksum = varint(6 << 3 | 5) + bytes(4)
        said = (
            field(1, KINDS[str(value.dtype)]) + field(2, shape) + b"".join(where) + field(5, len(raw)) + checksum
        )
        entries.append((name.encode(), said))
        data[shard] += raw
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries, **options))
    for i, part in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}").write_bytes(part)
    return prefix


def some(count=11):
    rng = np.random.default_rng(0)
    made = {
        f"model/down_{i // 3}/block_{i % 3}/conv1/W": rng.normal(size=(3, 3, 2, i + 1)).astype("f4")
        for i in range(count)
    }
    return {
        **made,
        "model/scalar": np.float32(2.5),
        "wide": rng.normal(size=300),
        "half": rng.normal(size=3).astype("f2"),
    }


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("size", [1, 4, 99])
def test_every_variable_is_read(tmp_path, shards, size):
    variables = some()
    prefix = write(tmp_path / "model.ckpt-7", {**variables, "global_step": np.array(7)}, shards, size=size)
    read = read_bundle(prefix, lambda name: True)
    assert read.keys() == variables.keys()  # not what is no float
    for name, value in variables.items():
        assert read[name].dtype == torch.float32 and read[name].shape == value.shape
        assert np.array_equal(read[name].numpy(), value.astype("f4"))
    assert set(read_bundle(prefix, lambda name: name.startswith("model/down_0"))) == {
        f"model/down_0/block_{i}/conv1/W" for i in range(3)
    }


def test_what_names_a_checkpoint(tmp_path):
    prefix = write(tmp_path / "one" / "model.ckpt-7", some(1))
    index, data = (tmp_path / "one" / f"model.ckpt-7.{end}" for end in ("index", "data-00000-of-00001"))
    assert files_of(prefix) == [index, data]
    for path in (prefix, index, data, tmp_path / "one"):
        assert prefix_of(path) == prefix
    (tmp_path / "words.index").write_text("a, b")
    for path in (
        tmp_path,
        tmp_path / "nothing",
        tmp_path / "one" / "model.ckpt-8",
        tmp_path.parent,
        tmp_path / "..",
    ):
        assert prefix_of(path) is None
    write(tmp_path / "one" / "model.ckpt-80", some(1))
    with pytest.raises(
        UserError, match=r"holds several checkpoints of TensorFlow; name one, as .*model\.ckpt-80: model"
    ):
        prefix_of(tmp_path / "one")
    assert prefix_of(prefix) == prefix


def test_what_is_missing_or_damaged(tmp_path):
    prefix = write(tmp_path / "model.ckpt-7", some())
    index, data = files_of(prefix)
    whole, numbers = index.read_bytes(), data.read_bytes()

    def refused(match):
        with pytest.raises(UserError, match=match) as error:
            read_bundle(prefix, lambda name: True)
        assert "\n" not in str(error.value)

    data.write_bytes(numbers[:-1])
    refused("model.ckpt-7.index: damaged, or no checkpoint .*ends too early.*; fetch it again")
    data.unlink()
    refused(r"data-00000-of-00001: missing; a checkpoint of TensorFlow is all of its files")
    data.write_bytes(numbers)
    index.write_bytes(table([(b"", b"")], compression=1))
    refused("it is compressed")
    for changed in (b"", b"x" * 100, whole[:-1], whole[10:], whole[:-60] + whole[-48:]):
        index.write_bytes(changed)
        refused("model.ckpt-7.index: damaged, or no checkpoint")
