"""The drawing of a network: where boxes stand, and what they say."""

from __future__ import annotations

import re

from msgspec.structs import replace

from edge_inception.graph.topology import Block, DrawnLayer, Topology
from edge_inception.report import diagram
from edge_inception.report.noise_record import NoiseRecord, NoisyLayer


def layer(label, *inputs, **facts):
    known = {"sizes": (1, 4, 8, 8), "macs": 1000, "precision": "int8", **facts}
    return DrawnLayer(
        name=f"block/{label}", op="Conv", label=label, num_parameters=10, inputs=inputs, **known
    )


NETWORK = Topology(
    layers=(
        layer("stem", -1),
        layer("left", 0),
        layer("first", 0),
        layer("second", 2),
        layer("fork", 2, precision="float"),
        layer("join", 1, 3, 4, 0, macs=None),
    ),
    blocks=(
        Block(name="stem", entry=-1, layers=(0,)),
        Block(name="block", entry=0, layers=(1, 2, 3, 4, 5)),
    ),
)


def noise(name, sqnr_db, *, is_jump=False):
    """A record of compare-layers on one layer."""
    layer = NoisyLayer(
        name=name,
        op="Conv",
        tensor="x",
        sqnr_db=sqnr_db,
        input_sqnr_db=40.0,
        read_sqnr_db=40.0,
        noisiest_input="y",
        is_jump=is_jump,
        is_scale_to_blame=False,
        worst_image="a.png",
    )
    return NoiseRecord(graphs=(), images=(), layers=(layer,), left_out=(), jump=None)


def test_branches_stand_side_by_side():
    """A branch keeps its column until it forks; the shortcut has one too; no two share a place."""
    inputs = {i: NETWORK.layers[i].inputs for i in range(1, 6)}
    found = diagram.lay_out(0, [1, 2, 3, 4, 5], inputs)
    assert found.columns == {1: 0, 2: 1, 3: 1, 4: 2}
    assert found.num_columns == 4
    assert found.rows == {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3}
    drawn = {(source, reader) for source, reader, _ in found.edges}
    assert drawn == {(s, reader) for reader, ss in inputs.items() for s in ss}
    places = [(found.columns[one], found.rows[one]) for one in found.columns]
    assert len(set(places)) == len(places)


def test_times_stand_in_the_boxes_they_are_of():
    """A layer that was timed says so; SQNR, where known, comes first, the time in the tip."""
    times = {"block/left": 0.0314}
    drawing = str(diagram.draw_blocks(NETWORK, None, times)[1].drawing)
    assert drawing.count('class="second"') == drawing.count(" us</text>") + 3  # the others' MACs
    assert drawing.count(">31 us</text>") == 1
    lines = diagram.layer_rows(NETWORK, None, times)
    assert [one.ms for one in lines] == ["", "0.031", "", "", "", ""]
    drawing = str(diagram.draw_blocks(NETWORK, noise("block/left", 21.0), times)[1].drawing)
    assert ">21 dB</text>" in drawing
    assert "31 us; SQNR 21 dB</title>" in drawing


def test_boxes_lie_inside_of_the_drawing_and_do_not_overlap():
    """Every rectangle of a layer is within the drawing and clear of the others."""
    drawing = diagram.draw_blocks(NETWORK)[1].drawing
    width, height = map(float, re.search(r'width="(\d+)" height="(\d+)"', drawing).groups())
    form = r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" rx'
    boxes = [tuple(map(float, found)) for found in re.findall(form, drawing)]
    assert len(boxes) == 5
    for x, y, w, h in boxes:
        assert x >= 0
        assert x + w <= width
        assert y + h <= height
    for i, (x, y, w, h) in enumerate(boxes):
        for a, b, c, d in boxes[i + 1 :]:
            assert x + w <= a or a + c <= x or y + h <= b or b + d <= y


def test_names_are_text_and_noise_is_shown():
    """A name with HTML makes no element; a layer where the error jumps has its SQNR and a mark."""
    layers = list(NETWORK.layers)
    layers[1] = replace(layers[1], label="<script>")
    network = replace(NETWORK, layers=tuple(layers))
    noisy = noise("block/first", 31.4, is_jump=True)
    drawing = diagram.draw_blocks(network, noisy)[1].drawing
    assert "<script>" not in drawing
    assert "&lt;script&gt;" in drawing
    assert "31 dB" in drawing
    assert drawing.count(" jump") == 1
    assert drawing.count('class="box float') == 1
    assert [line.sqnr for line in diagram.layer_rows(network, noisy)] == ["", "", "31", "", "", ""]
