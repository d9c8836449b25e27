"""bench/README.md and bench/compare.svg from the newest raw run of each kind.

    .venv/bench/bin/python bench/summary.py          (make bench does it last)
"""

import json
import pathlib

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = pathlib.Path(__file__).parent
NAMES = {"pomona": "Pomona", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tract": "tract", "pyspark": "PySpark + Keras"}


def newest(kind):
    runs = sorted((HERE / "runs").glob(f"*-{kind}.json"))
    return (runs[-1].stem, json.loads(runs[-1].read_text())) if runs else (None, None)


def table(head, rows):
    return "\n".join(["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]) + "\n"


def machine(run):
    m = run["machine"]
    return f"{m['cpu']}, {m['cores']} processors ({', '.join(m['simd'])}), {m['memory_gb']} GB, {m['system'].split('-with')[0]}"


def main():
    text = ["# What was measured\n", "Made by `bench/summary.py` from the newest raw runs in [runs/](runs/). Machines were shared; compare within a run.\n"]
    bars = []
    for kind, command in (("compare", "make bench"), ("photos", "make bench")):
        stem, run = newest(kind)
        if not run:
            continue
        what = f"{run['images']:,} {run.get('kind', 'images of 100 x 100')}"
        rows = [[NAMES[name], f"{row['seconds']:.1f}", f"{row['images_per_second']:.0f}", f"{row['peak_mb']:,.0f}", f"{row['ratio_to_pomona']:.2f}"]
                for name, row in run["summary"].items()]
        text += [f"## The whole job: {what}\n", f"Process start to last file, k = 50 standardised; medians. `{command}`, run `{stem}`; {machine(run)}.\n",
                 table(["", "seconds", "images/s", "peak MB", "time / Pomona's"], rows)]
        bars += [(f"{NAMES[name]}\n{what}", row["seconds"], name) for name, row in run["summary"].items()]
        if run.get("memory"):
            peaks = ", ".join(f"{row['peak_mb']} MB for {int(count):,} images" for count, row in run["memory"]["runs"].items())
            text.append(f"Memory: {peaks}.\n")
    stem, run = newest("kernels")
    if run:
        rows = [[NAMES[name], f"{run['summary'][name]['ms_per_image']:.1f}", f"{run['summary'][name]['ratio_to_pomona']:.2f}"]
                for name in ("pomona", "onnxruntime", "openvino", "tract")]
        text += ["## The model alone\n", f"One image at a time, one processor. `make bench-kernels`, run `{stem}`.\n",
                 table(["", "ms per image", "time / Pomona's"], rows),
                 f"{run['summary']['share_of_sgemm']:.0%} of the speed of NumPy's sgemm on the same processor.\n"]
        if "start_ms" in run["summary"]:
            starts = ", ".join(f"{NAMES[name]} {ms:.0f} ms" for name, ms in run["summary"]["start_ms"].items())
            text.append(f"From the start of a process to its first feature and its end: {starts}.\n")
    stem, run = newest("incremental")
    if run:
        rows = [[name, f"{row['seconds']:.2f}", f"{row['times_faster']:.0f}"] for name, row in
                (("new fit", run["summary"]["refit"]), ("`--refit never`", run["summary"]["kept"]))]
        text += ["## One more image\n", f"In a data set of 10,000, whose first run took {run['first']['seconds']:.0f} s. `make bench-incremental`, run `{stem}`.\n",
                 table(["", "seconds", "times faster than the first run"], rows)]
    stem, run = newest("scaling")
    if run:
        rows = [[f"{row['images']:,}", str(row["threads"]), f"{row['seconds']:.1f}", f"{row['images'] / row['seconds']:.0f}", str(row["peak_mb"])] for row in run["runs"]]
        note = f" Note: {run['note']}." if "note" in run else ""
        text += ["## Images and threads\n", f"`make bench-scaling`, run `{stem}`.{note}\n", table(["images", "threads", "seconds", "images/s", "peak MB"], rows),
                 "![Time and memory against images](scaling.svg)\n"]
    if bars:
        text.insert(2, "![Seconds for the whole job](compare.svg)\n")
        plt.rcParams["svg.hashsalt"] = "pomona"
        figure, axis = plt.subplots(figsize=(8, 0.55 * len(bars) + 0.8))
        colours = {"pomona": "#2f6e4f", "onnxruntime": "#5e6978", "pyspark": "#b08d57"}
        axis.barh([b[0] for b in bars][::-1], [b[1] for b in bars][::-1], color=[colours[b[2]] for b in bars][::-1])
        axis.bar_label(axis.containers[0], fmt="%.1f s", padding=3)
        axis.margins(x=0.12)
        axis.set_xlabel("seconds")
        figure.tight_layout()
        figure.savefig(HERE / "compare.svg", metadata={"Date": None})
    (HERE / "README.md").write_text("\n".join(text))
    print("bench/README.md, bench/compare.svg")


if __name__ == "__main__":
    main()
