"""The figure of particles in a periodic box."""

import torch

from canonkit import figures


def test_periodic_boxes_draw_points_where_they_belong_in_the_box():
    points = torch.tensor([[[0.5, 0.5], [4.5, -0.5]], [[1.0, 2.0], [3.0, 3.0]]])
    figure = figures.periodic_boxes({"some": points, "others": points[:1]}, side=4.0, columns=2)
    assert len(figure.axes) == 6
    drawn = figure.axes[0].collections[0].get_offsets()
    assert drawn.tolist() == [[0.5, 0.5], [0.5, 3.5]]
    assert [figure.axes[k].get_title() for k in (2, 5)] == ["all 2", "all 1"]
    assert [figure.axes[k].get_ylabel() for k in (0, 3)] == ["some", "others"]
    assert not figure.axes[4].collections  # there is no second configuration
