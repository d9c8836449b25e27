"""The page of `pomona serve` in a real browser: map, photos, search, review, downloads, accessibility, hostile names."""

import contextlib
import csv
import io
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import time
import zlib

import axe_playwright_python
import pytest

ROOT = pathlib.Path(__file__).parents[2]
POMONA = os.environ.get("POMONA", str(ROOT / "target/release/pomona"))
AXE = pathlib.Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
# Folder and file names that would run a script, break out of an attribute, or be a formula.
LABELS = ["<img src=x onerror=alert(1)>", "\"quoted\" 'label' & <b>bold<b>", "=HYPERLINK(\"http:evil.example\")"]
FILE = "a\"onmouseover=alert(3) '<svg onload=alert(4)> ملف.jpg"
VIEWS = 6
MANY = 100_000


@contextlib.contextmanager
def serving(output, *options):
    """Runs `pomona serve` and gives the address of the page. It must end cleanly at Ctrl-C."""
    server = subprocess.Popen([POMONA, "serve", output, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address, line + server.stderr.read()
        yield address[0]
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=10) == 0, server.stderr.read()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A run on fruit pictures, some with hostile names, on copies and on files that are not images."""
    folder = tmp_path_factory.mktemp("serve")
    subprocess.run([POMONA, "demo", folder, "--images-only", "--views", str(VIEWS)], check=True, capture_output=True)
    images = folder / "images"
    kinds = sorted(images.iterdir())
    for label, source in zip(LABELS, kinds):
        source.rename(images / label)
    first = sorted((images / LABELS[0]).iterdir())[0]
    first.rename(first.parent / FILE)
    shutil.copy(first.parent / FILE, kinds[5] / "copy.jpg")
    for i in range(3):
        (images / LABELS[1] / f"broken <i>{i}<i>.jpg").write_bytes(b"no image")
    subprocess.run([POMONA, "run", images, folder / "results", "--max-reject-percent", "50"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def address(folder):
    with serving(folder / "results") as address:
        yield address


def until(page, condition, argument=None, seconds=20):
    """Waits for a condition. The page's policy forbids what `wait_for_function` does."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition, argument):
        assert time.monotonic() < end, condition
        time.sleep(0.05)


@contextlib.contextmanager
def opened(browser, address, width=1440, scheme="light", allowed=()):
    """A page that collects everything that goes wrong: messages, dialogs, and requests that leave this server."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width < 500, accept_downloads=True)
    page = context.new_page()
    wrong = []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda sent: None if sent.url.startswith((address, f"blob:{address}")) else wrong.append(f"request: {sent.url}"))
    page.goto(address)
    until(page, "document.documentElement.dataset.version && document.querySelector('#tab-review').textContent.includes('(')")
    yield page
    wrong = [message for message in wrong if not any(text in message for text in allowed)]
    assert not wrong, wrong
    context.close()


@pytest.fixture(params=[(1440, "light"), (390, "dark")])
def page(request, browser, address):
    with opened(browser, address, *request.param) as page:
        yield page


def violations(page):
    """What axe finds by the rules of WCAG 2.2 AA."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})")
    return [(v["id"], v["help"], [node["html"][:200] for node in v["nodes"]][:3]) for v in found["violations"]]


def choose(page, name):
    page.click(f"#tab-{name}")
    page.wait_for_selector(f"#panel-{name} :is(.tile, .list, p)")


def close(page):
    page.keyboard.press("Escape")
    page.wait_for_selector("#details", state="hidden")


def test_axe_finds_nothing_in_any_list_or_dialog(page):
    assert violations(page) == []
    for name in ["images", "suspects", "duplicates", "outliers", "rejects", "review"]:
        choose(page, name)
        assert (name, violations(page)) == (name, [])
    choose(page, "images")
    page.click("#panel-images .tile >> nth=0")
    page.wait_for_selector("#near .tile")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_map_has_every_image_and_answers_to_mouse_wheel_and_keys(page):
    assert page.evaluate("window.pomona.data.images") == page.evaluate("window.pomona.map.x.length") > 80
    labels = page.evaluate("window.pomona.data.labels")
    assert set(LABELS) <= set(labels)
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    scale = page.evaluate("window.pomona.map.view.scale")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -400)
    until(page, "scale => window.pomona.map.view.scale > 1.5 * scale", scale)
    page.click("#fit")
    assert page.evaluate("window.pomona.map.view.scale") == pytest.approx(scale)
    page.focus("#map")
    for key in ["+", "+", "ArrowRight", "ArrowDown", "-"]:
        page.keyboard.press(key)
    assert page.evaluate("window.pomona.map.view.scale") == pytest.approx(scale * 1.4)
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#near .tile")
    assert page.inner_text("#path") in page.evaluate("fetch('/api/images?limit=1000').then(r => r.json()).then(a => a.rows.map(r => r.path))")
    close(page)
    # A click on a point opens it.
    point = page.evaluate("""() => { const { map } = window.pomona; map.zoom(30); map.show(17);
        const [x, y] = map.place(map.x[17], map.y[17]); return [x / map.ratio, y / map.ratio]; }""")
    page.mouse.click(box["x"] + 1 + point[0], box["y"] + 1 + point[1])
    page.wait_for_selector("#near .tile")
    row = page.evaluate("path => fetch('/api/details?path=' + encodeURIComponent(path)).then(r => r.json()).then(a => a.image.row)", page.inner_text("#path"))
    distance = page.evaluate("row => { const m = window.pomona.map; return Math.hypot(m.x[row] - m.x[17], m.y[row] - m.y[17]) * m.view.scale; }", row)
    assert distance < 15
    close(page)


