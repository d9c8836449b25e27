"""Makes the files of this folder: pictures in formats, and in variants of formats, that Pomona does not read.

They were made once, with Pillow 13.0, pillow-heif 1.8, pillow-jxl-plugin and cjpeg of libjpeg-turbo 2.1 (Debian package
libjpeg-turbo-progs), and are checked by tests/rejects.rs:

    pip install pillow pillow-heif pillow-jxl-plugin && python tests/unsupported/make.py
"""

import subprocess
from pathlib import Path

import pillow_heif
import pillow_jxl  # noqa: F401
from PIL import Image

HERE = Path(__file__).parent
SIZE = (16, 12)


def main():
    pillow_heif.register_heif_opener()
    picture = Image.new("RGB", SIZE)
    picture.putdata([(x * 13 % 256, y * 14 % 256, x * y % 256) for y in range(SIZE[1]) for x in range(SIZE[0])])
    for name, options in [
        ("heic.heic", {"quality": 50}),
        ("jpeg-xl.jxl", {"quality": 50}),
        ("jpeg-2000.jp2", {"quality_mode": "rates", "quality_layers": [8]}),
        ("jpeg-2000-codestream.j2k", {}),
        ("big.tiff", {"big_tiff": True}),
        ("avif.avif", {"quality": 50}),
    ]:
        picture.save(HERE / name, **options)
    ppm = HERE / "picture.ppm"
    picture.save(ppm)
    for name, options in [("arithmetic.jpg", []), ("arithmetic-progressive.jpg", ["-progressive"])]:
        subprocess.run(["cjpeg", "-arithmetic", *options, "-outfile", HERE / name, ppm], check=True)
    ppm.unlink()


main()
