"""To the Hugging Face hub, through the optional huggingface_hub."""

from __future__ import annotations

from pathlib import Path

from ddpm.card.page import NAME
from ddpm.errors import UserError
from ddpm.version import __version__


def push(folder: Path, repo: str) -> str:
    """Uploads the folder to a model repository of the Hugging Face hub, made if need be; returns its address.

    UserError if huggingface_hub is missing, nobody is logged in, the name is none, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
    except ImportError:
        raise UserError(f"--push {repo}: needs an extra: pip install 'ddpm[hub]'") from None
    if not (folder / NAME).is_file():
        raise UserError(f"{folder}: holds no {NAME}; export the model with ddpm convert first")
    login = "log in with hf auth login, or set HF_TOKEN"
    api = HfApi(library_name="ddpm", library_version=__version__)
    try:
        made = api.create_repo(repo, repo_type="model", exist_ok=True)
        message = f"Model exported by ddpm {__version__}"
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            repo_type="model",
            commit_message=message,
            ignore_patterns=[".*", "*/.*"],
        )
    except HFValidationError as error:
        raise UserError(
            f"--push {repo}: no name of a repository ({_line(error)}); take NAME or ORG/NAME"
        ) from None
    except LocalTokenNotFoundError:
        raise UserError(f"--push {repo}: nobody is logged in to the Hugging Face hub; {login}") from None
    except Exception as error:  # which ones depends on the library that huggingface_hub asks the hub with
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            raise UserError(f"--push {repo}: the Hugging Face hub does not know who you are; {login}") from None
        if status in (403, 404):
            raise UserError(
                f"--push {repo}: you may not write there ({_line(error)}); take a name of your own, or a "
                "token that may write"
            ) from None
        asking = type(error).__module__.partition(".")[0].startswith(("httpx", "requests", "urllib3"))
        if not (asking or isinstance(error, OSError)):
            raise
        raise UserError(
            f"--push {repo}: the Hugging Face hub cannot be written to ({_line(error)}); check the connection and "
            "push again: what is there already is not sent twice"
        ) from None
    return str(made)


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
