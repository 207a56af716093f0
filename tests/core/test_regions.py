"""Numbers for findings: each region gets its finding's, also where two share a box; what is nobody's comes after."""

import numpy as np
import pytest

from inspection_core.errors import UsageError
from inspection_core.findings import find_labelled, find_numbered
from inspection_core.geometry import Geometry
from inspection_core.regions import number_regions

CLASSES = ("ring", "dot")


def found(mask, spacing=None):
    geometry = Geometry.pixels(mask.shape) if spacing is None else Geometry.from_spacing(mask.shape, spacing)
    score = np.random.default_rng(0).random(mask.shape).astype(np.float32)
    return geometry, score, *find_labelled(mask, score, geometry, CLASSES)


@pytest.fixture
def nested():
    """A frame and a cross inside whose box is as large: two regions, one box."""
    mask = np.zeros((9, 9), np.uint8)
    mask[0, :] = mask[8, :] = mask[:, 0] = mask[:, 8] = 1
    mask[4, 2:7] = mask[2:7, 4] = 2
    return mask


@pytest.mark.parametrize("spacing", [None, (2.0, 0.5)], ids=["pixels", "mm"])
def test_every_region_has_its_findings_number(nested, spacing):
    geometry, score, mask, findings = found(nested, spacing)
    regions, numbers = number_regions(mask, findings, geometry.voxel_size)
    for finding in findings:
        inside = regions == finding.id
        assert inside.sum() * geometry.voxel_size == pytest.approx(finding.size)
        assert score[inside].max() == pytest.approx(finding.peak)
        assert numbers[finding.id][1] == finding.label
    np.testing.assert_array_equal(regions > 0, mask > 0)


def test_two_of_one_box_are_told_apart_by_size():
    mask = np.zeros((3, 5, 5), np.uint8)
    mask[0, 0, :] = mask[2, 4, :] = 1
    mask[0, 0:5, 0] = 1
    mask[:, 4, 4] = mask[:, 0, 4] = 1
    mask[0, 4, 0] = mask[2, 0, 0] = 1
    geometry, score, mask, findings = found(mask)
    regions, _ = number_regions(mask, findings)
    again = find_numbered(regions, score, geometry, {f.id: f.label for f in findings})
    assert [(f.id, f.size, f.peak) for f in again] == sorted((f.id, f.size, f.peak) for f in findings)


def test_what_no_finding_is_comes_after():
    mask = np.zeros((4, 9), np.uint8)
    mask[1, 1:3], mask[2, 6:8] = 1, 2
    _, _, mask, findings = found(mask)
    regions, numbers = number_regions(mask, findings[:1])
    assert set(numbers) == {findings[0].id, findings[0].id + 1}
    assert regions.max() == findings[0].id + 1
    assert number_regions(mask * 0, ())[1] == {}


def test_too_many_are_refused(monkeypatch):
    monkeypatch.setattr("inspection_core.regions.MAX_NUMBER", 1)
    mask = np.zeros((4, 9), np.uint8)
    mask[1, 1:3], mask[2, 6:8] = 1, 2
    with pytest.raises(UsageError, match=r"^At most 1 findings can be reviewed. Got 2; raise the threshold.$"):
        number_regions(mask, ())


class TestMeasuredByNumber:
    def test_a_finding_in_two_parts_is_one(self):
        regions = np.zeros((2, 6, 12), np.uint16)
        regions[0, 1:3, 1:3] = regions[1, 4, 8] = 7
        regions[1, 1, 1] = 9
        geometry = Geometry.from_spacing(regions.shape, (3.0, 1.0, 1.0))
        score = np.full(regions.shape, 0.25, np.float32)
        both = find_numbered(regions, score, geometry, {9: "dot", 7: "ring"})
        assert [(f.id, f.label, round(f.size, 6)) for f in both] == [(7, "ring", 15.0), (9, "dot", 3.0)]
        assert (both[0].start, both[0].stop) == ((0, 1, 1), (2, 5, 9))
        assert (both[0].confidence, both[0].calibrated, both[0].mean) == (0.0, False, 0.25)

    def test_as_the_finder_measures_them(self, nested):
        geometry, score, mask, findings = found(nested)
        regions, _ = number_regions(mask, findings)
        for finding in find_numbered(regions, score, geometry, {f.id: f.label for f in findings}):
            other = findings[finding.id - 1]
            for name in ("start", "stop", "size", "centroid_world", "long_axis", "short_axis", "peak", "mean"):
                assert getattr(finding, name) == pytest.approx(getattr(other, name)), name

    def test_none_of_nothing(self):
        regions = np.zeros((3, 3), np.uint16)
        assert find_numbered(regions, regions * 0.5, Geometry.pixels((3, 3)), {}) == ()
        assert find_numbered(regions, regions * 0.5, Geometry.pixels((3, 3)), {4: "dot"}) == ()
