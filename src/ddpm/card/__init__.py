"""The model card of an exported folder: README.md as the Hugging Face hub reads it, and a grid of samples.

    ---                front matter in YAML: licence, library, task, data set, what was measured (front.py)
    # flowers          what it is, samples, use (use.py), training, what was measured (measured.py), and what is
                       not known (page.py)

A card names no place on the machine it is written on: data go by their names, not by their paths.
"""

from ddpm.card.page import write_card
from ddpm.card.upload import push

__all__ = ["push", "write_card"]
