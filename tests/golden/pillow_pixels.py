"""Regenerates tests/golden/pillow: Pillow's pixels of small images in many formats.

    make golden        (pinned packages in a virtual environment; see the Makefile)

`formats/` has the source files and, for each, the pixels of `Image.open(f).convert("RGB")` as a PNG.
`resize.json` has SHA-256 sums of `Image.resize((w, h))` for images that a formula defines; the Rust test uses the same
formula. The sums are equal only if every pixel is equal.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np
import PIL
from PIL import Image


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


def main():
    out = pathlib.Path(sys.argv[1])
    (out / "formats").mkdir(parents=True, exist_ok=True)
    formats(out / "formats")
    resize = {"pillow": PIL.__version__, "images": resized()}
    (out / "resize.json").write_text(json.dumps(resize, indent=1) + "\n")


if __name__ == "__main__":
    main()
