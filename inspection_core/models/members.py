"""Several networks of one shape: in one file of weights, each under its number; and as one that averages them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from inspection_core.card import ModelCard
from inspection_core.device import Device, place
from inspection_core.errors import ModelError
from inspection_core.models.compiled import Compiled, Graph, as_tensors, convert, graphs_in, kept_or_made, written


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


@dataclass(frozen=True)
class Form:
    """What goes into networks and comes out of them, known without building one.

    Parameters
    ----------
    example
        An input that networks are traced with for OpenVINO.
    classes
        Channels that come out: the classes with the background.
    logits
        Give a lone network's logits, which takes less memory than a softmax behind it.
    window
        ``(C, *spatial)`` of every input to come, where it is known.
    """

    example: Tensor
    classes: int
    logits: bool = False
    window: tuple[int, ...] = ()


class Average:
    """`Mean` on a device, in torch or OpenVINO. One call at a time.

    Parameters
    ----------
    tensors
        Of the weights' file. Where they hold OpenVINO's graph, no network is built until torch is to run it: that takes
        the library that it comes from, with hundreds of MiB.
    card
        Of the model; see `rebuilt`.
    build
        Makes an untrained network of the card's shape.
    form
        Of its networks.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], card: ModelCard, build: Callable[[ModelCard], nn.Module], form: Form
    ) -> None:
        graphs = graphs_in(tensors)
        self._graph: Graph | None = graphs[0] if len(graphs) == 1 else None
        self._tensors = {name: t for name, t in tensors.items() if not self._graph or not name.startswith("graph.")}
        self._card, self._build, self._form = card, build, form
        self._mean: Mean | None = None
        self._call: Callable[[Tensor], Tensor] | None = None
        self._compiled: Compiled | None = None
        self._device: Device | None = None

    @property
    def runtime(self) -> str:
        """What runs the networks; see `inspection_core.device.Device`."""
        return "torch" if self._device is None else self._device.runtime

    @property
    def logits(self) -> bool:
        """Whether logits are what is given."""
        return self._form.logits and count(self._card) == 1

    @property
    def built(self) -> bool:
        """Whether torch has the networks."""
        return self._mean is not None

    def __call__(self, batch: Tensor) -> Tensor:
        """Return ``(B, 1 + K, *grid)`` probabilities or logits, which the next call may write over."""
        return cast("Callable[[Tensor], Tensor]", self._call)(batch)

    def room(self, shape: tuple[int, ...]) -> Tensor | None:
        """Return where the next batch of a shape may be put; see `inspection_core.models.Segmenter`."""
        if self.runtime != "openvino":
            return None
        memory = cast("Compiled", self._compiled).room(shape)
        return None if memory is None else torch.from_numpy(memory)

    def to(self, device: Device) -> None:
        """Move the networks to another device."""
        if device == self._device:
            return
        self._device = None  # where a move fails half way, for want of memory, the next one is made in any case
        if device.runtime != "openvino":
            self._call = cast("Callable[[Tensor], Tensor]", place(self._networks(), device))
        else:
            if self._mean is not None:
                place(self._mean, device)
            if self._compiled is None:
                # Scratch for one window may be hundreds of MiB: one call at a time.
                self._compiled = Compiled(self._model(), alone=True)
                if self._form.window:
                    self._compiled.prepare((device.batch, *self._form.window))
            self._call = self._by_openvino
        self._device = device

    def _networks(self) -> Mean:
        """Return the networks in torch, built when they are first asked for."""
        if self._mean is None:
            self._mean = mean_of(self._tensors, self._card, self._build, self._form)
            self._tensors = {}
        return self._mean

    def _model(self) -> Any:
        """Return the ``openvino.Model``: the one kept with the weights where this OpenVINO can read it."""
        kept, self._graph = self._graph, None
        return kept_or_made(kept, self._fits, lambda: convert(self._networks(), self._form.example))

    def _fits(self, model: Any) -> bool:
        """Say whether a graph takes and gives what the card's networks do: another one would fail far from here."""
        import openvino

        if len(model.inputs) != 1 or len(model.outputs) != 1:
            return False
        count, _, *sides = self._form.example.shape
        tried = model.clone()  # its axes are free: what it gives shows once they are known
        tried.reshape([*self._form.example.shape])
        given = tried.output().get_partial_shape()
        return given.compatible(openvino.PartialShape([count, self._form.classes, *sides])) and all(
            port.get_element_type().get_type_name() == "f32" for port in (tried.input(), tried.output())
        )

    def _by_openvino(self, batch: Tensor) -> Tensor:
        return torch.from_numpy(cast("Compiled", self._compiled)(batch.contiguous().numpy())[0])


def stored(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return the tensors of the weights' file: float16, which costs nothing that is seen and halves the file."""
    return {
        f"{k}.{name}": t.half() if t.is_floating_point() else t
        for k, network in enumerate(networks)
        for name, t in network.state_dict().items()
    }


def with_graph(
    tensors: Mapping[str, Tensor], card: ModelCard, build: Callable[[ModelCard], nn.Module], form: Form
) -> dict[str, Tensor]:
    """Return the tensors of the weights' file with OpenVINO's graph of the same networks, where it is installed."""
    if importlib.util.find_spec("openvino") is None:
        return dict(tensors)
    model = convert(mean_of(tensors, card, build, form), form.example)
    return {**tensors, **as_tensors([written(model)])}


def mean_of(
    tensors: Mapping[str, Tensor], card: ModelCard, build: Callable[[ModelCard], nn.Module], form: Form
) -> Mean:
    """Return the networks that `stored` was given as one that is run: an export takes its weights as constants."""
    return Mean(rebuilt(tensors, card, build), form.logits).eval().requires_grad_(False)


def count(card: ModelCard) -> int:
    """Return how many networks a card describes: its parameter ``members``, one if it has none."""
    return int(cast("int", card.parameters.get("members", 1)))


def rebuilt(tensors: Mapping[str, Tensor], card: ModelCard, build: Callable[[ModelCard], nn.Module]) -> list[nn.Module]:
    """Return the networks that `stored` was given, in evaluation mode.

    Parameters
    ----------
    tensors
        Of the weights' file.
    card
        Says how many they are; see `count`.
    build
        Makes an untrained network of the card's shape.

    Raises
    ------
    ModelError
        If the tensors are not those of such networks.
    """
    networks = [build(card) for _ in range(count(card))]
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
