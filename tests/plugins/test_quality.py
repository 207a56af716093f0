"""For everyone who sits in front of it: keys, tooltips, colours by numbers, and nothing cut off."""

from itertools import combinations, pairwise

import numpy as np
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QLineEdit, QPushButton, QScrollBar

from napari_inspection import layers, looks, widgets
from napari_inspection.industrial import histogram

TABS = ("Open", "Run", "Review", "Correct", "View")


def pages(panel):
    """Each tab brought to the front, and its page."""
    for at, name in enumerate(TABS):
        panel.show_tab(name)
        yield name, panel.tabs.widget(at).widget()


@pytest.fixture
def seen(reviewed):
    """The panel, laid out with the size that it has in a window of 1280 x 800."""
    reviewed.resize(380, 740)
    for _ in pages(reviewed):
        reviewed.grab()  # lays everything out, and paints it where nobody sees
    return reviewed


class TestControls:
    def test_each_has_a_tooltip_and_a_name(self, panel):
        lacking = []
        for tab, page in pages(panel):
            for control in widgets.controls(page.layout()):
                named = control.accessibleName() or (control.text() if isinstance(control, QAbstractButton) else "")
                if not control.toolTip() or not named:
                    lacking.append(f"{tab}: {type(control).__name__} {named or control.toolTip()!r}")
        assert lacking == []

    def test_no_control_is_forgotten(self, panel):
        """What Qt finds on a page, the layouts hold: otherwise the test above would not look at it."""
        for _, page in pages(panel):
            there = {
                w
                for kind in widgets.CONTROLS
                for w in page.findChildren(kind)
                if not isinstance(w, QScrollBar) and not any(isinstance(p, widgets.CONTROLS) for p in parents(w, page))
            }
            assert there == set(widgets.controls(page.layout()))

    def test_tab_goes_through_a_page_as_it_is_read(self, seen):
        for tab, page in pages(seen):
            wanted = [c for c in widgets.controls(page.layout()) if c.focusPolicy() & Qt.FocusPolicy.TabFocus]
            chain, at = [], wanted[0]
            for _ in range(500):
                if at in wanted and at not in chain:
                    chain.append(at)
                at = at.nextInFocusChain()
            assert chain == wanted, tab
            rows = [control.mapTo(page, control.rect().center()).y() for control in wanted if control.isVisibleTo(page)]
            assert all(b > a - 20 for a, b in pairwise(rows)), f"{tab}: {rows}"

    def test_nothing_is_cut_off_at_1280_by_800(self, seen):
        cut = []
        for tab, page in pages(seen):
            for kind in (QPushButton, QLabel, QComboBox):
                for widget in page.findChildren(kind):
                    wraps = isinstance(widget, QLabel) and widget.wordWrap()
                    if not widget.isVisibleTo(page) or wraps or isinstance(widget.parent(), QComboBox):
                        continue
                    if widget.width() < widget.minimumSizeHint().width() or (
                        not isinstance(widget, QComboBox) and widget.width() < widget.sizeHint().width()
                    ):
                        cut.append(f"{tab}: {getattr(widget, 'text', widget.accessibleName)()}")
            assert page.width() <= seen.tabs.width(), tab
        assert cut == []


def parents(widget, page):
    while (widget := widget.parentWidget()) is not None and widget is not page:
        yield widget


class TestKeys:
    def test_none_is_naparis_own(self, panel, napari):
        """Of the viewer, of pictures and of labels: what is active while one reviews."""
        from napari.layers import Image, Labels
        from napari.utils.action_manager import action_manager
        from napari.utils.key_bindings import coerce_keybinding
        from napari.utils.shortcuts import default_shortcuts

        kinds = {napari.components.ViewerModel: "viewer", Image: "image", Labels: "labels"}
        taken = {}
        for name, keys in default_shortcuts.items():
            provider = action_manager._actions[name].keymapprovider if name in action_manager._actions else None
            if provider in kinds or provider is napari.Viewer or provider is None:
                taken |= {str(key): name for key in keys}
        for provider in (Image, Labels):
            taken |= {str(key): f"{provider.__name__}'s keymap" for key in provider.class_keymap}
        allowed = {"Ctrl+Z", "Ctrl+Shift+Z"}  # on purpose: one history
        ours = {str(coerce_keybinding(key)) for key in panel._keys} - allowed
        assert {key: taken[key] for key in ours & set(taken)} == {}

    def test_they_work_where_the_focus_is_in_the_panel(self, seen, qtbot, until):
        seen.show_tab("Review")
        table, review = seen.review.table, seen.session.desk.review
        number = table.selected()[0]
        table.setFocus()
        seen.shortcuts["A"].activated.emit()
        assert review.mark(number).status == "accepted"
        assert set(seen._keys) - set(seen.shortcuts) == {"PageDown", "PageUp", "Shift-Up", "Shift-Down"}
        contexts = {short.context() for short in seen.shortcuts.values()}
        assert contexts == {Qt.ShortcutContext.WidgetWithChildrenShortcut}
        assert all(not short.key().isEmpty() for short in seen.shortcuts.values())

    def test_letters_can_be_typed(self, seen, qtbot):
        seen.show_tab("Review")
        field = next(w for w in seen.findChildren(QLineEdit) if w.accessibleName() == "Reviewer")
        before = len(seen.session.desk.review.log)
        field.clear()
        field.setFocus()
        qtbot.keyClicks(field, "anna")
        assert field.text() == "anna"
        assert len(seen.session.desk.review.log) == before


class TestEmpty:
    @pytest.mark.parametrize(
        ("where", "words"),
        [
            (lambda p: p.opening.hint.text(), "Drop a scan"),
            (lambda p: p.running.expect.text(), "Open something to run it on."),
            (lambda p: p.running.screening.counts.text(), "Nothing was screened yet."),
            (lambda p: p.review.hint.text(), "No findings yet. Open a scan or an image"),
            (lambda p: p.edit.what.text(), "Run a model first"),
            (lambda p: p.view.distance.text(), "Click Measure, then two points"),
        ],
        ids=["open", "run", "screen", "review", "correct", "view"],
    )
    def test_each_screen_says_what_to_do(self, panel, where, words):
        from napari_inspection.samples import model_of_phantom

        model_of_phantom()
        panel.running.picker.refresh()
        assert where(panel).startswith(words)


# Machado, Oliveira and Fernandes 2009, doi 10.1109/TVCG.2009.113, severity 1, on linear RGB.
SIGHT = {
    "all cones": np.eye(3),
    "no L cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no M cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no S cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
PALETTES = {
    "status": [c for name, c in looks.COLOURS.items() if name != "rejected"],
    "classes": looks.CLASS_COLOURS,
    "comparison": layers.OVERLAP_COLOURS,
    "histogram": [histogram.GOOD, histogram.SCREENED, histogram.REVIEW, histogram.NG],
    "messages": list(widgets.KINDS.values()),
}


def seen_as(colour, sight):
    """A colour in CIE L*a*b* as someone with this sight sees it."""
    from skimage.color import rgb2lab

    stored = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(SIGHT[sight]) @ linear, 0, 1)
    back = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(back[None, None])[0, 0]


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("palette", PALETTES)
def test_colours_can_be_told_apart(palette, sight):
    """CIEDE2000 of at least 10 between any two that stand side by side: some ten times what can just be seen."""
    from skimage.color import deltaE_ciede2000

    for one, other in combinations(PALETTES[palette], 2):
        apart = float(deltaE_ciede2000(seen_as(one, sight), seen_as(other, sight)))
        assert apart >= 10, f"{one} and {other}: {apart:.1f}"
