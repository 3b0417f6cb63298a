"""Pages: whatever they are given, they are well-formed, escaped, and one file."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ddpm.draw import page
from ddpm.draw.charts import Series, line_chart

NASTY = "<script>alert(1)</script> & \"quoted\" 'n' <b>"
VOID = {"meta", "link", "img", "input", "br"}


class Parsed(HTMLParser):
    """Elements with their attributes and the text in them; fails where tags do not pair."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return "".join(self.words)


def random_image(mode="RGB", size=(9, 7), seed=0):
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels)


def decoded(uri):
    head, _, data = uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def everything():
    """A page with every part in it, made from text that must be escaped."""
    image = random_image()
    line = Series(NASTY, (0.0, 1.0), (1.0, 2.0))
    parts = [
        page.text(NASTY, ""),
        page.note(NASTY),
        page.bullets([NASTY]),
        page.code(NASTY),
        page.details(NASTY, page.text(NASTY)),
        page.table([(NASTY, NASTY)]),
        page.numbers([(NASTY, NASTY)]),
        page.bars([(NASTY, 2.0, NASTY), ("b", 1.0, "1")]),
        page.charts(page.chart(NASTY, line_chart([line], NASTY), [line], NASTY)),
        page.sheet([image] * 3, NASTY, 2),
        page.rows([(NASTY, NASTY, [image] * 2)], NASTY),
        page.steps((NASTY, NASTY), (NASTY, NASTY), [(NASTY, NASTY, [image] * 2)]),
        page.cards([([(image, NASTY)] * 4, True)]),
        page.film([(NASTY, image), ("b", image)], NASTY),
        page.advice([(NASTY, NASTY, NASTY), ("b", "c", "")]),
    ]
    head = page.heading(NASTY, "running", NASTY) + page.bar(3, 9, NASTY)
    return page.document(NASTY, head, [(NASTY, NASTY, part) for part in parts], NASTY)


def test_a_page_is_well_formed_and_runs_no_script_but_its_own():
    parsed = Parsed(everything())
    assert len(parsed.all("script")) == 1
    assert not parsed.all("b") or all(not attributes for attributes in parsed.all("b"))
    assert "alert(1)" in parsed.text


def test_a_page_needs_nothing_but_itself():
    html = everything()
    parsed = Parsed(html)
    for _, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert attributes.get(name, "#").startswith(("data:", "#"))
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttpRequest", html)
    assert "default-src 'none'" in html


def test_links_lead_to_the_parts():
    parsed = Parsed(page.document("t", "", [("One", "The first", ""), ("Two", "The second", "")], "foot"))
    links = [a["href"].removeprefix("#") for a in parsed.all("a")]
    assert links == [section["id"] for section in parsed.all("section")] and len(links) == 2


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_small_picture_is_kept_bit_by_bit(mode):
    image = random_image(mode)
    if mode == "RGBA":  # what is wholly transparent has a colour too
        image.putpixel((0, 0), (10, 200, 30, 0))
    kept = decoded(page.data_uri(image)).convert(mode)
    assert np.array_equal(np.asarray(kept), np.asarray(image))


def test_a_large_picture_looks_the_same_and_can_be_made_smaller():
    ramp = np.linspace(0, 255, 200)
    image = Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp, 128.0), axis=2).astype(np.uint8))
    kept = np.asarray(decoded(page.data_uri(image)).convert("RGB")).astype(float)
    assert np.abs(kept - np.asarray(image)).mean() < 3
    small = decoded(page.data_uri(image, 100))
    assert small.size == (100, 100)
    assert abs(np.asarray(small.convert("RGB")).mean() - np.asarray(image).mean()) < 3
    assert image.size == (200, 200)  # the caller's is left alone


def test_only_small_pictures_are_enlarged_in_squares():
    assert 'class="pixels"' in page.img(random_image(), "small")
    assert 'class="pixels"' not in page.img(random_image(size=(65, 10)), "large")


def test_a_film_shows_its_last_frame_until_a_script_takes_over():
    frames = [(f"step {k}", random_image(seed=k)) for k in range(4)]
    parsed = Parsed(page.film(frames, "previews"))
    images = parsed.all("img")
    assert ["hidden" in image for image in images] == [True, True, True, False]
    assert [image["data-name"] for image in images] == [name for name, _ in frames]
    for image, (_, frame) in zip(images, frames, strict=True):
        assert np.array_equal(np.asarray(decoded(image["src"]).convert("RGB")), np.asarray(frame))
    assert "hidden" in next(a for a in parsed.all("div") if a.get("class") == "controls")
    assert parsed.all("input")[0]["max"] == "3"


def test_rows_have_as_many_columns_as_the_longest():
    one = random_image()
    parsed = Parsed(page.rows([("a", "", [one]), ("b", "", [one] * 5)], "picture of"))
    assert [a["style"] for a in parsed.all("div") if a.get("class") == "strip"] == ["--n:5", "--n:5"]
    assert len(parsed.all("img")) == 6


def test_steps_have_a_picture_for_every_name_of_the_axis():
    one = random_image()
    with pytest.raises(ValueError):
        page.steps(("t", "snr"), ("x", "y"), [("1", "0", [one])])


def test_bars_are_as_long_as_their_shares():
    parsed = Parsed(page.bars([("a", 4.0, "4"), ("b", 1.0, "1"), ("c", 0.0, "0")]))
    assert [i["style"] for i in parsed.all("i")] == ["width:100.0%", "width:25.0%", "width:0.0%"]
    assert Parsed(page.bars([("a", 0.0, "0")])).all("i")[0]["style"] == "width:0.0%"


def test_a_chart_without_a_drawing_is_left_out():
    assert page.chart("t", "", [], "c") == ""
    line = Series("loss", (0.0, 1.0), (2.0, 0.25))
    parsed = Parsed(page.chart("t", line_chart([line], "t"), [line], "c", ordered=True))
    assert "loss 0.25" in parsed.text  # its last value stands beside its name
    assert parsed.all("figure") == [{"class": "ramp"}]
