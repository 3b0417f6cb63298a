"""The report in a real browser: `make test-browser`. Without Chromium these fail; they are never skipped."""

import shutil

import pytest
from accelerate import Accelerator

from ddpm.cli import main
from ddpm.data import load, open_source, open_sources
from ddpm.report import NAME
from ddpm.store import Description, Run
from ddpm.train import facts, fit
from ddpm.trainer import Trainer
from tiny import config, photos

pytestmark = pytest.mark.browser

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


INSIDE = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
OUTSIDE = """() => [...document.querySelectorAll("main *")].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map(one => one.outerHTML.slice(0, 80))"""
FAINT = """() => {
    const kinds = "h1, h2, h3, p, a, dt, dd, li, td, summary, figcaption, span, b, text";
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    };
    const ground = one => {
        const colour = parts(getComputedStyle(one).backgroundColor);
        return colour.length === 3 || colour[3] > 0 || !one.parentElement ? colour : ground(one.parentElement);
    };
    return [...document.querySelectorAll(kinds)]
        .filter(one => one.textContent.trim())
        .map(one => {
            const style = getComputedStyle(one);
            const a = light(parts(one.tagName === "text" ? style.fill : style.color)), b = light(ground(one));
            return [one.outerHTML.slice(0, 80), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
        })
        .filter(([, contrast]) => contrast < 4.5);
}"""


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, the system's."""
    from playwright.sync_api import sync_playwright

    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    assert found, "no Chromium is here: make test-browser installs it"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a real run: 12 steps on colour pictures in two classes."""
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_CACHE", str(folder / "cache"))
        data = photos(folder / "pets", size=(16, 16))
        pictures = load(open_source(data), (16, 16), 3)
        made = config(data__path=(str(data),), data__size=(16, 16), data__channels=3)
        made = made.with_(train__log_every=1, train__preview_every=4, train__checkpoint_every=6)
        description = Description(
            made, facts(pictures), plan=("size 16 x 16: the pictures' own",), command="ddpm train"
        )
        run = Run.create(folder / "run", description)
        for _ in fit(Trainer(made, pictures, Accelerator(cpu=True)), run, description):
            pass
        assert main(["report", str(run.folder), "--device", "cpu", "--samples", "8", "--steps", "4"]) == 0
    return run.folder / NAME


@pytest.fixture(scope="module")
def classifier_report(tmp_path_factory):
    """Of a classifier trained for 12 steps, with held-out pictures."""
    folder = tmp_path_factory.mktemp("classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_CACHE", str(folder / "cache"))
        source, held = open_sources(photos(folder / "pets", size=(16, 16)), holdout="0.2")
        pictures, held_out = (load(one, (16, 16), 3) for one in (source, held))
        made = config(data__path=(str(folder / "pets"),), data__size=(16, 16), data__channels=3)
        made = made.with_(data__holdout="0.2", train__task="classifier", train__log_every=1)
        made = made.with_(train__preview_every=0, train__checkpoint_every=4)
        description = Description(made, facts(pictures, held_out), command="ddpm train")
        run = Run.create(folder / "run", description)
        for _ in fit(Trainer(made, pictures, Accelerator(cpu=True), held_out), run, description):
            pass
        assert main(["report", str(run.folder), "--device", "cpu"]) == 0
    return run.folder / NAME


@pytest.fixture(
    scope="module", params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join
)
def opened(request, browser, report):
    """The report, open; and every complaint and request of the browser."""
    context, *heard = visit(browser, report, *request.param)
    yield heard
    context.close()


def visit(browser, report, size, scheme):
    """A window with the report; its context, the page, and every complaint and request of the browser."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, reduced_motion="reduce"
    )
    page, complaints, requests = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri(), wait_until="load")
    return context, page, complaints, requests


def test_it_opens_without_a_complaint_and_asks_for_nothing(opened, report):
    page, complaints, requests = opened
    page.wait_for_timeout(200)
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {report.as_uri()}


def test_every_picture_is_there(opened):
    page, _, _ = opened
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    assert page.evaluate("[...document.images].every(image => image.complete)")
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) > 60 and min(widths) > 0
    assert page.eval_on_selector_all("svg.chart", "charts => charts.map(c => c.getBBox().width)") != []


def test_nothing_is_wider_than_the_page(opened):
    page, _, _ = opened
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    assert page.evaluate(INSIDE)
    assert page.evaluate(OUTSIDE) == []


def test_letters_can_be_told_from_their_ground(opened):
    """Contrast of at least 4.5 to 1 for all text, by the formula of WCAG 2."""
    page, _, _ = opened
    assert page.evaluate(FAINT) == []


def shown(page):
    return page.eval_on_selector_all(
        ".film img", "images => images.filter(i => i.offsetWidth > 0).map(i => i.dataset.name)"
    )


def test_the_film_has_a_slider_and_plays(opened):
    from playwright.sync_api import expect

    page, complaints, _ = opened
    page.reload()
    assert shown(page) == ["step 12"]
    slider = page.locator(".film input")
    slider.fill("0")
    assert shown(page) == ["step 4"] and page.locator(".film output").inner_text() == "step 4"
    slider.press("ArrowRight")
    assert shown(page) == ["step 8"]
    button = page.locator(".film button")
    button.click()
    assert button.inner_text() == "Pause"
    expect(page.locator(".film output")).to_have_text("step 12")
    expect(button).to_have_text("Play")
    button.click()  # from the end it starts over
    assert shown(page) == ["step 4"]
    button.click()
    assert button.inner_text() == "Play"
    assert complaints == []


def test_without_script_the_last_preview_shows(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    visible = [image.get_attribute("data-name") for image in page.locator(".film img").all() if image.is_visible()]
    assert visible == ["step 12"]
    assert not page.locator(".film .controls").is_visible()
    context.close()


def test_links_lead_to_their_parts(opened):
    from playwright.sync_api import expect

    page, _, _ = opened
    for link in page.locator("nav a").all():
        link.click()
        expect(page.locator(link.get_attribute("href"))).to_be_in_viewport()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_classifier_s_report(browser, classifier_report, size, scheme):
    context, page, complaints, requests = visit(browser, classifier_report, size, scheme)
    page.wait_for_timeout(200)
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {classifier_report.as_uri()}
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    assert page.evaluate(INSIDE) and page.evaluate(OUTSIDE) == [] and page.evaluate(FAINT) == []
    assert page.locator("svg.chart").count() == 7 and page.locator(".bars i").count() == 2 + 5
    assert not page.locator(".film").count()
    context.close()
