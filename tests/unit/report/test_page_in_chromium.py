"""The page in a real browser: nothing requested, nothing wrong, readable on a phone and a desk."""

from __future__ import annotations

import shutil

import pytest
from msgspec.structs import replace

from edge_inception.graph.topology import Block, DrawnLayer, Topology
from edge_inception.quant.clipping import ClippedTensor, Clipping
from edge_inception.quant.search_record import ScoredSet, SearchOutcome, SearchRecord
from edge_inception.report.noise_record import NoiseRecord, NoisyLayer
from edge_inception.report.page import to_html
from edge_inception.report.rooflines import LayerCost, Roofline
from edge_inception.report.sources import Source
from edge_inception.report.timings import Timing

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium"),
]
# Without the last three Chromium asks its maker's servers for updates at every start.
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
WIDTHS = (375, 1440)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield started
        started.close()


def layer(name, *inputs, **facts):
    known = {"label": "conv 3x3", "macs": 2_000_000, "precision": "int8", **facts}
    return DrawnLayer(
        name=name, op="Conv", sizes=(1, 4, 8, 8), num_parameters=10, inputs=inputs, **known
    )


NETWORK = Topology(
    layers=(
        layer("stem", -1),
        layer("left", 0),
        layer("right", 0, precision="float"),
        layer("join", 1, 2, label="concat", macs=None),
    ),
    blocks=(
        Block(name="stem", entry=-1, layers=(0,)),
        Block(name="block", entry=0, layers=(1, 2, 3)),
    ),
)
ROOFLINE = Roofline(
    target="orin-nano-8gb",
    precision="int8",
    low=100.0,
    middle=200.0,
    high=300.0,
    bound=400.0,
    macs_per_s=1e13,
    bytes_per_s=6.8e10,
    intensity=40.0,
    compute_share=0.2,
    layers=(LayerCost(macs=2e6, num_bytes=5e4, share=1.0),),
)
TENSOR = ClippedTensor(name="stem", observed=8.0, amax=6.0, ratio=0.75, clipped=0.001)
CALIBRATION = Clipping(
    set="64 images of cells, calibrator mse",
    rows=(TENSOR,),
    drawn=(replace(TENSOR, edges=(0.0, 4.0, 8.0), shares=(0.9, 0.1)),),
)
NOISY = NoisyLayer(
    name="left",
    op="Conv",
    tensor="x",
    sqnr_db=21.0,
    input_sqnr_db=40.0,
    read_sqnr_db=40.0,
    noisiest_input="y",
    is_jump=True,
    is_scale_to_blame=False,
    worst_image="a.png",
)
NOISE = NoiseRecord(graphs=(), images=(), layers=(NOISY,), left_out=(), jump=NOISY)
POINTS = tuple(
    ScoredSet(
        keep=keep,
        drop_pp=drop,
        noise_to_signal=0.1,
        worst_tenth_noise_to_signal=0.2,
        float_share_of_macs=share,
    )
    for keep, share, drop in (((), 0.0, 1.5), (("stem",), 0.25, 0.1), (("flat",), 0.35, 1.2))
)
OUTCOME = SearchOutcome(
    metric="top-1 drop",
    num_images=64,
    fp32_top1=0.9,
    max_drop_pp=0.5,
    drop_type="absolute",
    allowed_pp=0.5,
    is_met=True,
    why="the fewest",
    chosen=POINTS[1],
    kept={"stem": ("left",)},
    front=POINTS[:2],
)
SEARCH = SearchRecord(schema=1, outcome=OUTCOME, points=POINTS, ranking=())


@pytest.fixture(scope="module")
def path(whole_report, whole_timings, tmp_path_factory):
    """A page of reports and records with everything that a page can show but a history."""
    folder = tmp_path_factory.mktemp("page")
    older = replace(whole_report, model="googlenet", created_utc="2026-11-24T20:00:00Z")
    reports = (whole_report, older)
    sources = [
        Source(
            path=folder / f"{i}.json", report=r, network=NETWORK, rooflines=(ROOFLINE,),
            calibration=CALIBRATION, noise=NOISE, search=SEARCH,
        )
        for i, r in enumerate(reports)
    ]  # fmt: skip
    found = folder / "page.html"
    timed = [Timing(path=folder / f"t{i}.json", records=r) for i, r in enumerate(whole_timings)]
    text = to_html(sources, timed, created_utc="2026-11-25 21:00 UTC")
    found.write_text(text, encoding="utf-8")
    return found


