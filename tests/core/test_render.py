"""Pictures: sizes and proportions, fixed scales, outlines where the findings are, and crops of one magnification."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from inspection_core.card import Calibration, ModelCard, Policy
from inspection_core.errors import GeometryError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.prediction import Finding, Neighbour, Prediction
from inspection_core.render import (
    crop_side,
    peak_slice,
    render_crop,
    render_overlay,
    render_pair,
    render_plain,
    save_picture,
    score_scale,
)

WINDOW = (0.0, 255.0)
SCALE = (1.0, 3.0)


def image(array, channels=("grey",), geometry=None):
    array = np.asarray(array)
    return Image(array, geometry or Geometry.pixels(array.shape[1:]), channels)


def grey(*shape, value=100, dtype=np.uint8):
    return image(np.full((1, *shape), value, dtype))


def finding(start, stop, neighbour=None):
    centre = tuple((a + b - 1) / 2 for a, b in zip(start, stop, strict=True))
    return Finding(1, "anomaly", start, stop, centre, centre[::-1], 1, "px", 1, 1, 2, 1, 0.9, True, 0.1, neighbour)


def prediction(score, box=None, geometry=None):
    """Return a prediction with this score map, and one finding in the box if there is one."""
    score = np.asarray(score, dtype=np.float32)
    mask = np.zeros(score.shape, np.uint8)
    if box:
        mask[tuple(slice(a, b) for a, b in zip(*box, strict=True))] = 1
    found = (finding(*box),) if box else ()
    geometry = geometry or Geometry.pixels(score.shape)
    return Prediction(geometry, score, mask, found, 1.0, 0.5, "OK", 2.0, "id", "1", "sha", "cpu float32")


def pixels(picture):
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    ("shape", "max_side", "size"),
    [
        ((400, 400), 640, (400, 400)),
        ((1000, 500), 640, (640, 320)),
        ((100, 50), 640, (600, 300)),
        ((3, 5000), 640, (1, 640)),
        ((640, 641), 640, (639, 640)),
    ],
)
def test_pictures_keep_proportions_and_grow_by_whole_pixels(shape, max_side, size):
    plain = render_plain(grey(*shape), WINDOW, max_side)
    overlay = render_overlay(grey(*shape), prediction(np.zeros(shape)), WINDOW, SCALE, max_side)
    assert (plain.height, plain.width) == (overlay.height, overlay.width) == size
    assert (pixels(plain) == 100).all()


def test_slices_of_scans_get_their_true_proportions():
    scan = image(np.zeros((1, 4, 50, 100)), geometry=Geometry.from_spacing((4, 50, 100), (5.0, 2.0, 1.0)))
    plain = render_plain(scan, (0, 1), 200)
    assert (plain.height, plain.width) == (200, 200)


@pytest.mark.parametrize("flip", [(), (1,), (2,), (1, 2)])
def test_scans_hang_with_left_and_back_to_the_right_and_down(flip):
    """A bright corner at the patient's right front is drawn at the top left, however the array is stored."""
    array, geometry = np.zeros((3, 8, 8)), Geometry.from_spacing((3, 8, 8), (1.0, 1.0, 1.0))
    array[:, :2, :2] = 1
    for axis in flip:
        array, geometry = np.flip(array, axis), geometry.flipped(axis)
    drawn = pixels(render_plain(image(array[None], geometry=geometry), (0, 1), 8, z=1))[..., 0]
    assert (drawn[:2, :2] == 255).all()
    assert drawn.sum() == 4 * 255


def test_feet_are_at_the_bottom():
    """In a coronal stack, rows that grow to the head are turned round."""
    affine = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # (z, y, x) runs back, up, left
    array = np.zeros((1, 2, 6, 6))
    array[:, :, 5] = 1
    drawn = pixels(render_plain(image(array, geometry=Geometry((2, 6, 6), affine, "mm")), (0, 1), 6))[..., 0]
    assert (drawn[0] == 255).all()
    assert (drawn[1:] == 0).all()


