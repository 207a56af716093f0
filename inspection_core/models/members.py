"""Several networks of one shape in one file of weights, each under its number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from inspection_core.card import ModelCard
from inspection_core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


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
