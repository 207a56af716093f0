"""What a bundle may build: networks, transforms and inferers of MONAI, layers of torch, and nothing else.

A list of what is known to be harmless, not of what is known to do harm: none of these reads or writes files, asks a
network, imports by name or runs text as code. Transforms that draw lots are left out: the same image gets the same
result.
"""

from __future__ import annotations

import importlib
from typing import Any

from inspection_core.errors import ModelError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SKIPPED = frozenset({"LoadImage", "EnsureChannelFirst", "AddChannel", "SaveImage", "DataStats"})
"""Transforms that this suite does itself, or that only report."""

NETWORKS = _words(
    "AHNet AttentionUnet BasicUNet BasicUNetPlusPlus BasicUnet BasicUnetPlusPlus DAF3D DiNTS DynUNet DynUnet "
    "FlexUNet FlexibleUNet HighResNet MedNeXt MedNeXtLarge MedNeXtMedium MedNeXtSmall SegResNet "
    "SegResNetDS SegResNetDS2 SegResNetVAE SwinUNETR TopologyInstance UNETR UNet Unet VNet"
)
INFERERS = frozenset({"SimpleInferer", "SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer"})
TRANSFORMS = _words(
    "Activations AddCoordinateChannels AdjustContrast AsChannelLast AsDiscrete BorderPad CastToType "
    "CenterScaleCrop CenterSpatialCrop ClipIntensityPercentiles ConcatItems "
    "ConvertToMultiChannelBasedOnBratsClasses CopyItems Crop CropForeground DeleteItems DistanceTransformEDT "
    "DivisiblePad EnsureType FillHoles Flip ForegroundMask FromMetaTensor GaussianSharpen GaussianSmooth "
    "HistogramNormalize Identity Invert KeepLargestConnectedComponent LabelFilter LabelToMask Lambda "
    "MapLabelValue MaskIntensity MeanEnsemble MedianSmooth NormalizeIntensity Orientation Pad RemoveSmallObjects "
    "RepeatChannel ResizeWithPadOrCrop Resize Rotate Rotate90 ScaleIntensity ScaleIntensityRange "
    "ScaleIntensityRangePercentiles SelectItems ShiftIntensity Spacing SpatialCrop SpatialPad SplitDim SqueezeDim "
    "StdShiftIntensity ThresholdIntensity ToDevice ToMetaTensor ToNumpy ToTensor Transpose VoteEnsemble Zoom"
)
"""Without the ending ``d``, ``D`` or ``Dict`` of those that work on dictionaries."""
LAYERS = _words(
    "BatchNorm1d BatchNorm2d BatchNorm3d Conv1d Conv2d Conv3d ConvTranspose2d ConvTranspose3d Dropout Dropout2d "
    "Dropout3d ELU Flatten GELU GroupNorm Identity InstanceNorm2d InstanceNorm3d LayerNorm LeakyReLU Linear "
    "LogSoftmax MaxPool2d MaxPool3d ModuleList PReLU ReLU Sequential SiLU Sigmoid Softmax Softplus Tanh Upsample"
)
_PACKAGES = {
    "monai.networks.nets": NETWORKS,
    "monai.inferers": INFERERS,
    "monai.transforms": TRANSFORMS,
    "torch.nn": LAYERS,
}


def plain(name: str) -> str:
    """Return a transform's name without the ending of those that work on dictionaries."""
    for ending in ("Dict", "d", "D"):
        if name.endswith(ending) and name.removesuffix(ending) in TRANSFORMS | SKIPPED:
            return name.removesuffix(ending)
    return name


def find(target: str, where: str) -> Any:
    """Return the class that a bundle's ``_target_`` names.

    Raises
    ------
    ModelError
        If it is not among those that bundles may build.
    """
    import torch

    package, _, name = target.rpartition(".")
    if target == "torch.device":
        return torch.device
    if name == "Compose" and package.split(".")[0] in ("", "monai"):
        return importlib.import_module("monai.transforms").Compose
    for place, known in _PACKAGES.items():
        inside = package == place or package.startswith(place + ".")
        short = plain(name) if known is TRANSFORMS else name
        # Without a package a name is MONAI's; of torch it is always written in full.
        if short in known and (inside or (not package and place != "torch.nn")):
            found = getattr(importlib.import_module(place), name, None)
            if isinstance(found, type):
                return found
    raise ModelError(
        f"{where} builds {target!r}, which is not among what bundles may build. Read the bundle; if you trust who made "
        "it, use --trust-bundle."
    )
