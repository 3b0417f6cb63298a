"""Samples on disk: what is written is read back, with the small pictures an upsampler made them of."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ddpm.errors import UserError
from ddpm.samples import Samples

CLASSES = ("ant", "bee/hive", "cat")


def samples(count=3, channels=3, size=(4, 6), labels=(2, 0, 1), base=None, **record):
    pixels = np.random.default_rng(count).integers(0, 256, (count, channels, *size), dtype=np.uint8)
    return Samples(pixels, labels, CLASSES, {"model": "zoo", "seed": 3, "first": 0, **record}, base=base)


def same(a, b):
    return (
        np.array_equal(a.pixels, b.pixels)
        and (a.labels, a.classes, a.record) == (b.labels, b.classes, b.record)
        and (a.base is b.base is None or same(a.base, b.base))
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("labels", [None, (2, 0, 1)])
def test_what_is_saved_is_loaded(tmp_path, channels, labels):
    made = samples(channels=channels, labels=labels)
    made.save(tmp_path / "s")
    assert same(Samples.load(tmp_path / "s"), made)


def test_pictures_come_in_the_order_of_their_numbers(tmp_path):
    made = samples(first=999_998)
    made.save(tmp_path / "s")
    names = [path.name for path in sorted((tmp_path / "s" / "pictures").iterdir())]
    assert names[-1].startswith("999999") and "1000000-bee-hive.png" in names
    assert same(Samples.load(tmp_path / "s"), made)


def test_the_small_pictures_are_kept_stage_by_stage(tmp_path):
    first = samples(size=(1, 2))
    second = samples(size=(2, 3), base=first, model="up")
    made = samples(size=(4, 6), base=second, model="again")
    made.save(tmp_path / "s")
    assert same(Samples.load(tmp_path / "s"), made)
    for folder, of in [("s", made), ("s/base", second), ("s/base/base", first)]:
        with Image.open(tmp_path / folder / "pictures" / "000001-ant.png") as image:
            assert np.array_equal(np.asarray(image), of.pixels[1].transpose(1, 2, 0))
        assert (tmp_path / folder / "grid.png").is_file()
    samples().save(tmp_path / "s")  # and are replaced with the rest
    assert not (tmp_path / "s" / "base").exists() and Samples.load(tmp_path / "s").base is None


def test_the_record_of_the_small_pictures_is_in_the_large_ones(tmp_path):
    base = samples()
    Samples(base.pixels, None, (), {"model": "up", "first": 0, "base": base.record}, base=base).save(
        tmp_path / "s"
    )
    with Image.open(tmp_path / "s" / "pictures" / "000002.png") as image:
        assert json.loads(image.text["ddpm:base"]) == {"model": "zoo", "seed": 3, "first": 0}
        assert image.text["ddpm:model"] == "up"


@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda at: (at / "samples.json").unlink(), "No such file"),
        (lambda at: (at / "samples.json").write_text("{"), "Expecting"),
        (lambda at: (at / "samples.json").write_text("[]"), "samples.json holds no record"),
        (lambda at: next((at / "pictures").iterdir()).unlink(), "3 labels for 2 pictures"),
        (lambda at: shutil.rmtree(at / "pictures"), "need at least one array"),
        (lambda at: next((at / "pictures").iterdir()).write_bytes(b"\x89PNG"), "cannot identify"),
        (lambda at: (at / "pictures" / "me.png").write_bytes(b""), "invalid literal"),
        (lambda at: Image.new("RGB", (9, 9)).save(at / "pictures" / "9.png"), "same shape"),
        (lambda at: edit(at, labels=[0, 1, 3]), "labels other than 0 to 2"),
        (lambda at: edit(at, labels="abc"), "labels other than 0 to 2"),
    ],
)
def test_what_is_not_whole(tmp_path, harm, said):
    at = samples().save(tmp_path / "s")
    harm(at)
    with pytest.raises(UserError, match=f"s: not whole as ddpm sample writes it .*{said}.*; draw it anew"):
        Samples.load(at)


def edit(folder, **values):
    record = json.loads((folder / "samples.json").read_text())
    (folder / "samples.json").write_text(json.dumps({**record, **values}))
