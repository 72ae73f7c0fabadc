"""Upload a folder that `build` made, as one commit."""

from __future__ import annotations

from pathlib import Path

from ...errors import HubError
from . import client, names
from .about import Progress
from .bundle import contents


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
    with the bytes that are up and all bytes; what it raises stops the upload before anything is
    visible. The folder stays as it is, also when it fails.
    Raises FileInvalid (the folder was changed), InvalidValue (repository), HubError (refused or
    not reached), and MissingDependency without huggingface_hub.
    """
    names.check_repository(repository)
    files = contents(folder)
    hub = client.library()
    api = hub.HfApi(endpoint=endpoint, token=token, library_name="shira")
    what = f"push to {repository}"
    with client.asking(what):
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise HubError(f"{repository} is public: push to another name, or leave out --private")
        additions = [hub.CommitOperationAdd(each.as_posix(), folder / each) for each in files]
        total, done = sum(each.upload_info.size for each in additions), 0
    for each in additions:
        with client.asking(what):
            api.preupload_lfs_files(repository, additions=[each], free_memory=False)
        done += each.upload_info.size
        if progress:
            progress(done, total)
    with client.asking(what):
        api.create_commit(repository, additions, commit_message="Upload with shira publish")
    return str(address)
