"""report.html: one file that shows what a run was trained on, how it went, and what it draws.

write(run, pictures)                       with the newest checkpoint's averaged weights
write(run, pictures, pipeline=averaged)    while training, with the weights at hand
"""

from ddpm.report.compose import (
    GLANCE_SAMPLES,
    GLANCE_STEPS,
    NAME,
    publish,
    publish_stopped,
    write,
)
from ddpm.report.follow import Follower
from ddpm.report.material import SAMPLES, STEPS, Material, gather

__all__ = [
    "GLANCE_SAMPLES",
    "GLANCE_STEPS",
    "NAME",
    "SAMPLES",
    "STEPS",
    "Follower",
    "Material",
    "gather",
    "publish",
    "publish_stopped",
    "write",
]