@pytest.fixture
def opened(browser, path):
    """(width, scheme) -> the page there, with what it asked for and complained of."""
    contexts = []

    def made(width, scheme="light"):
        size = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("request", lambda request: page.heard.append(request.url))
        page.goto(path.as_uri())
        page.heard.remove(path.as_uri())
        return page

    yield made
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_it_asks_for_nothing_and_complains_of_nothing(width, opened):
    """No request but the file itself, nothing on the console."""
    page = opened(width)
    page.wait_for_load_state("networkidle")
    assert [heard for heard in page.heard if not heard.startswith("data:")] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(width, opened):
    """No sideways scrolling but inside of tables that say so."""
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_every_chart_is_drawn(width, opened):
    """Each figure shows one drawing of some size with marks in it, and text that can be read."""
    page = opened(width)
    figures = page.locator("figure.chart")
    # of each report six, its hardware two, one histogram; both together; of each record two
    assert figures.count() == 2 * 9 + 1 + 3 * 2
    for figure in figures.all():
        shown = [one for one in figure.locator("svg[data-chart]").all() if one.is_visible()]
        assert len(shown) == 1
        box = shown[0].bounding_box()
        assert box["width"] > 250
        assert box["height"] >= 70  # a single row
        assert shown[0].locator("[class*=role-mark] > *").count() >= 2
        smallest = min(
            text.bounding_box()["height"] for text in shown[0].locator("text:visible").all()
        )
        assert smallest >= 10  # px, of a line of 12 px


@pytest.mark.parametrize("width", WIDTHS)
def test_every_block_of_the_network_is_drawn(width, opened):
    """Each block is as wide as the page at most, its boxes have words and differ by precision."""
    page = opened(width)
    blocks = page.locator("svg[data-chart=block]")
    assert blocks.count() == 4
    for block in blocks.all():
        box = block.bounding_box()
        assert box["width"] > 50
        assert box["x"] + box["width"] <= width
    fills = {
        kind: page.locator(f".box.{kind} rect").first.evaluate("one => getComputedStyle(one).fill")
        for kind in ("int8", "float")
    }
    assert len(set(fills.values())) == 2
    assert page.locator(".box.jump .second").first.inner_html() == "21 dB"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_serious(width, scheme, opened):
    """Contrast, names, order of headings and the rest of axe-core's rules."""
    from axe_playwright_python.sync_playwright import Axe

    page = opened(width, scheme)
    found = Axe().run(page).response["violations"]
    bad = [one for one in found if one["impact"] in {"serious", "critical"}]
    assert not bad, [(one["id"], one["nodes"][0]["html"][:200]) for one in bad]


def test_dark_is_dark(opened):
    """The page follows the system: light paper or dark paper, ink that stands out on it."""

    def luminance(scheme, name):
        page = opened(1440, scheme)
        colour = page.evaluate(f"getComputedStyle(document.body).{name}")
        return sum(int(part) for part in colour.strip("rgb()").split(",")[:3])

    dark, bright = 120, 600  # of 765
    assert luminance("dark", "backgroundColor") < dark
    assert luminance("dark", "color") > bright
    assert luminance("light", "backgroundColor") > bright
    assert luminance("light", "color") < dark


def test_it_is_read_by_keyboard(opened):
    """Tab reaches the skip link first, then every table that scrolls and every summary."""
    page = opened(375)
    wanted = page.locator("a, summary, [tabindex='0']").count()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(wanted + 5):
        seen.add(page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
        page.keyboard.press("Tab")
    for scroller in page.locator(".scroller:visible").all():
        assert scroller.evaluate("one => one.outerHTML.slice(0, 200)") in seen


def test_it_prints(opened):
    """On paper the wide drawings are shown and nothing is cut off at the side."""
    page = opened(1440)
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 1000})  # A4 between margins
    shown = [one for one in page.locator("svg[data-chart]").all() if one.is_visible()]
    assert shown
    assert all(one.bounding_box()["x"] + one.bounding_box()["width"] <= 681 for one in shown)
    assert page.pdf(format="A4").startswith(b"%PDF")