def test_eight_bits_are_shown_as_they_are_and_others_through_the_window():
    assert (pixels(render_plain(grey(4, 4, value=100), (0, 1000))) == 100).all()
    deep = grey(4, 4, value=2500, dtype=np.uint16)
    assert (pixels(render_plain(deep, (2000, 3000))) == 128).all()
    holes = image(np.array([[[np.nan, -5.0], [0.5, 9.0]]]))
    assert pixels(render_plain(holes, (0, 1), 2))[..., 0].tolist() == [[0, 0], [128, 255]]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(("red", "green", "blue"), (10, 20, 30)), (("t1", "t2", "flair"), (10, 10, 10))],
)
def test_only_named_colours_make_colour(channels, expected):
    array = np.stack([np.full((4, 4), v, np.uint8) for v in (10, 20, 30)])
    assert pixels(render_plain(image(array, channels), WINDOW))[0, 0].tolist() == list(expected)


def test_large_images_are_averaged_down():
    checks = (np.indices((800, 800)).sum(axis=0) % 2 * 200).astype(np.uint8)[None]
    assert (pixels(render_plain(image(checks), WINDOW, 400)) == 100).all()


def test_scores_below_the_scale_leave_the_image_untouched():
    good = render_overlay(grey(40, 40), prediction(np.full((40, 40), 1.0)), WINDOW, SCALE, 40)
    assert (pixels(good) == 100).all()


def test_colour_depends_on_the_score_and_the_scale_alone():
    quiet, loud = np.full((40, 40), 1.5), np.full((40, 40), 1.5)
    loud[:10] = 50
    a, b = (pixels(render_overlay(grey(40, 40), prediction(s), WINDOW, SCALE, 40)) for s in (quiet, loud))
    assert (a[20:] == b[20:]).all()
    assert (a[:10] != b[:10]).any()


def test_opacity_rises_with_the_score():
    score = np.tile(np.linspace(0, 4, 200), (20, 1))
    change = np.abs(pixels(render_overlay(grey(20, 200), prediction(score), WINDOW, SCALE, 200)) - 100).max(axis=(0, 2))
    assert (change[:50] == 0).all()
    assert (np.diff(change) >= -25).all()  # colours pass the grey's own brightness on their way
    assert change[60] < 20 < change[149]


def test_undefined_scores_are_clear():
    score = np.full((20, 20), np.nan)
    assert (pixels(render_overlay(grey(20, 20), prediction(score), WINDOW, SCALE, 20)) == 100).all()


def test_one_hot_pixel_survives_shrinking():
    score = np.zeros((2000, 2000))
    score[1003, 777] = 5
    drawn = pixels(render_overlay(grey(2000, 2000), prediction(score), WINDOW, SCALE, 200))
    assert np.argwhere((drawn != 100).any(axis=-1)).tolist() == [[100, 77]]


def test_findings_are_outlined_and_numbered_where_they_are():
    box = ((100, 120), (140, 200))
    drawn = pixels(render_overlay(grey(300, 300), prediction(np.zeros((300, 300)), box), WINDOW, SCALE, 300))
    touched = np.argwhere((drawn != 100).any(axis=-1))
    assert (drawn[100, 130:190] == 255).all()
    assert (drawn[99, 130:190] == 0).all()
    assert (drawn[110:130, 130:190] == 100).all()
    assert touched.min(axis=0)[0] == 78  # the number stands above its region
    assert touched.max(axis=0).tolist() == [140, 200]


@pytest.mark.parametrize("box", [((0, 0), (3, 3)), ((27, 27), (30, 30)), ((0, 0), (30, 30))])
def test_numbers_stay_inside_the_picture(box):
    drawn = render_overlay(grey(30, 30), prediction(np.zeros((30, 30)), box), WINDOW, SCALE, 30)
    assert drawn.size == (30, 30)


def test_the_slice_with_the_highest_score_is_drawn_with_its_findings():
    score = np.zeros((5, 40, 40))
    score[3, 10:20, 10:20] = 9
    scan = image(np.full((1, 5, 40, 40), 100, np.uint8))
    there, elsewhere = prediction(score, ((3, 10, 10), (4, 20, 20))), prediction(score, ((0, 30, 30), (1, 38, 38)))
    assert peak_slice(there) == 3
    drawn = [pixels(render_overlay(scan, p, WINDOW, SCALE, 40)) for p in (there, elsewhere)]
    assert (drawn[0][10, 12:18] == 255).all()
    assert (drawn[1][25:] == 100).all()
    assert (pixels(render_overlay(scan, there, WINDOW, SCALE, 40, z=0)) == 100).all()


