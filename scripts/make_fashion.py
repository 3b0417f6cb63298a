"""Make src/ddpm/assets/fashion.npz: the first 1,000 pictures of each class of Fashion-MNIST's training set.

    python scripts/make_fashion.py train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz

10,000 pictures in their original order with labels and class names. The same input gives the same bytes. The
set's LICENSE, if it lies beside the pictures, goes with them. `--per-class 6000 --out fashion-mnist.npz` makes
the whole training set with its class names, which the embedded model was trained on.
"""

from __future__ import annotations

import argparse
import gzip
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
ASSETS = Path(__file__).resolve().parents[1] / "src" / "ddpm" / "assets"


def idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file."""
    data = gzip.decompress(path.read_bytes())
    rank = data[3]
    shape = np.frombuffer(data, ">u4", count=rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=ASSETS / "fashion.npz")
    given = parser.parse_args()
    images, labels = idx(given.images), idx(given.labels)
    keep = np.sort(np.concatenate([np.flatnonzero(labels == k)[: given.per_class] for k in range(len(CLASSES))]))
    assert len(keep) == given.per_class * len(CLASSES)
    arrays = {"images": images[keep], "labels": labels[keep], "classes": np.array(CLASSES)}
    target = given.out
    # numpy.savez_compressed stamps the members with the current time.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, stream.getvalue(), compresslevel=9)
    licence = given.images.with_name("LICENSE")
    if licence.exists():
        shutil.copyfile(licence, target.with_name("FASHION-MNIST-LICENSE"))
    print(f"{target.name}: {len(keep):,} pictures, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
