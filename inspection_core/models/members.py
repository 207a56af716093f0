"""Several networks of one shape: in one file of weights, each under its number; and as one that averages them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from inspection_core.card import ModelCard
from inspection_core.device import Device, place
from inspection_core.errors import ModelError
from inspection_core.models.compiled import Compiled, convert


class Mean(nn.Module):
    """Class probabilities, averaged over several networks; of a lone network its logits, where they are asked for."""

    def __init__(self, networks: Sequence[nn.Module], logits: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.logits = logits and len(networks) == 1

    def forward(self, batch: Tensor) -> Tensor:
        """Return ``(B, 1 + K, *grid)`` probabilities, or logits."""
        if self.logits:
            return cast("Tensor", self.networks[0](batch))
        found = [network(batch).softmax(dim=1) for network in self.networks]
        return found[0] if len(found) == 1 else torch.stack(found).mean(dim=0)


class Average:
    """`Mean` on a device, in torch or OpenVINO. One call at a time.

    Parameters
    ----------
    networks
        In evaluation mode.
    example
        An input that networks are traced with for OpenVINO.
    window
        ``(C, *spatial)`` of every input to come, where it is known.
    logits
        Give a lone network's logits, which takes less memory than a softmax behind it.
    """

    def __init__(
        self, networks: Sequence[nn.Module], example: Tensor, window: Sequence[int] = (), logits: bool = False
    ) -> None:
        self._mean = Mean(networks, logits).eval().requires_grad_(False)  # an export takes them as constants
        self._call: Callable[[Tensor], Tensor] = self._mean
        self._compiled: Compiled | None = None
        self._example, self._window = example, tuple(window)
        self._device: Device | None = None

    @property
    def runtime(self) -> str:
        """What runs the networks; see `inspection_core.device.Device`."""
        return "torch" if self._device is None else self._device.runtime

    @property
    def logits(self) -> bool:
        """Whether logits are what is given."""
        return self._mean.logits

    def __call__(self, batch: Tensor) -> Tensor:
        """Return ``(B, 1 + K, *grid)`` probabilities or logits, which the next call may write over."""
        return self._call(batch)

    def to(self, device: Device) -> None:
        """Move the networks to another device."""
        if device == self._device:
            return
        self._device = None  # where a move fails half way, for want of memory, the next one is made in any case
        self._call = cast("Callable[[Tensor], Tensor]", place(self._mean, device))
        if device.runtime == "openvino":
            if self._compiled is None:
                # Scratch for one window may be hundreds of MiB: one call at a time.
                self._compiled = Compiled(convert(self._mean, self._example), alone=True)
                if self._window:
                    self._compiled.prepare((device.batch, *self._window))
            self._call = self._by_openvino
        self._device = device

    def _by_openvino(self, batch: Tensor) -> Tensor:
        return torch.from_numpy(cast("Compiled", self._compiled)(batch.contiguous().numpy())[0])


def stored(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return the tensors of the weights' file: float16, which costs nothing that is seen and halves the file."""
    return {
        f"{k}.{name}": t.half() if t.is_floating_point() else t
        for k, network in enumerate(networks)
        for name, t in network.state_dict().items()
    }


def rebuilt(tensors: Mapping[str, Tensor], card: ModelCard, build: Callable[[ModelCard], nn.Module]) -> list[nn.Module]:
    """Return the networks that `stored` was given, in evaluation mode.

    Parameters
    ----------
    tensors
        Of the weights' file.
    card
        Its parameter ``members`` says how many they are, one if it does not.
    build
        Makes an untrained network of the card's shape.

    Raises
    ------
    ModelError
        If the tensors are not those of such networks.
    """
    networks = [build(card) for _ in range(int(cast("int", card.parameters.get("members", 1))))]
    for k, network in enumerate(networks):
        fill(network, {name[len(f"{k}.") :]: t for name, t in tensors.items() if name.startswith(f"{k}.")})
        network.eval()
    return networks


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put stored weights, of any float type, into a network.

    Raises
    ------
    ModelError
        If they are not those of this network.
    """
    own = network.state_dict()
    wrong = [k for k in own if k not in tensors or tensors[k].shape != own[k].shape] + sorted(set(tensors) - set(own))
    if wrong:
        raise ModelError(
            f"The weights do not fit the network that the card describes: {wrong[0]} and {len(wrong) - 1} more."
        )
    network.load_state_dict({k: tensors[k].to(own[k].dtype) for k in own})
