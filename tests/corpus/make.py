"""Makes the images of the fuzz corpus that tests/golden/pillow does not have: python make.py FOLDER

`tests/fuzz.rs` damages these files, those of `tests/golden/pillow/formats` and of `tests/models`, and files that the program
writes during the test. Needs the Pillow of tests/golden/requirements.txt.
"""

import pathlib
import sys

import numpy as np
from PIL import Image, features


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:24, 0:33]
    color = Image.fromarray(np.stack([x * 7, y * 10, (x * y) % 256], -1).astype(np.uint8))
    grey = Image.fromarray(((x * 7 + y * 3) % 256).astype(np.uint8))
    deep = Image.fromarray(((x * 1900 + y * 40) % 65536).astype(np.uint16))
    real = Image.fromarray((x * 0.3 - y).astype(np.float32))
    rgba = color.copy()
    rgba.putalpha(grey)
    palette = color.quantize(16)
    cmyk = color.convert("CMYK")
    frames = [color.rotate(angle) for angle in (90, 180)]

    def save(image, name, **options):
        image.save(folder / name, **options)

    save(color, "baseline.jpg", quality=70)
    save(color, "progressive.jpg", quality=70, progressive=True)
    save(color, "restart.jpg", quality=70, restart_marker_blocks=2)
    save(cmyk, "cmyk.jpg", quality=70)
    save(cmyk, "progressive-cmyk.jpg", quality=70, progressive=True)
    save(color, "chroma-411.jpg", quality=70, subsampling=1, optimize=True)
    save(Image.new("RGB", (1, 1), (9, 8, 7)), "one-pixel.jpg")
    save(grey, "progressive-grey.jpg", quality=30, progressive=True)
    save(deep, "grey-16.png")
    save(palette, "palette-4-bits.png", bits=4)
    save(palette, "palette-transparent.png", transparency=b"\x10\x80\xff")
    save(color, "animated.png", save_all=True, append_images=frames, duration=40)
    save(rgba, "text-chunks.png", pnginfo=text_chunks())
    save(palette, "interlaced.gif", interlace=1)
    save(color, "animated.gif", save_all=True, append_images=frames, duration=40, disposal=2, transparency=0)
    save(color.convert("1"), "one-bit.bmp")
    save(palette, "palette.bmp")
    save(rgba, "rgba.bmp")
    save(rgba, "lossy-alpha.webp", quality=50)
    save(color, "animated.webp", save_all=True, append_images=frames, duration=40)
    save(palette, "palette.tiff")
    save(color.convert("1"), "group4.tiff", compression="group4")
    save(color, "packbits.tiff", compression="packbits")
    save(color, "jpeg.tiff", compression="jpeg")
    save(deep, "grey-16.tiff")
    save(real, "float.tiff")
    save(color.convert("LAB"), "lab.tiff")
    save(color, "pages.tiff", save_all=True, append_images=frames, compression="tiff_lzw")
    save(color.convert("YCbCr"), "ycbcr.tiff")
    # Formats that Pomona recognises and rejects.
    save(color, "rejected.ico", sizes=[(16, 16)])
    save(color, "rejected.ppm")
    if features.check("avif"):
        save(color, "rejected.avif", quality=40)


def text_chunks():
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "one\u202etwo", zip=True)
    info.add_itxt("title", "Äpfel", "de", "Name", zip=True)
    return info


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