def test_an_overlay_of_another_image_is_refused():
    with pytest.raises(GeometryError, match=r"prediction of the same image. Got an image of shape \(4, 4\).*\(5, 5\)"):
        render_overlay(grey(4, 4), prediction(np.zeros((5, 5))), WINDOW, SCALE)


def test_crop_shows_the_box_in_its_middle_with_a_frame():
    array = np.full((1, 200, 200), 50, np.uint8)
    array[:, 80:120, 80:120] = 200
    crop = pixels(render_crop(image(array), (80, 80), (120, 120), WINDOW, size=160, margin=0.5))
    assert crop.shape == (160, 160, 3)
    assert (crop[60:100, 60:100] == 200).all()
    assert (crop[40, 45:115] == 255).all()
    assert (crop[39, 45:115] == 0).all()
    assert (crop[:35] == 50).all()


@pytest.mark.parametrize(
    ("shape", "start", "stop"),
    [
        ((200, 200), (0, 0), (1, 1)),
        ((200, 200), (195.5, 190.2), (204.5, 203.0)),
        ((10, 400), (0, 100), (10, 300)),
        ((5, 5), (0, 0), (5, 5)),
        ((1, 1), (0, 0), (1, 1)),
        ((17, 4000), (5, 0), (6, 4000)),
        ((4000, 17), (0, 5), (4000, 6)),
    ],
)
def test_crops_at_edges_and_of_small_images_keep_their_size(shape, start, stop):
    assert render_crop(grey(*shape), start, stop, WINDOW, size=120).size == (120, 120)


def test_finding_and_good_patch_have_one_magnification():
    spots = np.zeros((1, 300, 300), np.uint8)
    spots[:, 140:160, 140:160] = 255
    neighbour = Neighbour("good.png", (149.5, 149.5), (60.0, 60.0), 0.4)
    here, there = render_pair(image(spots), finding((140, 140), (160, 160), neighbour), image(spots), WINDOW, 150)
    widths = [(pixels(p)[75, :, 0] > 200).sum() for p in (here, there)]
    assert abs(widths[0] - widths[1]) <= 4  # the thin frames differ
    alone = render_pair(image(spots), finding((140, 140), (160, 160)), image(spots), WINDOW)
    assert alone[1] is None
    assert crop_side((0, 10, 10), (50, 20, 30), 0.5) == 40


def test_scale_follows_the_calibration_or_the_card():
    def card(**changes):
        return ModelCard("m", "1", "a", "anomaly", ("grey",), "score", **changes)

    assert score_scale(card(calibration=Calibration("x", (1.0,), (1.0, 2.0), 0.5))) == (0.5, 5.0)
    assert score_scale(card(policy=Policy(kind="band", low=0.3, high=0.8))) == (0.3, 1.0)
    policy = Policy(kind="band", low=0.75, high=0.9)
    outlines = ModelCard("m", "1", "a", "segmentation", ("CT",), "1 - P", classes=("x",), policy=policy)
    assert score_scale(outlines) == (0.75, 1.0), "a probability ends at 1"
    low, high = score_scale(
        card(policy=Policy(kind="band", low=7, high=8), calibration=Calibration("x", (), (1.0,), 2.0))
    )
    assert high > low


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_pictures_are_written_whole(tmp_path, suffix):
    path = save_picture(tmp_path / "deep" / f"a{suffix}", render_plain(grey(30, 40), WINDOW, 40))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with PIL.Image.open(path) as picture:
        assert picture.size == (40, 30)
        assert abs(np.asarray(picture.convert("L")).astype(int) - 100).max() <= 2


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(OSError):
        save_picture(Path(tmp_path / "a" / "b.png"), render_plain(grey(3, 4), WINDOW))


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_every_picture_says_what_it_is_not_for(tmp_path, suffix):
    path = save_picture(tmp_path / f"a{suffix}", render_plain(grey(30, 40), WINDOW, 40))
    with PIL.Image.open(path) as picture:
        said = picture.text["Comment"] if suffix == ".png" else picture.getexif()[270]
    assert said == "Research use only, not for diagnosis."
