"""Bundles that the tests make themselves, in the manner of the model zoo's."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monai")

import torch
from monai.networks.nets import UNet
from scipy.spatial.transform import Rotation

from inspection_core.geometry import Geometry
from inspection_core.image import Image

LOAD = [
    {"_target_": "LoadImaged", "keys": "@image_key"},
    {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
]
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_dtype": "$numpy.float32"}
SPLEEN_BEFORE = [
    *LOAD,
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1,
     "clip": True},
    {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
]  # fmt: skip
SPLEEN_AFTER = [
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "@image_key",
     "nearest_interp": False, "to_tensor": True},
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]},
    SAVE,
]  # fmt: skip


def config(network, before, after, inferer=None):
    """Return an inference.json with all that the zoo's have, most of which is never looked at."""
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]",
                    "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": inferer or {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 4,
                               "overlap": 0.5},
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "handlers": [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
                      "load_dict": {"model": "@network"}}],
        "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device", "network": "@network", "amp": True},
        "initialize": ["$monai.utils.set_determinism(seed=123)"],
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def metadata(channels, outputs, shape, **more):
    return {
        "version": "0.3.1",
        "task": "A test",
        "intended_use": "This is an example, not to be used for diagnostic purposes",
        "copyright": "Copyright (c) Nobody",
        "data_source": "made by the tests",
        "eval_metrics": {"mean_dice": 0.96},
        "network_data_format": {
            "inputs": {"image": {"type": "image", "modality": "CT", "num_channels": len(channels),
                                 "spatial_shape": shape, "channel_def": dict(enumerate(channels))}},
            "outputs": {"pred": {"format": "segmentation", "num_channels": len(outputs), "spatial_shape": shape,
                                 "channel_def": dict(enumerate(outputs))}},
        },
    } | more  # fmt: skip


def write(folder: Path, conf, meta, weights) -> Path:
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    (folder / "configs/metadata.json").write_text(json.dumps(meta), encoding="utf-8")
    (folder / "configs/inference.json").write_text(json.dumps(conf), encoding="utf-8")
    (folder / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n", encoding="utf-8")
    torch.save(weights, folder / "models/model.pt")
    return folder


def pack(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def threshold_net(ndim: int, cuts, channels: int = 1):
    """Return a 1 x 1 convolution as ``torch.nn.Conv3d`` with its weights: logits that cross 0 where a value does.

    `cuts` holds (input channel, cut) for each output; a cut of None is the background, 0 everywhere.
    """
    node = {"_target_": f"torch.nn.Conv{ndim}d", "in_channels": channels, "out_channels": len(cuts), "kernel_size": 1}
    weight, bias = torch.zeros((len(cuts), channels, *(1,) * ndim)), torch.zeros(len(cuts))
    for k, (c, cut) in enumerate(cuts):
        if cut is not None:
            weight[k, c], bias[k] = 40.0, -40.0 * cut
    return node, {"weight": weight, "bias": bias}


def spleen(folder: Path) -> Path:
    """Write a bundle in the manner of the zoo's spleen: what is brighter than 53.5 HU is one."""
    network, state = threshold_net(3, [(0, None), (0, 0.5)])
    return write(
        folder,
        config(network, SPLEEN_BEFORE, SPLEEN_AFTER),
        metadata(["image"], ["background", "spleen"], [96, 96, 96]),
        state,
    )


def unet(folder: Path) -> Path:
    """The same with a real network of random weights."""
    node = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8, 16],
            "strides": [2, 2], "num_res_units": 1, "norm": "batch"}  # fmt: skip
    torch.manual_seed(0)
    state = UNet(**{k: v for k, v in node.items() if k != "_target_"}).state_dict()
    return write(
        folder,
        config(node, SPLEEN_BEFORE, SPLEEN_AFTER),
        metadata(["image"], ["background", "spleen"], [96, 96, 96]),
        {"model": state},
    )


def ball(shape=(14, 40, 36), spacing=(4.7, 1.1, 1.3), oblique=True, flips=(0, 2), axes=(1, 2, 0), channels=("CT",)):
    """Return a scan with a ball of 100 HU in it and the ball itself: oblique, anisotropic, flipped, axes turned."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (12, -9, 17), degrees=True).as_matrix() if oblique else np.eye(3)
    affine[:3, :3] = turn @ np.diag(spacing)[::-1]
    affine[:3, 3] = (30, -12, 55)
    grid = Geometry(shape, affine, "mm")
    for axis in flips:
        grid = grid.flipped(axis)
    grid = grid.transposed(axes)
    centre = grid.index_to_world((np.array(grid.shape) - 1) / 2 + np.array([2, -3, 1]))
    places = grid.index_to_world(np.stack(np.indices(grid.shape), axis=-1))
    inside = np.linalg.norm(places - centre, axis=-1) < 14
    array = np.where(inside, 100, -100).astype(np.int16)
    return Image(np.stack([array] * len(channels)), grid, channels), inside


@pytest.fixture
def make():
    """What makes bundles."""
    from types import SimpleNamespace

    return SimpleNamespace(
        write=write, config=config, metadata=metadata, pack=pack, threshold_net=threshold_net, spleen=spleen,
        unet=unet, ball=ball, LOAD=LOAD, SAVE=SAVE, SPLEEN_BEFORE=SPLEEN_BEFORE, SPLEEN_AFTER=SPLEEN_AFTER,
    )  # fmt: skip
