"""Shared set-up: every annotation of `ddpm` is checked at run time while pytest runs, and only then.

jaxtyping's import hook makes beartype check types, ranks and the sizes that share a name, on every call. It
must be installed before anything of ddpm is imported, hence here; test_denoiser.py proves that it fires.

    --device cuda:0    --dtype float64        for the tests that take the fixtures `device` and `dtype`
"""

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["ddpm"], "beartype.beartype")

# Drawn examples are the same in every run, and a busy machine is no failure.
settings.register_profile("ddpm", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("ddpm")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the tests that take one")
    parser.addoption("--dtype", default="float32", choices=("float32", "float64"), help="their precision")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture
def call(capsys):
    """The command line: its arguments → status, output, errors."""
    from ddpm.cli import main  # after the hook

    def call(*arguments):
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = left.code
        return status, *capsys.readouterr()

    return call
