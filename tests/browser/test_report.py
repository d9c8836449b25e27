"""report.html in a real browser: plots, pointing, filters, and protection against hostile names."""

import json
import os
import pathlib
import subprocess

import chromium
import pytest
from playwright.sync_api import sync_playwright

ROOT = pathlib.Path(__file__).parents[2]
POMONA = os.environ.get("POMONA", str(ROOT / "target/release/pomona"))
# Folder and file names that would run a script, break out of an attribute, or reverse the text direction.
LABELS = ["<img src=x onerror=alert(1)>", "\"quoted\" 'label' & <b>bold<b>", "תפוחים אדומים \u202e txt", "<script>alert(2)<script>"]
FILE = "a\"onmouseover=alert(3) '<svg onload=alert(4)> ملف.jpg"
VIEWS = 6


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    """A run on fruit pictures, some with hostile names, and on files that are not images."""
    folder = tmp_path_factory.mktemp("report")
    subprocess.run([POMONA, "demo", folder, "--images-only", "--views", str(VIEWS)], check=True, capture_output=True)
    images = folder / "images"
    for label, source in zip(LABELS, sorted(images.iterdir())):
        source.rename(images / label)
    first = sorted((images / LABELS[0]).iterdir())[0]
    first.rename(first.parent / FILE)
    for i in range(3):
        (images / LABELS[1] / f"broken <i>{i}<i>.jpg").write_bytes(b"no image")
    done = subprocess.run([POMONA, "run", images, folder / "results", "--max-reject-percent", "50", "--json"],
                          check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(params=[390, 1440])
def page(request, browser, output):
    """The page at the width of a phone and of a screen; collects everything that goes wrong."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.wrong = []
    page.on("console", lambda message: page.wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: page.wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (page.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda sent: None if sent.url.startswith(("file:", "data:")) else page.wrong.append(f"request: {sent.url}"))
    page.goto(pathlib.Path(output["files"]["report"]).resolve().as_uri())
    yield page
    assert not page.wrong, page.wrong
    page.close()


def test_the_plots_have_every_image_once(page, output):
    assert output["images"] == 14 * VIEWS and output["rejects"] == 3
    assert page.locator("#variance svg").count() == 1
    assert page.locator(".scatter").count() == 2
    for plot in page.locator(".scatter").all():
        paths = plot.locator(".point").evaluate_all("all => all.map(p => p.dataset.path)")
        assert len(paths) == len(set(paths)) == output["images"]
        inside = plot.evaluate("""plot => {
            const frame = plot.querySelector("svg").getBoundingClientRect();
            return [...plot.querySelectorAll(".point")].every(point => {
                const at = point.getBoundingClientRect();
                return at.left >= frame.left && at.right <= frame.right && at.top >= frame.top && at.bottom <= frame.bottom; }); }""")
        assert inside
    bars = page.locator("#variance rect[fill='var(--accent)']").count()
    assert bars == output["components"]


def test_pointing_at_an_image_shows_it(page):
    card = page.locator("#card")
    assert not card.is_visible()
    point = page.locator(".scatter .point").nth(20)
    point.scroll_into_view_if_needed()
    # Scrolling hides the card; the event arrives a frame later.
    page.wait_for_timeout(200)
    at = point.bounding_box()
    x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    page.mouse.move(x, y)
    card.wait_for(state="visible")
    # Another point may cover it.
    seen = page.evaluate("([x, y]) => document.elementFromPoint(x, y).dataset.path", [x, y])
    assert seen and card.locator(".path").inner_text() == seen
    assert card.locator(".pic").evaluate("pic => getComputedStyle(pic).backgroundImage").startswith('url("data:image/jpeg')
    box = card.bounding_box()
    width = page.viewport_size["width"]
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    page.mouse.move(2, 2)
    card.wait_for(state="hidden")


def test_the_filter_hides_and_shows_labels(page, output):
    visible = lambda: page.locator(".scatter").first.locator(".point:not(.off)").count()  # noqa: E731
    assert visible() == output["images"]
    page.locator(".filter input").nth(3).uncheck()
    assert visible() == output["images"] - VIEWS
    page.get_by_role("button", name="none").click()
    assert visible() == 0
    page.locator(".filter input").nth(0).check()
    assert visible() == VIEWS
    page.get_by_role("button", name="all").click()
    assert visible() == output["images"]


def test_names_are_text_whatever_they_say(page):
    shown = page.locator("#labels th").all_inner_texts()
    for label in LABELS:
        # The page shows characters that change the direction of text as escapes.
        assert label.replace("\u202e", "\\u{202e}") in shown
    assert FILE in page.locator(".scatter").first.locator(".point").evaluate_all("all => all.map(p => p.dataset.path.split('/').pop())")
    for tag in ("img", "b", "main script", "iframe"):
        assert page.locator(tag).count() == 0, tag
    rejects = page.locator("#rejects tbody tr")
    assert rejects.count() == 3
    assert "broken <i>0<i>.jpg" in rejects.first.inner_text() and "not_an_image" in rejects.first.inner_text()


def test_nothing_is_cut_off(page):
    width = page.viewport_size["width"]
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    cut = page.evaluate("""() => [...document.querySelectorAll("h1,h2,p,li,td,th,label,legend,button,strong,small,bdi,summary")]
        .filter(e => e.getClientRects().length && !e.closest(".wide,.filter,details"))
        .filter(e => { const at = e.getBoundingClientRect();
                       return at.left < -1 || at.right > innerWidth + 1 || (e.clientWidth && e.scrollWidth > e.clientWidth + 1); })
        .map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 60)}`)""")
    assert not cut, cut
    # Text in the plots stays inside its plot at this width.
    outside = page.evaluate("""() => [...document.querySelectorAll(".plot svg")].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].filter(t => { const at = t.getBoundingClientRect();
            return at.left < frame.left - 1 || at.right > frame.right + 1 || at.top < frame.top - 1 || at.bottom > frame.bottom + 1; })
            .map(t => t.textContent.trim()); })""")
    assert not outside, outside


def test_dark_and_light_have_readable_letters(browser, output):
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(pathlib.Path(output["files"]["report"]).resolve().as_uri())
        ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        luminance = lambda colour: sum(int(n) * w for n, w in zip(colour[4:-1].split(","), (0.2126, 0.7152, 0.0722)))  # noqa: E731
        assert (luminance(ink) < luminance(paper)) == (scheme == "light")
        assert abs(luminance(ink) - luminance(paper)) > 150
        assert page.locator("#variance svg").evaluate("svg => getComputedStyle(svg).color") == ink
        page.close()


def test_the_receipt_beside_it_is_the_one_that_is_shown(page, output):
    receipt = json.loads((pathlib.Path(output["files"]["report"]).parent / "receipt.json").read_text())
    assert receipt["images"] == output["images"] and receipt["at"] == {"place": "own_machine"}
    assert receipt["dollars"]["total"] == pytest.approx(output["dollars_on_aws"])
    assert "EMR" in page.locator("#receipt").inner_text()
