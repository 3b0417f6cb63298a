"""Make src/ddpm/assets/fashion.safetensors from a run: its averaged weights in half precision.

    python scripts/make_fashion.py train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz \
        --per-class 6000 --out fashion-mnist.npz
    ddpm train fashion-mnist.npz ... --out runs/fashion     (the command is in docs/log.md, and in the file itself)
    python scripts/make_embedded.py runs/fashion
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ddpm.pipeline import find
from ddpm.store import load_weights, save_weights

ASSETS = Path(__file__).resolve().parents[1] / "src" / "ddpm" / "assets"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    given = parser.parse_args()
    tensors, description = load_weights(find(given.run)[0])
    target = ASSETS / "fashion.safetensors"
    save_weights(target, {key: value.half() for key, value in tensors.items()}, description)
    print(f"{target.name}: step {description.step:,}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
