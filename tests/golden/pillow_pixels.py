"""Regenerates tests/golden/pillow: Pillow's pixels of small images in many formats.

    make golden        (pinned packages in a virtual environment; see the Makefile)
    tests/golden/pillow_pixels.py FOLDER --mutated N

`formats/` has the source files and, for each, the pixels of `Image.open(f).convert("RGB")` as a PNG.
`jpegs/` has JPEGs over a grid of size, quality, sampling and progressive, and `jpegs.json` the SHA-256 sums of their pixels:
`Image.open(f).convert("RGB")`, and the same after `draft("RGB", ...)`, which decodes at a fraction of the size. The files
`jpegs/cjpeg-*` have a sampling that Pillow cannot write (4:1:1 and 4:4:0). They were made by cjpeg 2.1 of Debian's package
libjpeg-turbo-progs: `cjpeg -quality 90 -sample 4x1` and `-sample 1x2`, with and without `-progressive`, with `-restart 2B`.
`broken/` has damaged JPEGs, and `broken.json` the sums of their pixels, or null where Pillow refuses the file. `--mutated` writes
only such files, N of them, each with random damage; `POMONA_BROKEN=FOLDER cargo test --release --workspace --test all parity::damaged`
compares Pomona with them.
`resize.json` has SHA-256 sums of `Image.resize((w, h))` for images that a formula defines; the Rust test uses the same
formula. The sums are equal only if every pixel is equal.
"""

import hashlib
import io
import itertools
import json
import pathlib
import sys

import numpy as np
import PIL
from PIL import Image, ImageFile

# Pillow's buffer for writing is too small for some tiny pictures.
ImageFile.MAXBLOCK = 1 << 20
# Twice the size that `draft` reduces to.
DRAFT = (32, 24)
# Of `--mutated 3000`: files without an end marker whose pixels are complete, and files with a marker among their data that
# has no segment. Looking for an end marker behind the segments refused them.
KEPT = [472, 528, 627, 849, 1088, 1153, 1940, 2085, 2519, 2821, 2849, 2952, 2960]


