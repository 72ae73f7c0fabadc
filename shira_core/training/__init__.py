"""Sparse fine-tuning of any nn.Module (SHiRA, section 3): an ordinary loop gives an adapter.

    import torch
    import shira_core as shira

    with shira.training.finetune(model, mask="wm", density=0.02) as run:
        optimizer = torch.optim.AdamW(run.parameters(), lr=1e-3)
        for inputs, targets in loader:
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        run.adapter(base="my-model").save("mine.shira")

Which entries matter can be found by a trial run before, for all layers together:

    moved = shira.training.explore(model, some_batches, loss_of, step=1e-4)
    masks = shira.masks.pooled(moved, count=100_000)
    with shira.training.finetune(model, masks=masks) as run: ...

There is no adapter branch in the forward pass: the weights themselves move, and are the base's
again, bit for bit, when the block ends. Of a "struct" mask only the lines are differentiated;
columns without a diagonal (`axis="columns", diagonal=False`) keep the least for the backward pass.
"""

from .calibrate import calibrate
from .context import finetune
from .explore import explore
from .run import Run

__all__ = ["Run", "calibrate", "explore", "finetune"]