def test_a_dropped_photo_is_predicted_and_its_neighbours_are_shown(page, folder):
    photo = sorted((folder / "images").rglob("*.jpg"))[40]
    page.set_input_files("#file", photo)
    page.wait_for_selector("#alike .tile")
    assert page.inner_text("#answer .big") == photo.parent.name
    shares = [float(text.split()[0]) for text in page.locator("#answer .share").all_inner_texts()]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True)
    assert page.locator("#alike .tile").count() == 12
    assert page.locator("#alike .tile strong").first.inner_text() == str(photo.relative_to(folder / "images"))
    assert page.evaluate("window.pomona.map.mark.length") == 2
    # The same by drag and drop; axe sees the answer too.
    drop = """bytes => { const data = new DataTransfer(); data.items.add(new File([new Uint8Array(bytes)], 'x.jpg', { type: 'image/jpeg' }));
        for (const kind of ['dragenter', 'dragover', 'drop']) document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })); }"""
    other = sorted((folder / "images").rglob("*.jpg"))[60]
    page.evaluate(drop, list(other.read_bytes()))
    until(page, "label => document.querySelector('#answer .big')?.textContent === label", other.parent.name)
    assert page.is_hidden("#dropping")
    assert violations(page) == []


def bomb():
    """A PNG of 60,000 x 60,000 pixels in few bytes."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def test_wrong_photos_are_named_and_the_server_lives(browser, address, folder):
    files = [("bomb.png", bomb(), "too_large"), ("big.jpg", b"\xff" * (50 << 20), "too large"), ("text.txt", b"a text", "content-type"),
             ("text.jpg", b"a text", "not_an_image")]
    with opened(browser, address, allowed=["status of 413", "status of 415", "status of 422"]) as page:
        for name, body, says in files:
            (folder / name).write_bytes(body)
            page.set_input_files("#file", folder / name)
            until(page, "says => document.querySelector('#answer .problem')?.textContent.includes(says)", says)
        page.set_input_files("#file", sorted((folder / "images").rglob("*.jpg"))[0])
        page.wait_for_selector("#answer .big")


def test_search_finds_by_path_and_label(page):
    page.fill("#text", "onmouseover")
    page.click("#search button")
    until(page, "document.querySelector('#panel-images [role=status]')?.textContent === '1 image'")
    assert page.locator("#panel-images strong").inner_text() == f"{LABELS[0]}/{FILE}"
    page.fill("#text", "")
    page.select_option("#label", LABELS[1])
    until(page, f"document.querySelector('#panel-images [role=status]')?.textContent === '{VIEWS} images'")
    assert page.locator("#legend button[aria-pressed=true]").inner_text() == f"{LABELS[1]} ({VIEWS})"


def downloaded(page, selector):
    with page.expect_download() as download:
        page.click(selector)
    return list(csv.reader(io.StringIO(pathlib.Path(download.value.path()).read_text(), newline="")))


def test_findings_are_shown_and_downloaded_without_formulas(page):
    choose(page, "rejects")
    rows = downloaded(page, "#panel-rejects a")
    assert rows[0] == ["path", "reason", "detail"] and len(rows) == 4
    choose(page, "duplicates")
    page.select_option("#across", "labels")
    until(page, "document.querySelector('#panel-duplicates [role=status]').textContent === '1 group'")
    assert "different labels" in page.inner_text("#panel-duplicates .group")
    assert page.locator("#panel-duplicates .tile").count() == 2
    for name in ["duplicates", "suspects", "outliers"]:
        choose(page, name)
        rows = downloaded(page, f"#panel-{name} a[download]")
        assert all(len(row) == len(rows[0]) for row in rows)
        assert not [cell for row in rows for cell in row if cell[:1] in "=+-@" and cell]


def test_a_label_is_corrected_accepted_undone_and_downloaded(browser, address, folder):
    file = folder / "results/labels.csv"
    assert not file.exists()
    with opened(browser, address, allowed=["status of 400"]) as page:
        page.fill("#text", "onmouseover")
        page.click("#search button")
        page.click("#panel-images .tile")
        page.fill("#new-label", "=1+1")
        page.click("#review button[type=submit]")
        until(page, "document.querySelector('#said').textContent.includes('formula')")
        assert not file.exists()
        page.fill("#new-label", "A new <b>label, \"quoted\"")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#said').textContent.startsWith('Saved')")
        page.click("#close")
        page.fill("#text", "copy.jpg")
        page.click("#search button")
        until(page, "document.querySelector('#panel-images strong')?.textContent.endsWith('copy.jpg')")
        page.click("#panel-images .tile")
        page.wait_for_selector("#details[open]")
        label = page.locator("#facts dd").first.inner_text()
        page.click("#accept")
        until(page, "document.querySelector('#said').textContent.startsWith('Saved')")
        page.click("#close")
        choose(page, "review")
        assert page.locator("#panel-review li").count() == 2
        assert "--labels" in page.inner_text("#panel-review code")
        expected = [["path", "label"], [f"{LABELS[0]}/{FILE}", "A new <b>label, \"quoted\""], [f"{label}/copy.jpg", label]]
        assert downloaded(page, "#panel-review a[download]") == expected
        assert list(csv.reader(file.open(newline=""))) == expected
        page.click("#panel-review li:has-text('copy.jpg') button")
        page.click("#undo")
        until(page, "document.querySelector('#said').textContent.includes('undone')")
    # The next run uses what is left, and the page shows its version by itself.
    with opened(browser, address) as page:
        subprocess.run([POMONA, "run", folder / "images", folder / "results", "--labels", file, "--max-reject-percent", "50"],
                       check=True, capture_output=True)
        until(page, "document.documentElement.dataset.version === '2'")
        assert "A new <b>label, \"quoted\"" in page.evaluate("window.pomona.data.labels")


def test_everything_is_reached_by_keyboard(browser, address):
    with opened(browser, address) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "tab-photo"
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "tab-images"
        page.wait_for_selector("#panel-images .tile")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "tile"
        page.keyboard.press("Enter")
        page.wait_for_selector("#details[open]")
        close(page)
        assert page.evaluate("document.activeElement.className") == "tile"


def test_a_used_port_is_an_error_and_other_hosts_are_refused(address, folder):
    port = re.search(r":(\d+)/", address)[1]
    taken = subprocess.run([POMONA, "serve", folder / "results", "--port", port], capture_output=True, text=True)
    assert taken.returncode == 2 and f"another program uses this port; choose another one, or none for a free one (port: {port})" in taken.stderr
    ask = ["curl", "-s", "--max-time", "10", f"http://127.0.0.1:{port}/api"]
    assert json.loads(subprocess.run([*ask, "-H", "Host: evil.example"], capture_output=True, check=True).stdout)["error"] == "Input.Invalid"
    assert "version" in json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)


def picture(seed):
    """A PNG of 8 x 8 pixels; seeds that are near each other give similar pixels."""
    group, own = divmod(seed, 1000)
    pixels = bytes((37 * group * (x + 3) + 11 * y + own * (x % 3)) % 256 for y in range(8) for x in range(24))
    rows = b"".join(b"\0" + pixels[24 * y:24 * y + 24] for y in range(8))
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """100,000 small pictures with 100 labels, and a run with a small model."""
    folder = tmp_path_factory.mktemp("many")
    for group in range(MANY // 1000):
        (folder / f"images/label {group:03}").mkdir(parents=True)
        for own in range(1000):
            (folder / f"images/label {group:03}/{own:04}.png").write_bytes(picture(1000 * group + own))
    subprocess.run([POMONA, "run", folder / "images", folder / "results", "--model", ROOT / "tests/models/tiny.onnx"],
                   check=True, capture_output=True)
    return folder


def test_a_hundred_thousand_points_are_drawn_and_moved(browser, many):
    with serving(many / "results", "--model", ROOT / "tests/models/tiny.onnx") as address:
        began = time.monotonic()
        with opened(browser, address) as page:
            ready = time.monotonic() - began
            points = page.evaluate("performance.getEntriesByName('points')[0].startTime")
            assert page.evaluate("window.pomona.map.x.length") == MANY
            drawn = page.evaluate("""async () => { const { map } = window.pomona; const began = performance.now(); const first = map.frames;
                while (performance.now() - began < 2000) { map.zoom(1.01); map.pan(2, 1); await new Promise(requestAnimationFrame); }
                return (map.frames - first) / (performance.now() - began) * 1000; }""")
            paint = page.evaluate("() => { const { map } = window.pomona; const began = performance.now(); for (let i = 0; i < 50; i++) map.paint(); return (performance.now() - began) / 50; }")
            print(f"\n{MANY:,} points: on the map after {points / 1000:.2f} s, page ready after {ready:.2f} s, {drawn:.0f} frames a second, {paint:.1f} ms each")
            assert drawn > 10 and paint < 200
            page.fill("#text", "label 042/0007")
            page.click("#search button")
            until(page, "document.querySelector('#panel-images [role=status]')?.textContent === '1 image'")
