from __future__ import annotations

import io
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddpm.data import Source, load, open_source, open_sources
from ddpm.data.hub import address
from ddpm.errors import UserError


def picture(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def png(k: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(k)).save(stream, "PNG")
    return stream.getvalue()


def table(*numbers: int, names: tuple[str, ...] = ("dog", "cat")) -> datasets.Dataset:
    """Pictures as hub data sets hold them, odd ones of class names[1]."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    rows = {"image": [{"bytes": png(k), "path": None} for k in numbers], "label": [k % 2 for k in numbers]}
    return datasets.Dataset.from_dict(rows, features=features)


def raw(path: Path, **columns: object) -> Path:
    """A parquet file without anything of datasets in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kw: pytest.fail("asked for an address"))


def named(source: Source) -> list[str]:
    assert source.labels is not None and source.labels.dtype == np.int64
    return [source.classes[label] for label in source.labels]


def refused(data: Path | str, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parquet_file_of_a_hub_data_set(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pq.write_table(table(0, 1, 2).with_format("arrow")[:], tmp_path / "pets.v1 [a].parquet")
    source = open_source(tmp_path / "pets.v1 [a].parquet")
    assert (source.name, len(source)) == ("pets.v1 [a]", 3)
    assert source.classes == ("dog", "cat")  # as the schema has them
    assert named(source) == ["dog", "cat", "dog"]
    assert source.describe(2) == "pets.v1 [a][2]"
    assert source.notes == ("2 classes from column label: dog, cat",)
    for k in range(3):
        np.testing.assert_array_equal(source.picture(k), picture(k))
        assert source.content(k) == png(k)
    assert open_source(tmp_path / "pets.v1 [a].parquet", labels="none").labels is None
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "cache").is_dir()


def test_bytes_alone_with_names_or_integers(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.parquet", jpg=[png(k) for k in range(3)], target=["b", "a", "b"])
    assert named(open_source(path)) == ["b", "a", "b"]
    path = raw(tmp_path / "b.parquet", jpg=pa.array([png(0), png(1)], pa.large_binary()), category=[10, 9])
    assert open_source(path).classes == ("9", "10")
    assert named(open_source(path)) == ["10", "9"]
    path = raw(tmp_path / "c.parquet", jpg=[png(0)], size=[3.0])
    assert open_source(path).notes == ("no classes: none of the columns jpg, size has labels",)
    path = raw(tmp_path / "d.parquet", jpg=[png(0)], label=[[0.5]])
    assert "no classes: label holds" in open_source(path).notes[0]
    path = raw(tmp_path / "e.parquet", jpg=[png(0), png(1)], label=["cat", "cat"])
    assert open_source(path).notes == ("no classes: label is cat in every row",)


def test_the_column_called_image_is_taken(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.parquet", mask=[png(0)], image=[png(1)], depth=[png(2)])
    source = open_source(path)
    np.testing.assert_array_equal(source.picture(0), picture(1))
    assert source.notes[0] == "pictures from column image; mask, depth left alone"


def test_folder_of_shards_with_splits(tmp_path: Path) -> None:
    for name, numbers in (
        ("train-00000-of-00002", (0, 1)),
        ("train-00001-of-00002", (2,)),
        ("test-00000-of-00001", (4, 5)),
    ):
        raw(
            tmp_path / "pets" / "data" / f"{name}.parquet",
            image=[png(k) for k in numbers],
            label=[k % 2 for k in numbers],
        )
    source = open_source(tmp_path / "pets")
    assert (source.name, len(source), source.classes) == ("pets", 3, ("0", "1"))
    assert source.notes[0] == "split train taken, test left; --holdout test measures on that one"
    assert source.describe(2) == "pets:train[2]"
    np.testing.assert_array_equal(source.picture(2), picture(2))
    train, held = open_sources([tmp_path / "pets"], holdout="test")
    assert held is not None and (len(train), len(held)) == (3, 2)
    assert train.fingerprint() == source.fingerprint()
    np.testing.assert_array_equal(held.picture(1), picture(5))
    assert named(held) == ["0", "1"]


def test_folder_of_shards_without_splits(tmp_path: Path) -> None:
    for k in range(3):
        raw(tmp_path / "pets" / f"part{k}.parquet", image=[png(k)])
    source = open_source(tmp_path / "pets")
    assert len(source) == 3
    for k in range(3):
        np.testing.assert_array_equal(source.picture(k), picture(k))


def test_splits_without_train_are_not_guessed(tmp_path: Path) -> None:
    datasets.DatasetDict({"a": table(0, 1), "b": table(2)}).save_to_disk(tmp_path / "pets")
    assert refused(tmp_path / "pets").endswith(
        "pets: no split train, only a, b: give the files of one of them, or hold the other out (--holdout b)"
    )
    assert len(open_source(tmp_path / "pets" / "a")) == 2
    train, held = open_sources([tmp_path / "pets"], holdout="b")
    assert held is not None and (len(train), len(held)) == (2, 1)


def test_save_to_disk(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": table(0, 1, 2), "test": table(4, 5)}).save_to_disk(tmp_path / "pets")
    source = open_source(tmp_path / "pets")
    assert (source.name, len(source), source.classes) == ("pets", 3, ("dog", "cat"))
    test = open_source(tmp_path / "pets" / "test")
    assert (test.name, len(test)) == ("test", 2)
    np.testing.assert_array_equal(test.picture(1), picture(5))
    for holdout in ("test", str(tmp_path / "pets" / "test")):
        train, held = open_sources([tmp_path / "pets"], holdout=holdout)
        assert held is not None and (len(train), named(held)) == (3, ["dog", "cat"])


def test_selected_rows_stay_selected(tmp_path: Path) -> None:
    table(0, 1, 2, 3).select([3, 1]).save_to_disk(tmp_path / "pets")
    source = open_source(tmp_path / "pets", labels="none")
    np.testing.assert_array_equal(source.picture(0), picture(3))


def test_threads_read_the_same_rows(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.parquet", image=[png(k) for k in range(40)])
    source = open_source(path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.content, [k % 40 for k in range(800)]))
    assert found == [png(k % 40) for k in range(800)]


def test_fingerprint_and_stamp_follow_contents_order_and_row(tmp_path: Path) -> None:
    prints, stamps = [], []
    for numbers in ((0, 1, 2), (0, 1, 3), (1, 0, 2), (0, 1)):
        source = open_source(raw(tmp_path / "a.parquet", image=[png(k) for k in numbers]))
        prints.append(source.fingerprint())
        stamps.append(source.stamp().state)
    assert len(set(prints)) == len(set(stamps)) == 4
    assert open_source(raw(tmp_path / "b.parquet", pixels=[png(0), png(1)])).fingerprint() == prints[3]
    two = raw(tmp_path / "c.parquet", image=[png(0), png(1)], mask=[png(0), png(1)])
    assert open_source(two).fingerprint() == prints[3]


def test_rows_that_are_no_pictures_are_skipped(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.parquet", image=[png(0), None, b"junk", png(3)], label=[0, 1, 0, 1])
    pictures = load(open_source(path), (8, 8), 3)
    assert pictures.skipped == (
        ("a[1]", "no picture in this row"),
        ("a[2]", "not a picture in a known format"),
    )
    assert pictures.labels is not None and pictures.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(pictures.pixels[1], picture(3).transpose(2, 0, 1))  # type: ignore[attr-defined]


def test_rows_that_name_their_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(5))
    cells = [{"bytes": None, "path": str(tmp_path / "x.png")}, {"bytes": png(1), "path": "gone.png"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    source = open_source(raw(tmp_path / "a.parquet", image=pa.array(cells, kind)))
    np.testing.assert_array_equal(source.picture(0), picture(5))
    np.testing.assert_array_equal(source.picture(1), picture(1))


def test_missing_labels(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.parquet", image=[png(k) for k in range(3)], label=["a", None, "b"])
    assert "row 1 has no label, as 1 of 3 have none: " in refused(path)
    assert len(open_source(path, labels="none")) == 3
    unlabelled = datasets.Dataset.from_dict(
        {"image": [png(0), png(1)], "label": [0, -1]},
        features=datasets.Features(
            {"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=["a", "b"])}
        ),
    )
    unlabelled.save_to_disk(tmp_path / "b")
    assert "label" in refused(tmp_path / "b")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1junk")
    assert "a.parquet: cannot be read by datasets (Parquet magic bytes not found" in refused(
        tmp_path / "a.parquet"
    )
    assert "a.parquet: cannot be read by datasets" in refused(
        raw(tmp_path / "a.parquet", image=pa.array([], pa.binary()))
    )
    text = refused(raw(tmp_path / "b.parquet", url=["http://x/1.png"], width=[3]))
    assert "b.parquet: no column holds picture files, only url (string), width (int64): store PNG" in text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("org/name", ("org/name", None, None)),
        ("hub:name", ("name", None, None)),
        ("hub:org/name@config:test", ("org/name", "config", "test")),
        ("org/na.me-1:train[:10%]", ("org/na.me-1", None, "train[:10%]")),
        ("name", None),
        ("./org/name", None),
        ("../name", None),
        ("/org/name", None),
        ("a/b/c", None),
        ("hub:a/b/c", None),
        ("hub:", None),
        ("a b/c", None),
    ],
)
def test_addresses(data: str, expected: tuple[str, str | None, str | None] | None) -> None:
    assert address(data) == expected


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the library is asked for in place of the hub, which answers with two splits."""
    calls: list[tuple[object, ...]] = []

    def answer(path: str, name: str | None = None, split: str | None = None, **kw: object) -> object:
        calls.append((path, name, split))
        whole = datasets.DatasetDict({"train": table(0, 1, 2), "test": table(4, 5)})
        return whole if split is None else whole[split]

    monkeypatch.setattr(datasets, "load_dataset", answer)
    return calls


def test_hub_ids(asked: list[tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = open_source("org/pets")
    assert (source.name, len(source), source.classes) == ("pets", 3, ("dog", "cat"))
    test = open_source("hub:org/pets@small:test")
    assert (test.describe(0), len(test)) == ("pets:test[0]", 2)
    open_source("hub:pets")
    assert asked == [("org/pets", None, None), ("org/pets", "small", "test"), ("pets", None, None)]
    train, held = open_sources(["org/pets"], holdout="test")
    assert held is not None and (len(train), len(held)) == (3, 2)
    train, held = open_sources(["hub:org/pets:train"], holdout="hub:org/pets:test")
    assert held is not None and (len(train), len(held)) == (3, 2)


def test_paths_beat_hub_ids(
    asked: list[tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "pets").mkdir(parents=True)
    (tmp_path / "org" / "pets" / "a.png").write_bytes(png(0))
    assert len(open_source("org/pets")) == 1
    assert "org/pest: no such file or folder: give" in refused("org/pest")  # the folder org is here
    assert "nowhere/a.zip: no such file or folder: give" in refused("nowhere/a.zip")
    assert "pets: no such file or folder: give" in refused("pets")
    assert not asked


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ConnectionError("Couldn't reach\nit"),
            r"cannot be asked for it \(Couldn't reach it\): check the name, or",
        ),
        (
            datasets.exceptions.DatasetNotFoundError("no 'org/pets'"),
            r"no data set .* \(no 'org/pets'\): check the name",
        ),
        (
            ValueError("Config name is missing.\nPick one of a, b"),
            r"cannot be read by datasets \(Config name is missing\. Pick",
        ),
        (RuntimeError(), r"\(RuntimeError\)"),
    ],
)
def test_errors_of_the_library(
    error: Exception, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kw: object) -> object:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=f"^org/pets: .*{says}"):
        open_source("org/pets")
    assert not datasets.are_progress_bars_disabled()


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    path = raw(tmp_path / "a.parquet", image=[png(0)])
    assert refused(path).endswith(
        "a.parquet: parquet files and data sets of the hub need an extra: pip install 'ddpm[hub]'"
    )
    assert refused("hub:org/name").startswith("hub:org/name: parquet files and data sets of the hub need an extra")
    assert refused("org/name").startswith(
        "org/name: no such file or folder, and parquet files and data sets of the hub"
    )


def test_datasets_is_imported_only_where_needed() -> None:
    code = "import sys, ddpm.data; sys.exit('datasets' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_splits_of_the_hub_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = datasets.DatasetDict({"a": table(0, 1), "b": table(2)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kw: found)
    assert refused("org/pets@small").endswith("only a, b: name one, as in hub:org/pets@small:a")


@pytest.mark.parametrize(("data", "lines"), [("data/photos", 1), ("hub:data/photos", 0)])
def test_what_is_looked_for_on_the_hub_is_said_and_nothing_else(
    data: str, lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = logging.getLogger("huggingface_hub")
    spoken = logging.StreamHandler(sys.stderr)

    def fail(*args: object, **kw: object) -> object:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("no route")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    before = client.level
    client.addHandler(spoken)
    try:
        assert "the Hugging Face hub cannot be asked for it (no route)" in refused(data)
    finally:
        client.removeHandler(spoken)
    assert client.level == before
    said = f"{data}: no such file or folder; looking for it on the Hugging Face hub\n"
    assert capsys.readouterr() == ("", said * lines)
