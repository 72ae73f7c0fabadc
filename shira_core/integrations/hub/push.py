"""Upload a folder that `build` made, as one commit."""

from __future__ import annotations

from pathlib import Path

from .about import Progress


def push(
    folder: Path,
    repository: str,
    *,
    token: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> str:
    """Upload a folder of `build` to "owner/name", which is made if needed; return its address.

    token: by default the login of huggingface_hub. endpoint: of another hub. progress: called
    with the bytes that are up and all bytes. The folder stays as it is, also when it fails.
    Raises FileInvalid (the folder was changed), InvalidValue (repository), HubError (refused or
    not reached), and MissingDependency without huggingface_hub.
    """
    raise NotImplementedError