def formula(width, height):
    """Noise with long runs of black and white, which make overshoot visible."""
    i = np.arange(width * height * 3, dtype=np.uint64)
    state = (i * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)) >> np.uint64(33)
    noise = (state & np.uint64(0xFF)).astype(np.uint8)
    noise[(i // np.uint64(97)) % np.uint64(3) == 0] = 0
    noise[(i // np.uint64(97)) % np.uint64(3) == 1] = 255
    return Image.fromarray(noise.reshape(height, width, 3))


def resized():
    sizes = [(1, 1), (2, 3), (17, 1), (100, 100), (224, 224), (97, 61), (224, 50), (50, 224), (300, 180), (640, 480),
             (1280, 20), (5, 400), (999, 1001), (3000, 2), (225, 223)]
    rows = []
    for width, height in sizes:
        for to in [(224, 224), (37, 53), (1, 1)]:
            pixels = formula(width, height).resize(to).tobytes()
            rows.append({"from": [width, height], "to": list(to), "sha256": hashlib.sha256(pixels).hexdigest()})
    return rows


def formats(folder):
    y, x = np.mgrid[0:30, 0:41]
    rgb = np.stack([x * 6, y * 8, (x * y) % 256], -1).astype(np.uint8)
    color = Image.fromarray(rgb)
    grey = Image.fromarray(((x * 5 + y * 2) % 256).astype(np.uint8))
    alpha = Image.fromarray(((x * 6) % 256).astype(np.uint8))
    rgba = color.copy()
    rgba.putalpha(alpha)
    grey_alpha = grey.copy()
    grey_alpha.putalpha(alpha)
    palette = color.quantize(64)
    cmyk = color.convert("CMYK")
    # Smooth content for the lossy formats, so that the test compares rounding, not chroma subsampling.
    smooth = Image.fromarray(np.stack([x * 5, y * 7, x + y * 3], -1).astype(np.uint8))
    save = lambda image, name, **options: image.save(folder / name, **options)  # noqa: E731
    save(color, "rgb.png")
    save(grey, "grey.png")
    save(rgba, "rgba.png")
    save(grey_alpha, "grey-alpha.png")
    save(palette, "palette.png")
    save(palette, "palette-transparent.png", transparency=3)
    save(grey.convert("1"), "one-bit.png")
    save(color, "rgb.bmp")
    save(grey, "grey.bmp")
    save(palette, "palette.gif")
    save(palette, "animated.gif", save_all=True, append_images=[palette.rotate(180), palette.rotate(90)])
    save(color, "lossless.webp", lossless=True)
    save(rgba, "lossless-alpha.webp", lossless=True, exact=True)
    save(smooth, "lossy.webp", quality=90)
    save(color, "rgb.tiff")
    save(color, "lzw.tiff", compression="tiff_lzw")
    save(color, "deflate.tiff", compression="tiff_adobe_deflate")
    save(grey, "grey.tiff")
    save(rgba, "rgba.tiff")
    save(cmyk, "cmyk.tiff")
    save(smooth, "444.jpg", quality=92, subsampling=0)
    save(smooth, "420.jpg", quality=92, subsampling=2)
    save(smooth, "progressive.jpg", quality=92, progressive=True)
    save(grey, "grey.jpg", quality=92)
    save(smooth.convert("CMYK"), "cmyk.jpg", quality=92)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotated by 90 degrees; convert() ignores it
    save(smooth, "turned.jpg", quality=92, exif=exif)
    for source in sorted(folder.glob("*")):
        if not source.name.endswith(".expected.png"):
            Image.open(source).convert("RGB").save(folder / f"{source.name}.expected.png")


def sha256(image):
    return hashlib.sha256(image.tobytes()).hexdigest()


def jpegs(folder):
    """Writes the files that Pillow can write. Returns the pixels of all files in the folder."""
    random = np.random.default_rng(13)
    grid = itertools.product([(1, 1), (7, 5), (17, 33), (100, 100), (131, 67)], [40, 100], range(5), [False, True])
    for (width, height), quality, sampling, progressive in grid:
        y, x = np.mgrid[0:height, 0:width]
        smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 127 / (width + height)], -1)
        edges = np.kron(random.integers(0, 2, (height // 9 + 1, width // 9 + 1, 3)), np.ones((9, 9, 1)))[:height, :width]
        image = Image.fromarray(np.clip(smooth + edges * 80 + random.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))
        kind = ["444", "422", "420", "grey", "cmyk"][sampling]
        options = {"subsampling": sampling} if sampling < 3 else {}
        image = {"grey": image.convert("L"), "cmyk": image.convert("CMYK")}.get(kind, image)
        form = "progressive" if progressive else "baseline"
        name = f"{width}x{height}-{quality}-{kind}-{form}.jpg"
        restart = {"restart_marker_blocks": 3} if width == 131 else {}
        image.save(folder / name, quality=quality, progressive=progressive, **options, **restart)
    pixels = {}
    for file in sorted(folder.glob("*.jpg")):
        full, draft = Image.open(file).convert("RGB"), Image.open(file)
        draft.draft("RGB", DRAFT)
        draft = draft.convert("RGB")
        pixels[file.name] = {"size": full.size, "sha256": sha256(full), "draft": draft.size, "draft_sha256": sha256(draft)}
    return pixels


def segments(jpeg):
    """Start of each segment of the header, by marker, and of the entropy-coded data."""
    at, found = 2, {}
    while True:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found.setdefault(marker, at)
        at += 2 + length
        if marker == 0xDA:
            return found, at


def damaged(jpeg):
    """Damaged copies of a JPEG, by the kind of damage."""
    marks, data = segments(jpeg)
    quantizers, frame, huffman, scan = marks[0xDB], marks.get(0xC0, marks.get(0xC2)), marks[0xC4], marks[0xDA]
    put = lambda at, *new: jpeg[:at] + bytes(new) + jpeg[at + len(new) :]  # noqa: E731
    drop = lambda at: jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]  # noqa: E731
    end = len(jpeg) - 2
    return {
        "cut-after-2": jpeg[:2], "cut-in-app0": jpeg[:12], "cut-in-tables": jpeg[: quantizers + 20],
        "cut-before-frame": jpeg[:frame], "cut-in-frame": jpeg[: frame + 7], "cut-before-scan": jpeg[:scan],
        "cut-after-scan-header": jpeg[:data], "cut-in-data": jpeg[: (data + end) // 2], "cut-last-byte": jpeg[:-1],
        "no-end": jpeg[:-2], "end-in-data": jpeg[: (data + end) // 2] + b"\xff\xd9", "end-after-header": jpeg[:data] + b"\xff\xd9",
        "no-quantizers": drop(quantizers), "no-huffman": drop(huffman), "no-frame": drop(frame), "no-app0": drop(marks[0xE0]),
        "zero-width": put(frame + 7, 0, 0), "zero-height": put(frame + 5, 0, 0), "no-components": put(frame + 9, 0),
        "two-components": put(frame + 9, 2), "ten-components": put(frame + 9, 10), "wider": put(frame + 7, 0, 200),
        "taller": put(frame + 5, 0, 200), "narrower": put(frame + 7, 0, 20), "sampling-0": put(frame + 11, 0),
        "sampling-5": put(frame + 11, 0x55), "sampling-3": put(frame + 11, 0x31), "quantizer-3": put(frame + 12, 3),
        "quantizer-9": put(frame + 12, 9), "zero-quantizer": put(quantizers + 5, *[0] * 64),
        "huffman-too-many": put(huffman + 5, *[255] * 16), "huffman-none": put(huffman + 5, *[0] * 16),
        "scan-other-component": put(scan + 5, 77), "scan-huffman-3": put(scan + 6, 0x33), "scan-components-0": put(scan + 4, 0),
        "spectrum": put(scan + 4 + 2 * jpeg[scan + 4] + 1, 63, 0), "ones-in-data": put((data + end) // 2, *[0xFE] * 9),
        "zeros-in-data": put((data + end) // 2, *[0] * 9), "marker-in-data": put((data + end) // 2, 0xFF, 0xC4, 0, 2),
        "restart-in-data": put((data + end) // 2, 0xFF, 0xD3), "junk-before-end": jpeg[:end] + b"junk" + jpeg[end:],
        "junk-after-end": jpeg + b"junk" * 9, "two-images": jpeg + jpeg, "fill-bytes": jpeg[:frame] + b"\xff\xff\xff" + jpeg[frame:],
        "junk-between-segments": jpeg[:frame] + b"ab" + jpeg[frame:], "segment-too-short": put(huffman + 2, 0, 3),
        "segment-too-long": put(huffman + 2, 0xFF, 0xF0), "start-twice": jpeg[:2] + jpeg,
    }


def mutated(number):
    """The files of `jpegs/` with random damage: bytes changed, removed and repeated, markers inserted, the end cut off."""
    random = np.random.default_rng([13, number])
    folder = pathlib.Path(__file__).parent / "pillow/jpegs"
    sources = sorted(path for path in folder.glob("*.jpg") if path.stat().st_size < 20_000)
    jpeg = bytearray(sources[random.integers(len(sources))].read_bytes())
    data = segments(jpeg)[1]
    for _ in range(random.integers(1, 4)):
        # Half of the damage is in the entropy-coded data, where the size of a file would hide it from the header.
        at = int(random.integers(data, max(len(jpeg), data + 1)) if random.random() < 0.5 else random.integers(2, len(jpeg)))
        match random.integers(6):
            case 0:
                jpeg[at : at + 1] = random.bytes(1)
            case 1:
                jpeg[at : at + 2] = bytes([0xFF, random.integers(256)])
            case 2:
                jpeg[at:at] = bytes([0xFF, random.integers(0xC0, 0xFF)]) + random.bytes(random.integers(3))
            case 3:
                del jpeg[at : at + int(random.integers(1, 40))]
            case 4:
                jpeg[at:at] = jpeg[at : at + int(random.integers(1, 40))]
            case 5 if random.random() < 0.3:
                del jpeg[-int(random.integers(1, 12)) :]
        if len(jpeg) < 4:
            break
    return bytes(jpeg)


def pillow(jpeg):
    """Pillow's pixels, or None for a file that Pillow refuses."""
    try:
        found = Image.open(io.BytesIO(jpeg)).convert("RGB")
        return {"size": found.size, "sha256": sha256(found)}
    except (OSError, SyntaxError, ValueError):
        return None


def write_mutated(folder, numbers):
    pixels = {}
    for number in numbers:
        name = f"mutated-{number}.jpg"
        (folder / name).write_bytes(mutated(number))
        pixels[name] = pillow(mutated(number))
    return pixels


def broken(folder):
    """Writes damaged JPEGs. Returns Pillow's pixels, or null for a file that Pillow refuses."""
    y, x = np.mgrid[0:43, 0:61]
    image = Image.fromarray(np.stack([x * 4, y * 5, (x * y) % 256], -1).astype(np.uint8))
    pixels = {}
    for progressive in [False, True]:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80, progressive=progressive)
        for kind, jpeg in damaged(file.getvalue()).items():
            name = f"{kind}-{'progressive' if progressive else 'baseline'}.jpg"
            (folder / name).write_bytes(jpeg)
            pixels[name] = pillow(jpeg)
    return pixels | write_mutated(folder, KEPT)


def main():
    out = pathlib.Path(sys.argv[1])
    if sys.argv[2:3] == ["--mutated"]:
        (out / "broken").mkdir(parents=True, exist_ok=True)
        files = write_mutated(out / "broken", range(int(sys.argv[3])))
        (out / "broken.json").write_text(json.dumps({"pillow": PIL.__version__, "files": files}) + "\n")
        return
    (out / "formats").mkdir(parents=True, exist_ok=True)
    formats(out / "formats")
    (out / "jpegs").mkdir(exist_ok=True)
    sums = {"pillow": PIL.__version__, "draft": DRAFT, "files": jpegs(out / "jpegs")}
    (out / "broken").mkdir(exist_ok=True)
    (out / "broken.json").write_text(json.dumps({"pillow": PIL.__version__, "files": broken(out / "broken")}, indent=1) + "\n")
    (out / "jpegs.json").write_text(json.dumps(sums, indent=1) + "\n")
    resize = {"pillow": PIL.__version__, "images": resized()}
    (out / "resize.json").write_text(json.dumps(resize, indent=1) + "\n")


if __name__ == "__main__":
    main()
