"""Pictures in, batches out: any DATA -> one decoded uint8 cache -> float batches in [-1, 1].

source = open_source("photos")             what is there, without decoding it
pictures = load(source, (64, 64), 3)       decoded once, then memory-mapped; or streamed, if too large
order = Order(len(pictures), 128, seed=0)  which pictures step k sees, a function of k alone
x, label = pictures.batch(order.index(0), order.flips(0))
"""

from ddpm.data.cache import default_cache, load
from ddpm.data.embedded import embedded
from ddpm.data.holdout import open_sources
from ddpm.data.opening import open_source
from ddpm.data.order import Order, check_batch
from ddpm.data.pictures import Pictures, to_uint8
from ddpm.data.smaller import Pairs, made_small, pairs, smaller
from ddpm.data.source import Look, Source

__all__ = [
    "Look",
    "Order",
    "Pairs",
    "Pictures",
    "Source",
    "check_batch",
    "default_cache",
    "embedded",
    "load",
    "made_small",
    "open_source",
    "open_sources",
    "pairs",
    "smaller",
    "to_uint8",
]
