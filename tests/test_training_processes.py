"""Gradients averaged over real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from nets import batch, build, loss_of

from shira_core.training import finetune

WORKER = """
import os, sys
import torch
sys.path.insert(0, sys.argv[1])
from nets import batch, build, loss_of
import shira_core as shira

rank, store, out = int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)

class Accelerator:
    num_processes = 2
    def reduce(self, tensor, reduction):
        torch.distributed.all_reduce(tensor)
        return tensor / 2

def train(over):
    module = build("linear")
    with shira.training.finetune(module, "struct", 0.2, values_dtype=torch.float32) as run:
        optimizer = torch.optim.SGD(run.parameters(), lr=0.5)
        for number in range(3):
            optimizer.zero_grad()
            loss_of(module, batch("linear", 2 * number + rank)).backward()
            run.reduce_gradients(over)
            optimizer.step()
        return run.state_dict()["values"]

torch.save([train(None), train(Accelerator())], out)
torch.distributed.destroy_process_group()
os._exit(0)  # gloo's threads have aborted an interpreter that ended by itself, with all done
"""


def test_two_processes_are_one_with_the_doubled_batch(tmp_path: Path) -> None:
    store, outs = (tmp_path / "store").as_uri(), [tmp_path / f"{rank}.pt" for rank in range(2)]
    script = [sys.executable, "-c", WORKER, str(Path(__file__).parent)]
    processes = [
        subprocess.Popen([*script, str(rank), store, str(out)]) for rank, out in enumerate(outs)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    values = [each for out in outs for each in torch.load(out, weights_only=True)]
    module = build("linear")
    with finetune(module, "struct", 0.2, values_dtype=torch.float32) as run:
        optimizer = torch.optim.SGD(run.parameters(), lr=0.5)
        for number in range(3):
            optimizer.zero_grad()
            halves = [batch("linear", 2 * number + rank) for rank in range(2)]
            loss_of(module, torch.cat(halves)).backward()
            optimizer.step()
        wanted = run.state_dict()["values"]
    assert all(torch.equal(each, values[0]) for each in values)
    torch.testing.assert_close(values[0], wanted)
    assert wanted.abs().max() > 1e-2
