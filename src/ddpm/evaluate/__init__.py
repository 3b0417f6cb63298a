"""What a model is worth, in numbers: of the model, bits/dim, rate and distortion, the best grids; of its pictures,
FID and its like; and what is kept of them.

likelihood.py    bits of a batch of pictures: every term, or an estimate
reference.py     DATA as the model wants its pictures
measuring.py     which number, and the pass over a set, on with which it goes after a stop
summary.py       what it comes to: bits/dim with its parts, terms over t
rate.py          rate and distortion against reverse steps
spacing.py       the best K levels
ode.py           likelihood by the probability-flow ODE, exact but for its steps and probes
features.py      nets that pictures are compared by; exported.py: those of torch.export, read safely
scores.py        FID, KID, Inception Score, precision and recall, of features
fidelity.py      both sides of a comparison: features kept, of a reference in the cache; scores, and their doubts
records.py       the folder that keeps batches and results
"""

from ddpm.evaluate.likelihood import Bits, Estimate, bound_levels, estimate, likelihood
from ddpm.evaluate.measuring import Measurement, choose, measure
from ddpm.evaluate.records import Records
from ddpm.evaluate.reference import Reference, open_reference
from ddpm.evaluate.summary import Summary, summarise

__all__ = [
    "Bits",
    "Estimate",
    "Measurement",
    "Records",
    "Reference",
    "Summary",
    "bound_levels",
    "choose",
    "estimate",
    "likelihood",
    "measure",
    "open_reference",
    "summarise",
]
