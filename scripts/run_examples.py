"""Run the notebooks in examples/ and keep what they show in them, so that they can be read without running.

    python scripts/run_examples.py

What changes without meaning from run to run is left out: times, versions, second formats of a picture. The code's
checksum goes into the notebook, and a test compares it: what is shown belongs to what is written.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def checksum(notebook: Any) -> str:
    """SHA-256 of the code cells."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, record_timing=False, coalesce_streams=True, resources={"metadata": {"path": path.parent}}
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output["data"] = {"image/png": output["data"]["image/png"]}
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["shows"] = checksum(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    print(f"{path.name}: {len(notebook.cells)} cells, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        run(path)
