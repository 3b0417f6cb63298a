"""Uploading: huggingface_hub's own signatures, its own errors, and no network."""

import importlib
import sys
from unittest.mock import create_autospec

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from ddpm.card import push
from ddpm.errors import UserError

URL = "https://huggingface.co/alice/flowers"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "README.md").write_text("---\n---\n# flowers\n")
    return tmp_path


@pytest.fixture(scope="module")
def stand_in():
    """Takes what the real one takes, and nothing else."""
    return create_autospec(HfApi)


@pytest.fixture
def api(stand_in, monkeypatch):
    stand_in.reset_mock()
    made = stand_in.return_value
    made.create_repo.side_effect = made.upload_folder.side_effect = None
    made.create_repo.return_value = huggingface_hub.RepoUrl(URL)
    monkeypatch.setattr(huggingface_hub, "HfApi", stand_in)
    return made


def refused(status):
    """What the library raises for an answer of the hub."""
    asking = importlib.import_module(HfHubHTTPError.__mro__[1].__module__.partition(".")[0])
    request = asking.Request("POST", URL)
    return HfHubHTTPError(
        f"{status} Client Error\n\nmore lines", response=asking.Response(status, request=request)
    )


def test_the_folder_goes_to_a_repository_of_models(folder, api):
    assert push(folder, "flowers") == URL
    api.create_repo.assert_called_once_with("flowers", repo_type="model", exist_ok=True)
    (uploaded,) = api.upload_folder.call_args_list
    assert uploaded.kwargs["repo_id"] == "alice/flowers" and uploaded.kwargs["folder_path"] == folder
    assert uploaded.kwargs["repo_type"] == "model"


@pytest.mark.parametrize(
    "error, message",
    [
        (
            LocalTokenNotFoundError("no token"),
            "nobody is logged in to the Hugging Face hub; log in with hf auth login",
        ),
        (refused(401), "does not know who you are; log in with hf auth login, or set HF_TOKEN"),
        (refused(403), "you may not write there (403 Client Error); take a name of your own"),
        (refused(500), "cannot be written to (500 Client Error); check the connection and push again"),
        (ConnectionError("no route"), "cannot be written to (no route); check the connection"),
        (OSError(), "cannot be written to (OSError); check the connection"),
    ],
)
@pytest.mark.parametrize("where", ["create_repo", "upload_folder"])
def test_what_the_user_can_mend(folder, api, error, message, where):
    getattr(api, where).side_effect = error
    with pytest.raises(UserError) as told:
        push(folder, "alice/flowers")
    assert str(told.value).startswith("--push alice/flowers: ") and message in str(told.value)
    assert "\n" not in str(told.value)


def test_a_name_that_is_none(folder, api):
    api.create_repo.side_effect = lambda repo, **_: validate_repo_id(repo)
    with pytest.raises(HFValidationError):
        validate_repo_id("my flowers/!")
    with pytest.raises(UserError, match=r"--push my flowers/!: no name of a repository .*; take NAME or ORG/NAME"):
        push(folder, "my flowers/!")


def test_a_mistake_of_ours_is_not_the_user_s(folder, api):
    api.upload_folder.side_effect = TypeError("ours")
    with pytest.raises(TypeError, match="ours"):
        push(folder, "flowers")


def test_without_the_library(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"--push flowers: needs an extra: pip install 'ddpm\[hub\]'"):
        push(folder, "flowers")


def test_a_folder_without_a_card(tmp_path):
    with pytest.raises(UserError, match=r"holds no README\.md; export the model with ddpm convert first"):
        push(tmp_path, "flowers")


def test_no_network_is_told(folder, monkeypatch):
    """The library itself, with an address that nothing answers at."""
    monkeypatch.setenv("HF_TOKEN", "hf_none")

    class Nowhere(HfApi):
        def __init__(self, **options):
            super().__init__(endpoint="http://127.0.0.1:9", token="hf_none", **options)

    monkeypatch.setattr(huggingface_hub, "HfApi", Nowhere)
    with pytest.raises(UserError, match=r"cannot be written to .*; check the connection"):
        push(folder, "alice/flowers")
