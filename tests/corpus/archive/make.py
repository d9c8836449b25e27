"""Makes the archives of this folder with the programs that people make them with: GNU tar, Info-ZIP, Python, pyarrow.

Usage: python make.py FOLDER, with pyarrow; GNU tar and Info-ZIP's zip must be installed.
"""

import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib

import pyarrow
import pyarrow.parquet

TIME = 1_700_000_000


def png(seed):
    """A PNG of 8 x 8 pixels."""
    rows = b"".join(b"\0" + bytes((seed * 37 + x * y + 11 * i) % 256 for x in range(8) for i in range(3)) for y in range(8))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


LONG = "long/" + "/".join(["folder name of forty letters or so, " + str(i) for i in range(4)]) + "/1.png"
NAMES = ["apple/1.png", "apple/2.png", "Äpfel 苹果/3.png", "4.png", "notes.txt", ".hidden/5.png", LONG]


def content(name):
    return png(NAMES.index(name)) if name.endswith(".png") else b"text"


def tree(root):
    for name in NAMES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name))
    os.symlink("1.png", root / "apple/link.png")
    os.link(root / "apple/2.png", root / "apple/second name.png")
    with open(root / "sparse.png", "wb") as file:
        file.truncate(1 << 20)
        file.seek((1 << 20) - 100)
        file.write(png(9)[:100])
    for path in [*root.rglob("*")]:
        os.utime(path, (TIME, TIME), follow_symlinks=False)


def tars(root, out):
    usual = ["tar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-S", "-C", root]
    subprocess.run([*usual, "--format=gnu", "-cf", out / "gnu.tar", "."], check=True)
    subprocess.run([*usual, "--format=posix", "--pax-option=delete=atime,delete=ctime", "-cf", out / "posix.tar", "."], check=True)
    with tarfile.open(out / "python.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ["/etc/absolute.png", "../outside.png", "a/../up.png", "./dot//slash.png", "twice.png", "twice.png", "inner.tar"]:
            info = tarfile.TarInfo(name)
            data = png(len(tar.getmembers()) + 20)
            info.size, info.mtime = len(data), TIME + 0.25
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(out / "webdataset.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        samples = {"0001.cls": b"7\n", "0001.png": png(30), "0002.json": b'{"label": "pear", "x": 1}', "0002.png": png(31),
                   "0003.png": png(32), "0003.json": b'{"label": "lost"}', "0003.cls": b"won", "dir/0004.png": png(33)}
        for name, data in samples.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), TIME
            tar.addfile(info, io.BytesIO(data))


def zips(root, out):
    names = [name for name in NAMES]
    zip_ = lambda file, *options: subprocess.run(["zip", "-q", "-X", *options, out / file, *names], cwd=root, check=True)
    for file in ["infozip.zip", "encrypted.zip"]:
        (out / file).unlink(missing_ok=True)
    subprocess.run(["zip", "-q", out / "infozip.zip", *names], cwd=root, check=True, env={**os.environ, "TZ": "UTC"})
    zip_("encrypted.zip", "-P", "secret")
    with zipfile.ZipFile(out / "python.zip", "w") as file:
        methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
        for method in methods:
            info = zipfile.ZipInfo(f"method/{method}.png", (2023, 11, 14, 22, 13, 20))
            file.writestr(info, png(method), compress_type=method)
        with file.open(zipfile.ZipInfo("zip64.png", (2023, 11, 14, 22, 13, 20)), "w", force_zip64=True) as member:
            member.write(png(50))
        file.comment = b"PK\x05\x06 a comment that looks like the end of a directory" + bytes(40)
    # A program in front of the zip file, as of one that unpacks itself.
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as file:
        file.writestr(zipfile.ZipInfo("apple/1.png", (2023, 11, 14, 22, 13, 20)), png(0))
    (out / "prefixed.zip").write_bytes(b"#!/bin/sh\nexit 0\n" + body.getvalue())


def tables(out):
    images = [{"bytes": png(i), "path": f"x/{i}.png"} for i in range(7)] + [{"bytes": None, "path": "null.png"}, None]
    features = {"image": {"_type": "Image"}, "label": {"names": ["apple", "pear"], "_type": "ClassLabel"}}
    struct_ = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", struct_), ("label", pyarrow.int64())],
                            metadata={"huggingface": json.dumps({"info": {"features": features}})})
    table = pyarrow.table({"image": pyarrow.array(images, struct_), "label": [0, 1, 0, 1, 0, 1, 7, None, 0]}, schema=schema)
    write = pyarrow.parquet.write_table
    write(table, out / "huggingface.parquet", row_group_size=4)
    write(table, out / "zstd.parquet", compression="zstd", data_page_version="2.0", data_page_size=300, write_batch_size=2)
    write(table, out / "gzip.parquet", compression="gzip")
    flat = pyarrow.table({"name": ["a", "b", "c"], "img": pyarrow.array([png(1), png(1), png(2)], pyarrow.binary()), "label": ["x", "y", None]})
    write(flat, out / "flat.parquet", compression="none")
    write(pyarrow.table({"name": ["a", "b"], "value": [1.5, 2.5]}), out / "numbers.parquet")


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as root:
        tree(pathlib.Path(root))
        tars(pathlib.Path(root), folder)
        zips(pathlib.Path(root), folder)
    tables(folder)
