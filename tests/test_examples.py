"""The notebooks: what they show was shown by the code in them, they run, and what they claim to be equal is."""

import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
sys.path.append(str(EXAMPLES.parent / "scripts"))

from run_examples import checksum  # noqa: E402


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    """All that was printed."""
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def numbers(text, line):
    """The numbers on each line that fits a pattern."""
    found = [re.findall(r"-?\d+\.\d+(?:e-?\d+)?", match) for match in re.findall(line, text, re.MULTILINE)]
    return np.array(found, dtype=float)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_shown_belongs_to_the_code(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata["shows"] == checksum(notebook), "run: python scripts/run_examples.py"
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    said = printed(notebook)
    assert path.stat().st_size < 1_000_000
    # nor anything of the machine it ran on
    assert not re.search(r"site-packages|/home/|/tmp/|Users", said)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_to_files(path):
    links = [
        link
        for cell in read(path).cells
        if cell.cell_type == "markdown"
        for link in re.findall(r"\]\(([^)]+)\)", cell.source)
    ]
    assert links
    for link in links:
        assert "://" in link or (EXAMPLES / link).exists(), link


@pytest.mark.slow
def test_from_formula_to_samples(tmp_path, monkeypatch):
    """All of it but for the length of the training."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path))
    notebook = read(EXAMPLES / "from-formula-to-samples.ipynb")
    long = [cell for cell in code(notebook) if "STEPS, BATCH = 500, 32" in cell.source]
    assert len(long) == 1
    long[0].source = long[0].source.replace("STEPS, BATCH = 500, 32", "STEPS, BATCH = 3, 4")
    for cell in code(notebook):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = printed(notebook)

    # a step at a time and in one jump, over 20,000 numbers
    walked = numbers(said, r"^ *\d+ +[\d.-]+ +[\d.-]+ +[\d.]+ +[\d.]+$")
    assert walked.shape == (5, 4)
    assert np.abs(walked[:, 0] - walked[:, 1]).max() < 4 / np.sqrt(20_000)
    assert walked[:, 2] == pytest.approx(walked[:, 3], rel=0.02, abs=2e-4)

    bayes = numbers(said, r"^ *\d+ +\d+ +[\d.-]+ +[\d.-]+ +[\d.]+ +[\d.]+$")
    assert bayes.shape == (5, 4)
    assert bayes[:, 0] == pytest.approx(bayes[:, 1], abs=2e-8) and bayes[:, 2] == pytest.approx(
        bayes[:, 3], abs=2e-8
    )

    assert len(re.findall(r"x̂_0 differs by (?:0e\+00|\de-0[4-9])$", said, re.MULTILINE)) == 4

    identities = numbers(said, r"^(?:L_\(t-1\)|x0|eps|v) +[\d.]+ +[\d.]+$")
    assert identities.shape == (4, 2)
    assert identities[:, 0] == pytest.approx(identities[:, 1], rel=1e-7)

    # another batch adds in another order: within one grey level
    assert int(re.findall(r"largest difference in grey levels: (\d+)", said)[0]) <= 1
    pictures = [
        output for cell in code(notebook) for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 11
