"""report.html in a real browser: map, neighbours, lists, contrast, and protection against hostile names."""

import base64
import json
import os
import pathlib
import subprocess
import zlib

import pytest

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
    # The same bytes under two labels.
    (images / LABELS[2] / "copy.jpg").write_bytes(sorted((images / LABELS[3]).iterdir())[1].read_bytes())
    for i in range(3):
        (images / LABELS[1] / f"broken <i>{i}<i>.jpg").write_bytes(b"no image")
    done = subprocess.run([POMONA, "run", images, folder / "results", "--max-reject-percent", "50", "--json"],
                          check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def opened(browser, output, **options):
    """The page in a new context; collects everything that goes wrong."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.wrong = []
    # The tests read pixels often; the page does not.
    page.on("console", lambda message: None if "willReadFrequently" in message.text else page.wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: page.wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (page.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda sent: None if sent.url.startswith(("file:", "data:", "blob:")) else page.wrong.append(f"request: {sent.url}"))
    page.goto(pathlib.Path(output["files"]["newest_report"]).resolve().as_uri())
    page.wait_for_selector("body[data-ready]")
    return page


@pytest.fixture(params=[390, 1440])
def page(request, browser, output):
    """The page at the width of a phone, with a touch screen, and of a screen."""
    page = opened(browser, output, viewport={"width": request.param, "height": 900}, has_touch=request.param < 1000,
                  device_scale_factor=2 if request.param < 1000 else 1)
    yield page
    assert not page.wrong, page.wrong
    page.context.close()


class Data:
    """What the page embeds, decoded without its script."""

    def __init__(self, output):
        html = pathlib.Path(output["files"]["newest_report"]).read_text()
        element = lambda name: html.split(f'<script id="{name}"')[1].split(">", 1)[1].split("</script>")[0]  # noqa: E731
        about = json.loads(element("about"))
        planes, rows = zlib.decompress(base64.b64decode(element("points"))), about["rows"]
        self.texts = json.loads(zlib.decompress(base64.b64decode(element("texts"))))
        self.paths, self.columns, at = self.texts["paths"], [], 0
        for column in [*about["columns"], {"planes": about["label_planes"], "step": 1}]:
            numbers = [sum(planes[at + plane * rows + row] << 8 * plane for plane in range(column["planes"])) for row in range(rows)]
            self.columns.append([number * column["step"] for number in numbers])
            at += column["planes"] * rows
        self.labels = self.columns.pop()

    def nearest(self, path):
        row = self.paths.index(path)
        distance = lambda other: sum((c[other] - c[row]) ** 2 for c in self.columns) ** 0.5  # noqa: E731
        return sorted(((distance(other), self.paths[other]) for other in range(len(self.paths)) if other != row))[:6]


# A drawn point of a map in CSS pixels: the n-th opaque pixel of the canvas, counted from its end.
PIXEL = """(canvas, n) => {
    const [w, h] = [canvas.width, canvas.height], data = canvas.getContext("2d").getImageData(0, 0, w, h).data;
    for (let i = data.length - 4; i >= 0; i -= 4) {
        if (data[i + 3] > 190 && n-- === 0) {
            const box = canvas.getBoundingClientRect();
            return [box.left + (i / 4 % w + .5) * box.width / w, box.top + (Math.floor(i / 4 / w) + .5) * box.height / h,
                    data[i], data[i + 1], data[i + 2]];
        }
    }
    return null; }"""


def point_of(page, n=40):
    canvas = page.locator(".scatter canvas").first
    canvas.scroll_into_view_if_needed()
    # Scrolling hides the card; the event arrives a frame later.
    page.wait_for_timeout(200)
    return canvas.evaluate(PIXEL, n)


def selected(page):
    return page.locator("#selected .head .path").inner_text()


def raw(shown):
    """The name behind what the page shows of it."""
    return shown.replace("\\u{202e}", "\u202e")


def test_the_maps_have_every_image_once(page, output):
    assert output["images"] == 14 * VIEWS + 1 and output["rejects"] == 3
    assert page.locator("#variance svg").count() == 1 and page.locator(".scatter canvas").count() == 2
    data = Data(output)
    assert len(set(data.paths)) == len(data.paths) == output["images"]
    assert f"All {output['images']} images are drawn" in page.locator("#map").inner_text()
    bars = page.locator("#variance rect[fill='var(--accent)']").count()
    assert bars == output["components"]
    # The canvas lies on the axes.
    for plot in page.locator(".scatter").all():
        svg, canvas = plot.locator("svg").bounding_box(), plot.locator("canvas").bounding_box()
        assert all(abs(svg[side] - canvas[side]) < 1 for side in svg), (svg, canvas)


def test_findings_come_first_and_the_receipt_last(page):
    sections = page.locator("main > section").evaluate_all("all => all.map(s => s.id)")
    assert sections == ["duplicates", "suspects", "outliers", "rejects", "classifier", "map", "variance", "labels", "timeline",
                        "receipt", "run"]
    # The name of the folder of the images.
    assert page.locator("h1").inner_text().endswith("/images") and page.title().startswith(page.locator("h1").inner_text())
    group = page.locator("#duplicates .group").first
    assert "2 images, same bytes" in group.inner_text() and "different labels" in group.inner_text()
    assert group.locator(".pic").first.bounding_box()["width"] >= 128


def test_a_click_or_a_tap_shows_the_nearest_neighbours(page, output):
    data = Data(output)
    panel = page.locator("#selected")
    assert not panel.is_visible()
    x, y, *colour = point_of(page)
    if page.viewport_size["width"] < 1000:
        page.touchscreen.tap(x, y)
    else:
        page.mouse.click(x, y)
    panel.wait_for(state="visible")
    path = raw(selected(page))
    row = data.paths.index(path)
    legend = data.texts["colours"][data.labels[row] % len(data.texts["colours"])]
    wanted = [int(n) for n in legend[4:-1].split(",")]
    assert all(abs(a - b) < 40 for a, b in zip(colour, wanted)), (colour, legend)
    items = panel.locator("ol").first.locator("button")
    shown = [(raw(item.get_attribute("title")), float(item.locator("small").inner_text().split()[-1])) for item in items.all()]
    nearest = data.nearest(path)
    assert [name for name, _ in shown] == [name for _, name in nearest]
    assert [distance for _, distance in shown] == pytest.approx([distance for distance, _ in nearest], abs=0.01)
    assert panel.locator(".pic").first.evaluate("pic => getComputedStyle(pic).backgroundImage").startswith('url("data:image/jpeg')
    # A neighbour is the next selection.
    items.nth(2).click()
    assert raw(selected(page)) == nearest[2][1]


def test_the_keyboard_reaches_images_neighbours_and_lists(page, output):
    canvas = page.locator(".scatter canvas").first
    canvas.focus()
    page.keyboard.press("ArrowRight")
    seen = [selected(page)]
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        seen.append(selected(page))
    assert len(set(seen)) >= 3, seen
    nearest = raw(page.locator("#selected ol button").first.get_attribute("title"))
    page.locator("#selected ol button").first.focus()
    page.keyboard.press("Enter")
    assert raw(selected(page)) == nearest and page.evaluate("document.activeElement.id") == "selected"
    canvas.focus()
    page.keyboard.press("Escape")
    assert not page.locator("#selected").is_visible()
    search = page.get_by_label("Find by path")
    search.fill("copy.jpg")
    search.press("Enter")
    assert selected(page).endswith("/copy.jpg") and page.locator("#find [role=status]").inner_text() == "image 1 of 1"
    search.fill("nothing like that")
    search.press("Enter")
    assert page.locator("#find [role=status]").inner_text() == "no image"
    # Everything that reacts to a click is reached by Tab.
    hidden = page.locator("button, canvas, input").evaluate_all("all => all.filter(e => e.tabIndex < 0).length")
    assert hidden == 0


def test_pointing_at_an_image_shows_it(page):
    if page.viewport_size["width"] < 1000:
        return
    card = page.locator("#card")
    assert not card.is_visible()
    x, y, *_ = point_of(page)
    page.mouse.move(x, y)
    card.wait_for(state="visible")
    assert card.locator(".path").inner_text() and card.locator(".pic").count() == 1
    box = card.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]
    page.mouse.move(2, 2)
    card.wait_for(state="hidden")


def test_the_filter_hides_and_shows_labels(page):
    drawn = lambda: page.locator(".scatter canvas").first.evaluate(  # noqa: E731
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v).length")
    all_points = drawn()
    page.locator(".filter input").nth(3).uncheck()
    assert 0 < drawn() < all_points
    page.get_by_role("button", name="none").click()
    assert drawn() == 0
    page.locator(".scatter canvas").first.press("ArrowRight")
    assert not page.locator("#selected").is_visible()
    page.locator(".filter input").nth(0).check()
    page.locator(".scatter canvas").first.press("ArrowRight")
    assert page.locator("#selected .head .label").inner_text() == page.locator("#labels th").first.inner_text()
    page.get_by_role("button", name="all", exact=True).click()
    page.locator(".scatter canvas").first.press("Escape")
    assert drawn() == all_points


@pytest.mark.parametrize("name", ["duplicates", "outliers", "rejects", "suspects"])
def test_a_list_is_saved_as_csv(page, output, name, tmp_path):
    button = page.locator(f"button[data-list={name}]")
    if not button.count():
        assert "None" in page.locator(f"#{name}").inner_text()
        return
    with page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename == f"{name}-v{output['version']}.csv"
    download.value.save_as(tmp_path / "list.csv")
    saved = (tmp_path / "list.csv").read_bytes()
    assert "The page has all" in page.locator(f"#{name}").inner_text()
    if name == "suspects":
        found = json.loads(subprocess.run([POMONA, "list", "suspects", output["output"], "--json"], check=True, capture_output=True).stdout)
        assert saved.count(b"\n") == len(found) + 1
    else:
        listed = subprocess.run([POMONA, "list", name, output["output"], "--csv"], check=True, capture_output=True)
        assert saved == listed.stdout and saved.count(b"\n") > 1


def test_names_are_text_whatever_they_say(page):
    shown = page.locator("#labels th").all_inner_texts()
    for label in LABELS:
        # The page shows characters that change the direction of text as escapes.
        assert label.replace("\u202e", "\\u{202e}") in shown
    page.get_by_label("Find by path").fill("onmouseover")
    page.get_by_label("Find by path").press("Enter")
    assert selected(page) == f"{LABELS[0]}/{FILE}" and page.locator("#selected .head .label").inner_text() == LABELS[0]
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


# Contrast (WCAG 2.2) of every text with what is behind it; below 4.5 it is returned.
CONTRAST = """() => {
    const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
    const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
    const behind = e => {
        if (!e) return [255, 255, 255];
        const own = parse(getComputedStyle(e).backgroundColor);
        return own[3] === 1 ? own.slice(0, 3) : over(own, behind(e.parentElement)); };
    const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                         return .2126 * r + .7152 * g + .0722 * b; };
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort(); return (y + .05) / (x + .05); };
    const bad = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let count = 0;
    while (walk.nextNode()) {
        const text = walk.currentNode, e = text.parentElement;
        if (!text.textContent.trim() || !e.checkVisibility() || ["SCRIPT", "STYLE", "TITLE", "title", "NOSCRIPT"].includes(e.tagName)) continue;
        const svg = e.closest("svg"), style = getComputedStyle(e);
        let below = behind(svg ? svg.parentElement : e);
        const cell = e.matches(".cell") && e.previousElementSibling;
        if (cell) below = over([...parse(getComputedStyle(cell).fill).slice(0, 3), +getComputedStyle(cell).fillOpacity], below);
        const ink = parse(svg ? style.fill : style.color);
        count++;
        const found = ratio(over(ink, below), below);
        if (found < 4.5) bad.push(`${found.toFixed(2)} ${e.tagName}.${e.getAttribute("class")} ${text.textContent.trim().slice(0, 40)}`);
    }
    return [count, bad]; }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(browser, output, scheme):
    page = opened(browser, output, color_scheme=scheme, viewport={"width": 1440, "height": 900})
    page.locator(".scatter canvas").first.press("ArrowRight")
    page.locator("summary").first.click()
    count, bad = page.evaluate(CONTRAST)
    assert count > 200 and not bad, bad
    ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    luminance = lambda colour: sum(int(n) * w for n, w in zip(colour[4:-1].split(","), (0.2126, 0.7152, 0.0722)))  # noqa: E731
    assert (luminance(ink) < luminance(paper)) == (scheme == "light")
    assert page.locator("#variance svg").evaluate("svg => getComputedStyle(svg).color") == ink
    assert not page.wrong, page.wrong
    page.context.close()


def test_without_javascript_the_findings_remain(browser, output):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pathlib.Path(output["files"]["report"]).resolve().as_uri())
    assert page.locator("#rejects tbody tr").count() == 3 and page.locator("#duplicates .pic").count() >= 2
    assert not page.locator("#rejects button").is_visible() and "need JavaScript" in page.locator("#map").inner_text()
    context.close()


def test_the_receipt_beside_it_is_the_one_that_is_shown(page, output):
    receipt = json.loads((pathlib.Path(output["files"]["report"]).parent / "receipt.json").read_text())
    assert receipt["images"] == output["images"] and receipt["at"] == {"place": "own_machine"}
    assert receipt["dollars"]["total"] == pytest.approx(output["dollars_on_aws"])
    assert "EMR" in page.locator("#receipt").inner_text()
