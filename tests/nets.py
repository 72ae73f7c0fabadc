"""Small modules for tests of training, and what to compare them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from shira_core.mask import Mask


def linear_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 5)
    )


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(12, 4, 1),
    )


def channels_last_net() -> nn.Module:
    return conv_net().to(memory_format=torch.channels_last)


class Tied(nn.Module):
    """Two layers and an embedding that hold one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.table = nn.Embedding(12, 12)
        self.second.weight = self.table.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        numbers = x[..., :2].gt(0).long()
        return self.second(torch.tanh(self.first(x))) + self.table(numbers).sum(-2)


class Checkpointed(nn.Module):
    """Blocks that are computed again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(12, 12), nn.Tanh()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


class Unet(nn.Module):
    """Names as a diffusion model has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(8, 8) for name in ("to_q", "to_k", "ff")})
            for _ in range(2)
        )
        self.norm = nn.GroupNorm(2, 8)


NETS: dict[str, Callable[[], nn.Module]] = {
    "linear": linear_net,
    "conv": conv_net,
    "channels_last": channels_last_net,
    "tied": Tied,
    "checkpointed": lambda: Checkpointed(reentrant=False),
    "checkpointed, reentrant": lambda: Checkpointed(reentrant=True),
}


def build(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Return a module with reproducible weights; the global random state stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETS[kind]().to(dtype)


def batch(kind: str, number: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an input of a module, of four examples."""
    shape = (4, 3, 8, 8) if kind in ("conv", "channels_last") else (4, 12)
    generator = torch.Generator().manual_seed(number)
    return torch.randn(shape, generator=generator).to(dtype)


def loss_of(module: nn.Module, x: Tensor) -> Tensor:
    return (module(x).float() - 1).square().mean()


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters."""
    return {name: each.detach().clone() for name, each in module.named_parameters()}


def dense_gradients(module: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """Return the ordinary gradient of every parameter, summed over the inputs."""
    for parameter in module.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    for x in inputs:
        loss_of(module, x).backward()
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def gathered(dense: Mapping[str, Tensor], masks: Mapping[str, Mask]) -> Tensor:
    """Return the masked entries of dense tensors, end to end."""
    return torch.cat([dense[name].reshape(-1)[masks[name].positions] for name in masks])


def moved(
    base: Mapping[str, Tensor], masks: Mapping[str, Mask], values: Tensor
) -> dict[str, Tensor]:
    """Return W + delta of the masked weights, differentiable by the values."""
    parts = values.split([mask.count for mask in masks.values()])
    return {
        name: base[name].flatten().index_add(0, mask.positions, part).view(mask.shape)
        for (name, mask), part in zip(masks.items(), parts, strict=True)
    }


def loss_by_definition(
    module: nn.Module, masks: Mapping[str, Mask], values: Tensor, x: Tensor
) -> Tensor:
    """Return the loss with the weights W + delta, by autograd alone."""
    base = {name: each.detach() for name, each in module.named_parameters()}
    return (functional_call(module, moved(base, masks, values), (x,)).float() - 1).square().mean()


def state_of(module: nn.Module) -> dict[str, object]:
    """Return everything that a run might leave behind, comparable."""
    found: dict[str, object] = {}
    for name, layer in module.named_modules():
        hooks = {key: dict(value) for key, value in vars(layer).items() if key.endswith("_hooks")}
        found[f"module {name}"] = (sorted(vars(layer)), hooks, layer.training)
    for name, each in module.named_parameters():
        content = each.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
        hooks = dict(each._post_accumulate_grad_hooks or {})
        found[f"weight {name}"] = (content, each.requires_grad, id(each.grad), id(each), hooks)
    return found
