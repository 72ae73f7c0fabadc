"""A process that uploads a folder to a model hub, as its input says.

python -m trainer_ui.app.pushing

It is a process of its own because the page's works offline. The token reaches it through a pipe: it
is in no file, no command line and no environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from shira_core.errors import HubError, ShiraError

ROOT = Path(__file__).resolve().parents[2]
Progress = Callable[[int, int], None]


def push(folder: Path, repository: str, token: str, private: bool, progress: Progress) -> str:
    """Upload a folder that was built for sharing; return its address on the hub.

    progress: called with the bytes that are up and all. Raises HubError.
    """
    order = {"folder": str(folder), "repository": repository, "token": token, "private": private}
    environment = {name: text for name, text in os.environ.items() if name != "HF_HUB_OFFLINE"}
    with subprocess.Popen(
        [sys.executable, "-m", "trainer_ui.app.pushing"],
        cwd=ROOT,
        env={**environment, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        for line in process.stdout:
            told = json.loads(line)
            if "error" in told:
                raise HubError(told["error"])
            if "address" in told:
                return str(told["address"])
            progress(told["done"], told["total"])
    raise HubError(f"the upload to {repository} ended without a word: try again")


def main() -> int:
    """Upload; what is to be known is told as JSON lines."""
    order = json.load(sys.stdin)

    def tell(**values: object) -> None:
        print(json.dumps(values), flush=True)

    try:
        from shira_core.integrations import hub

        address = hub.push(
            Path(order["folder"]),
            order["repository"],
            token=order["token"],
            private=order["private"],
            progress=lambda done, total: tell(done=done, total=total),
        )
    except ShiraError as error:
        tell(error=str(error))
        return 1
    tell(address=address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
