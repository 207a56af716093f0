"""The shipped tumour model: one study gives one answer, however its voxels are stored and whatever file holds them."""

import dataclasses
import itertools

import numpy as np
import pytest

from inspection_core.cases import find_cases, read_slices
from inspection_core.channel_order import check_order
from inspection_core.demo_scans import MODEL
from inspection_core.engine import Engine
from inspection_core.errors import ReadError
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.inputs import list_inputs, open_input
from inspection_core.io.nifti import write_nifti
from inspection_core.phantom import CHANNELS, phantom
from inspection_core.prepare import prepare
from inspection_core.studies import for_channels

PLANES = slice(11, 17)
TAGS = {
    "pre": {"EchoTime": 10, "RepetitionTime": 500, "ScanningSequence": "SE", "SeriesDescription": "AX T1 SE"},
    "FLAIR": {
        "EchoTime": 90, "RepetitionTime": 9000, "InversionTime": 2500, "ScanningSequence": ["SE", "IR"],
        "SeriesDescription": "AX FLAIR",
    },
    "post": {
        "EchoTime": 10, "RepetitionTime": 500, "ScanningSequence": "SE", "SeriesDescription": "AX T1 SE POST",
        "ContrastBolusAgent": "Gadovist",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return Engine("cpu").load(MODEL)


@pytest.fixture(scope="module")
def study():
    """Six slices of the phantom around its lesion, in whole numbers as scanners store them."""
    image = phantom().image
    array = np.rint(image.array[:, PLANES] * 4).astype(np.int16)
    geometry = image.geometry.cropped((PLANES.start, 0, 0), array.shape[1:])
    return Image(array, geometry, image.channels)


@pytest.fixture(scope="module")
def answer(study, model):
    return predict(study, model)


def test_the_lesion_of_the_phantom_is_the_surest_finding(answer):
    drawn = phantom().lesion[PLANES]
    surest = max(answer.findings, key=lambda f: f.confidence)
    box = tuple(slice(a, b) for a, b in zip(surest.start, surest.stop, strict=True))
    inside = np.zeros_like(drawn)
    inside[box] = answer.mask[box] > 0
    assert 2 * (inside & drawn).sum() / (inside.sum() + drawn.sum()) > 0.8
    assert surest.calibrated


def test_a_rerun_gives_the_same_to_the_bit(study, answer, model):
    again = predict(study, model)
    assert np.array_equal(again.score, answer.score)
    assert again.findings == answer.findings


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_any_order_of_the_array_gives_the_same_answer(study, answer, model, axes):
    geometry = study.geometry.transposed(axes)
    array = study.array.transpose(0, *(a + 1 for a in axes))
    for axis in range(3):
        geometry, array = geometry.flipped(axis), np.flip(array, axis + 1)
    other = predict(Image(array, geometry, study.channels), model)
    score = np.flip(other.score, (0, 1, 2)).transpose(np.argsort(axes))
    np.testing.assert_allclose(score, answer.score, atol=1e-3)
    assert other.image_score == pytest.approx(answer.image_score, abs=1e-3)


def test_another_scale_of_the_intensities_gives_the_same_answer(study, answer, model):
    other = dataclasses.replace(study, array=study.array.astype(np.float32) * 0.37 + 25)
    np.testing.assert_allclose(predict(other, model).score, answer.score, atol=1e-3)


def nifti_with_channels(folder, study):
    write_nifti(folder / "study.nii.gz", study)


def nifti_a_channel(folder, study):
    for k, name in enumerate(CHANNELS):
        write_nifti(folder / f"case_{k:04d}.nii.gz", Image(study.array[k : k + 1], study.geometry, (name,)))


@pytest.mark.parametrize("write", [nifti_with_channels, nifti_a_channel])
def test_nifti_gives_the_same_answer(study, answer, model, tmp_path, write):
    write(tmp_path, study)
    (item,) = for_channels(list_inputs([tmp_path]), CHANNELS).inputs
    other = predict(open_input(item, CHANNELS).image, model)
    np.testing.assert_allclose(on_grid_of(study, other), answer.score, atol=1e-3)


def test_dicom_matched_by_headers_gives_the_same_answer(study, answer, model, dicom, tmp_path):
    affine, spacing = study.geometry.affine, study.geometry.spacing
    row, column = affine[:3, 2] / spacing[2], affine[:3, 1] / spacing[1]
    step = float(affine[:3, 0] @ np.cross(row, column))  # negative: the phantom's rows are stored back to front
    for number, (name, array) in enumerate(zip(CHANNELS, study.array, strict=True), start=1):
        dicom.write_series(
            tmp_path / str(number), array, (*row, *column), tuple(affine[:3, 3]), spacing[1:], step, Modality="MR",
            SeriesNumber=number, SeriesInstanceUID=f"1.2.3.1.{number}", StudyInstanceUID="1.2.3.1", **TAGS[name],
        )  # fmt: skip
    (item,) = for_channels(list_inputs([tmp_path]), CHANNELS).inputs
    other = predict(open_input(item, CHANNELS).image, model)
    np.testing.assert_allclose(on_grid_of(study, other), answer.score, atol=1e-3)


def on_grid_of(study, prediction):
    """The scores in the study's own order of voxels: files may be read in another."""
    axes = [int(np.abs(prediction.geometry.affine[:3, :3].T @ study.geometry.affine[:3, k]).argmax()) for k in range(3)]
    score, geometry = prediction.score.transpose(axes), prediction.geometry.transposed(axes)
    flips = [k for k in range(3) if geometry.affine[:3, k] @ study.geometry.affine[:3, k] < 0]
    return np.flip(score, flips)


def test_a_missing_channel_is_refused_by_name(study, model):
    with pytest.raises(ReadError, match=r"\(post missing\)"):
        predict(Image(study.array[:2], study.geometry, study.channels[:2]), model)


def test_an_empty_scan_has_no_finding(study, model):
    empty = predict(dataclasses.replace(study, array=np.zeros_like(study.array)), model)
    assert empty.findings == ()
    assert empty.image_score == 0


def test_what_is_no_brain_is_said_to_be_unlike(model):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 900, (3, 6, 90, 90)).astype(np.int16)
    noise = Image(array, phantom().image.geometry.resized((6, 90, 90)), CHANNELS)
    assert any(w.startswith("unlike the") for w in predict(noise, model).warnings)


def exchanged(image, model):
    prepared = prepare(image, model.card)
    return check_order(prepared.pixels, prepared.place.resized, model.card.calibration.order, CHANNELS)


def test_exchanged_channels_are_said(model):
    image = phantom().image
    assert exchanged(image, model) == ()
    for order in [(1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)]:  # its pre and post are nearly one
        said = exchanged(dataclasses.replace(image, array=image.array[list(order)]), model)
        assert said[0].startswith("channels look exchanged: ")


@pytest.mark.data
def test_exchanged_channels_of_real_patients_are_said(model, shared_data):
    cases = find_cases(shared_data / "medical" / "lgg2d" / "val")
    for case in sorted(cases, key=lambda c: len(c.images))[:3]:
        image = read_slices(case.images, CHANNELS)
        assert exchanged(image, model) == ()
        said = exchanged(dataclasses.replace(image, array=image.array[[1, 0, 2]]), model)
        assert said[0].startswith("channels look exchanged: pre looks like FLAIR, FLAIR looks like pre.")


def test_all_pairs_of_stand_ins_are_taken(study, model):
    """Channels that were not measured may be filled with a copy of FLAIR, as in some of the training's studies."""
    for gone in itertools.chain.from_iterable(itertools.combinations((0, 2), n) for n in (1, 2)):
        array = study.array.copy()
        array[list(gone)] = array[1]
        assert predict(dataclasses.replace(study, array=array), model).findings
