"""Every preset can be built, and nothing beyond what can is let through."""

import pytest

import tiny
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.limits import LEVELS, SIDE, STEPS, WIDTH, check_limits, check_numbers
from ddpm.presets import PRESETS


@pytest.mark.parametrize("config", [Config(), tiny.config(), *[make() for make in PRESETS.values()]])
def test_what_there_is_is_within(config):
    assert check_limits(config, "f") is config


@pytest.mark.parametrize(
    "field, last, first",
    [
        ("net__channels", WIDTH, WIDTH + 2),
        ("net__channels", 4, 2),
        ("net__channels", 6, 7),
        ("net__multipliers", (1,) * LEVELS, (1,) * (LEVELS + 1)),
        ("net__multipliers", (WIDTH / 8,), (WIDTH / 8 + 1,)),
        ("net__multipliers", (0.5,), (0,)),
        ("net__multipliers", (1,), ()),
        ("net__blocks", 100, 101),
        ("net__blocks", 1, 0),
        ("net__dropout", 0.99, 1.0),
        ("net__groups", 1, 0),
        ("net__patch", 256, 257),
        ("net__heads", 1, 0),
        ("net__head_channels", 0, -1),
        ("data__size", (SIDE, 1), (SIDE + 1, 1)),
        ("data__size", (1, SIDE), (0, SIDE)),
        ("data__low_size", (0, SIDE), (0, SIDE + 1)),
        ("data__channels", 4, 2),
        ("chain__steps", STEPS, STEPS + 1),
        ("chain__steps", 1, 0),
        ("train__seed", 2**64 - 1, 2**64),
        ("train__seed", 0, -1),
        ("train__steps", 1, 0),
        ("train__batch", 1, 0),
        ("train__label_drop", 0.5, 1.0),
    ],
)
def test_the_last_that_can_be_and_the_first_that_cannot(field, last, first):
    config = tiny.config(net__multipliers=(1,))
    check_limits(config.with_(**{field: last}), "f")
    with pytest.raises(UserError, match=rf"^f: its {field.replace('__', '.')} "):
        check_limits(config.with_(**{field: first}), "f")


def test_betas_are_as_many_as_steps():
    config = tiny.config(chain__schedule="betas", chain__steps=2)
    check_limits(config.with_(chain__betas=(0.1, 0.2)), "f")
    for betas in ((), (0.1,), (0.1,) * 3):
        with pytest.raises(UserError, match=r"f: its chain\.betas .* are as many as chain\.steps"):
            check_limits(config.with_(chain__betas=betas), "f")


def test_shares():
    check_numbers((0.0, 0.5), "f")
    for bad in (-1e-9, float("nan"), float("inf")):
        with pytest.raises(UserError, match="f: damaged, not all of its numbers are finite and at least 0"):
            check_numbers((0.5, bad), "f")
