"""Pictures of results."""

import numpy as np
import pytest

from covidseg.imaging.volume import Volume
from covidseg.trainers import overlays


@pytest.mark.parametrize(("labels", "named"), [(["a", "b"], ["a", "b"]), (["a"], None)])
def test_several_labels_are_told_apart_by_a_legend(labels, named, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(overlays, "save_figure", lambda figure, stem: drawn.append(figure) or [])
    image = Volume(np.zeros((8, 8, 2), np.int16), np.eye(4))
    label = Volume(np.ones((8, 8, 2), np.uint8), np.eye(4))
    overlays.draw_overlays(
        [overlays.Shown("one", image, label, label)], labels, tmp_path, phantom=True
    )
    [figure] = drawn
    assert figure.get_suptitle() == "PHANTOMS: " + ", ".join(labels)
    legends = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]
    assert legends == ([named] if named else [])
