"""nnU-Net result folders: the same result as nnU-Net's own predictor gives, and nothing run that they name."""

import builtins
import contextlib
import io
import json
import warnings

import numpy as np
import pytest
import torch

from inspection_core.engine import Engine
from inspection_core.errors import ModelError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.io.nifti import read_nifti, write_nifti
from inspection_core.models import nnunet

ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}


def plans(reader="SimpleITKIO", **changes):
    resample = {"order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": "Dataset007_Test",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.0, 1.0],
        "original_median_shape_after_transp": [20, 24, 24],
        "image_reader_writer": reader,
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"max": 300.0, "mean": 80.0, "median": 80.0, "min": -100.0, "percentile_00_5": -90.0,
                  "percentile_99_5": 250.0, "std": 60.0}
        },
        "configurations": {
            "3d_fullres": {
                "data_identifier": "x",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [16, 16, 16],
                "median_image_size_in_voxels": [20, 24, 24],
                "spacing": [1.5, 1.2, 1.2],
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {"is_seg": False, **resample},
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": {"is_seg": True, **resample, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {"is_seg": False, **resample, "order": 1},
                "batch_dice": False,
                "architecture": ARCHITECTURE | changes,
            }
        },
    }  # fmt: skip


def write(folder, *, reader="SimpleITKIO", labels=None, folds=(0, 1), extra=None, **changes):
    """Write a result folder as training leaves it, with random weights."""
    labels = labels or {"background": 0, "liver": 1, "tumour": 2}
    folder.mkdir(parents=True)
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 20, "file_ending": ".nii.gz",
               "licence": "CC-BY-4.0"}  # fmt: skip
    if any(isinstance(v, list) for v in labels.values()):
        dataset["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    (folder / "plans.json").write_text(json.dumps(plans(reader, **changes)), encoding="utf-8")
    for fold in folds:
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network(2 if "regions_class_order" in dataset else 3, fold),
            "optimizer_state": None,
            "_best_ema": np.float64(0.8),  # nnU-Net keeps one of numpy's numbers
            "logging": {"dice": [np.float32(0.1), 0.2]},
            "init_args": {"configuration": "3d_fullres", "plans": {}, "fold": fold, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
            **(extra or {}),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def network(outputs, seed):
    try:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet
    except ImportError:
        return {}
    torch.manual_seed(seed)
    kwargs = ARCHITECTURE["arch_kwargs"] | {
        "conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU,
    }  # fmt: skip
    return PlainConvUNet(input_channels=1, num_classes=outputs, **kwargs).state_dict()


def scan():
    noise = np.random.default_rng(3).normal(60, 50, (1, 18, 26, 22)).astype(np.float32)
    return Image(noise, Geometry.from_spacing((18, 26, 22), (2.5, 0.9, 1.1)).flipped(1), ("CT",))


def theirs(folder, path, reader):
    """Return the mask and the probabilities of nnU-Net's own predictor and reader."""
    from nnunetv2 import imageio
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    assert imageio
    kind = {"SimpleITKIO": SimpleITKIO, "NibabelIOWithReorient": NibabelIOWithReorient}[reader]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), None)
        array, properties = kind().read_images([str(path)])
        return predictor.predict_single_npy_array(array, properties, None, None, True)


CLASSES = {
    "classes": {"background": 0, "liver": 1, "tumour": 2},
    "regions": {"background": 0, "liver": [1, 2], "tumour": [2]},
}


@pytest.mark.parametrize("labels", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIOWithReorient"])
def test_the_same_as_nnunet_itself(tmp_path, reader, labels):
    pytest.importorskip("nnunetv2")
    folder = write(
        tmp_path / "Dataset007_Test" / "nnUNetTrainer__nnUNetPlans__3d_fullres", reader=reader, labels=labels
    )
    write_nifti(tmp_path / "scan.nii.gz", scan())
    mask, chances = theirs(folder, tmp_path / "scan.nii.gz", reader)
    model = Engine("cpu").load(f"nnunet:{folder}")
    prediction = predict(read_nifti(tmp_path / "scan.nii.gz"), model)
    if reader == "NibabelIOWithReorient":  # theirs lies in RAS
        mask, chances = mask[:, ::-1], chances[:, :, ::-1]
        mask, chances = mask[..., ::-1], chances[..., ::-1]
        image = read_nifti(tmp_path / "scan.nii.gz")
        assert image.geometry.affine[0, 2] > 0  # x of the file runs to the left
        mask, chances = mask[:, ::-1], chances[:, :, ::-1]
    score = chances.max(axis=0) if labels is CLASSES["regions"] else 1 - chances[0]
    assert 0 < (mask > 0).mean() < 1
    assert np.array_equal(prediction.mask, mask)
    assert np.abs(prediction.score - score).max() < 1e-5
    assert model.card.classes == ("liver", "tumour")
    assert (model.card.id, model.card.licence) == ("Dataset007_Test", "CC-BY-4.0")
    assert prediction.verdict == "REVIEW"


def test_one_fold(tmp_path):
    pytest.importorskip("nnunetv2")
    folder = write(tmp_path / "m")
    assert len(Engine("cpu").load(f"nnunet:{folder}").predictor.predictor.list_of_parameters) == 2
    one = Engine("cpu").load(f"nnunet:{folder / 'fold_1'}")
    assert one.card.training["folds"] == ("fold_1",)


class Payload:
    def __reduce__(self):
        return print, ("this must never be seen",)


def test_a_checkpoint_with_code_in_it(tmp_path, capsys):
    path = write(tmp_path / "m", folds=(0,), extra={"logging": Payload()}) / "fold_0" / "checkpoint_final.pth"
    with pytest.raises(ModelError, match=r"holds more than tensors and numbers, and loading it would run code"):
        nnunet._checkpoint(path, trust=False)
    assert "never" not in capsys.readouterr().out


def test_a_checkpoint_as_nnunet_writes_it(tmp_path):
    path = write(tmp_path / "m", folds=(0,)) / "fold_0" / "checkpoint_final.pth"
    assert nnunet._checkpoint(path, trust=False)["trainer_name"] == "nnUNetTrainer"


NAMES = {
    "network": {"network_class_name": "os.system"},
    "layer": {"arch_kwargs": {"conv_op": "subprocess.Popen"}, "_kw_requires_import": ["conv_op"]},
}


@pytest.mark.parametrize("changes", NAMES.values(), ids=NAMES)
def test_names_from_elsewhere(tmp_path, changes):
    folder = write(tmp_path / "m", folds=(), **changes)
    with pytest.raises(ModelError, match=r"which is neither nnU-Net's nor torch's.*--trust-bundle"):
        nnunet._check_names(json.loads((folder / "plans.json").read_text()), folder)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ModelError, match=r"Found none in .*; give the folder that is named like"):
        nnunet._folds(tmp_path)
    folder = write(tmp_path / "m", folds=())
    with pytest.raises(ModelError, match=r"holds no checkpoint_final\.pth or checkpoint_best\.pth"):
        nnunet._folds(folder)
    (folder / "plans.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"must be a table of entries\. Got list"):
        nnunet._json(folder / "plans.json")


def test_nnunet_is_not_installed(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *more, **kwargs):
        if name.split(".")[0] == "nnunetv2":
            raise ImportError(name, name=name)
        return real(name, *more, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    folder = write(tmp_path / "m", folds=())
    with pytest.raises(ModelError, match=r'not installed .*: pip install "inspection-suite\[nnunet\]"\.'):
        Engine("cpu").load(f"nnunet:{folder}")
