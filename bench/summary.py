"""Writes bench/README.md and bench/compare.svg from the newest raw run of each kind.

    .venv/bench/bin/python bench/summary.py          (the last step of make bench)
"""

import json
import pathlib
import statistics

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = pathlib.Path(__file__).parent
NAMES = {"pomona": "Pomona", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "pomona_avx2": "Pomona, AVX2 alone", "tract": "tract", "pyspark": "PySpark + Keras",
         "pomona with classifier": "Pomona, with its classifier", "pomona scaled": "Pomona, `--decode scaled`", "onnxruntime draft": "ONNX Runtime, `Image.draft`"}


def newest(kind, wanted=lambda run: True):
    """Name and content of the newest raw run of a kind, of those that are wanted."""
    for file in sorted((HERE / "runs").glob(f"*-{kind}.json"), reverse=True):
        run = json.loads(file.read_text())
        if wanted(run):
            return file.stem, run
    return None, None


def classifier():
    """Accuracy, planted labels and times of the classifier."""
    text = []
    stem, run = newest("classifier", lambda run: "accuracy" in run and "planted" in run)
    if run:
        rows = []
        for name, found in run["accuracy"].items():
            planted = run["planted"].get(name)
            peers = [share for peer, share in found.items() if peer.startswith("logistic")]
            rows.append([name, f"{found['images']:,}", str(found["labels"]), f"{found['pomona']:.3f}", f"{max(peers):.3f}", f"{planted['mean']:.0%}" if planted else ""])
        text += ["## The classifier\n",
                 f"Accuracy out of fold on the same features and folds; of 1 % planted wrong labels, the share among the 2 % most suspect, on average over "
                 f"20 seeds. `make bench-classifier`, run `{stem}`.\n",
                 table(["data", "images", "labels", "Pomona", "logistic regression, better C", "planted labels found"], rows)]
    stem, run = newest("classifier", lambda run: "time" in run)
    if run:
        median = lambda classes, name: statistics.median(row[name] for lines in run["time"] for row in lines if row["classes"] == classes)
        counts = [row["classes"] for row in run["time"][0]]
        rows = [[str(classes), *(f"{median(classes, name):.2f}" for name in ("sums", "fit", "tally", "predict")),
                 f"{sum(median(classes, name) for name in ('fit', 'tally', 'predict')):.2f}"] for classes in counts]
        text += [f"Seconds for {run['time'][0][0]['rows']:,} made-up images, medians of {len(run['time'])} rounds: exact sums from features, all models, scores out of "
                 f"fold of {run['time'][0][0]['shrinkages']} shrinkages, predictions. Run `{stem}`.\n",
                 table(["classes", "sums", "fit", "cross-validation", "predictions", "together, from cached sums"], rows)]
        if "peers" in run:
            each = "; ".join(f"{peer['classes']} classes: {peer['lda_one_fit']:.1f} s" for peer in run["peers"])
            text.append(f"One fit of scikit-learn's LDA with one shrinkage, without cross-validation, and its predictions: {each}.\n")
    stem, run = newest("classifier", lambda run: "growth" in run)
    if run:
        rows = [[f"{grown['images']:,}", *(f"{grown[kind][key]:,.1f}" for key in ("cpu", "peak_mb") for kind in ("with", "without")), f"{grown['ratio_of_cpu']:.3f}",
                 f"{grown['predict_one']['cpu'] * 1e3:.0f}", f"{grown['predict_many_cpu_ms']:.1f}"] for grown in run["growth"]]
        text += [f"A whole run with and without the classifier, in turn; and `pomona predict` for one photo, start and neighbours included, and for each of 560. Run `{stem}`.\n",
                 table(["images", "processor s, with", "without", "MB, with", "without", "ratio of processor time", "ms for one photo", "ms for each of 560"], rows)]
    return text


def several_spark_rounds():
    """The newest comparison in which PySpark ran more than once, in a sentence."""
    stem, run = newest("compare", lambda run: len(run["runs"].get("pyspark", [])) > 1)
    if not run:
        return []
    ratios = {name: f"{row['ratio_to_pomona']:.2f}" for name, row in run["summary"].items()}
    return [f"PySpark takes minutes, so it runs once by default. In run `{stem}` it ran {len(run['runs']['pyspark'])} times: "
            f"Pomona took {run['summary']['pomona']['seconds']:.1f} s, ONNX Runtime {ratios['onnxruntime']} times and PySpark {ratios['pyspark']} times as long.\n"]


def table(head, rows):
    return "\n".join(["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]) + "\n"


def machine(run):
    m = run["machine"]
    return f"{m['cpu']}, {m['cores']} processors ({', '.join(m['simd'])}), {m['memory_gb']} GB, {m['system'].split('-with')[0]}"


def main():
    text = ["# Benchmarks\n", "`bench/summary.py` generates this page from the newest raw runs in [runs/](runs/). The machines were shared with other work: "
            "compare numbers within a run, not between runs.\n"]
    bars = []
    for kind, command in (("compare", "make bench"), ("photos", "make bench"), ("phones", "make bench"), ("folder", "make bench-folder")):
        # Runs without PySpark are made to compare two builds.
        stem, run = newest(kind, lambda run: kind != "compare" or "pyspark" in run["runs"])
        if not run:
            continue
        what = f"{run['images']:,} {run.get('kind', 'images of 100 x 100')}"
        rows = [[NAMES[name], f"{row['seconds']:.1f}", f"{row['images_per_second']:.0f}", f"{row['peak_mb']:,.0f}", f"{row['ratio_to_pomona']:.2f}"]
                for name, row in run["summary"].items()]
        text += [f"## The whole job: {what}\n", f"Process start to last file, PCA with 50 components, standardised; medians of the rounds. `{command}`, run `{stem}`; {machine(run)}.\n",
                 table(["", "seconds", "images/s", "peak MB", "time / Pomona's"], rows)]
        if run.get("cosine_of_scaled"):
            cosine = run["cosine_of_scaled"]
            text.append(f"Cosine of the features of `--decode scaled` to those of full decoding: {cosine['worst']:.4f} at worst, "
                        f"{cosine['mean']:.4f} on average, {cosine['images']} photos. They are enlarged pictures with grain, on plain backgrounds.\n")
        if kind == "folder":
            text.append("Pomona's run is one by default: with the classifier, the search of duplicates and the search index, which the other does not make.\n")
        if kind in ("phones", "folder"):
            continue
        bars += [(f"{NAMES[name]}\n{what}", row["seconds"], name) for name, row in run["summary"].items()]
        if run.get("memory"):
            peaks = ", ".join(f"{row['peak_mb']} MB for {int(count):,} images" for count, row in run["memory"]["runs"].items())
            text.append(f"Pomona's peak memory: {peaks}.\n")
        if kind == "compare":
            text += several_spark_rounds()
    stem, run = newest("kernels")
    if run:
        rows = [[NAMES[name], f"{run['summary'][name]['ms_per_image']:.1f}", f"{run['summary'][name]['ratio_to_pomona']:.2f}"]
                for name in ("pomona", "pomona_avx2", "onnxruntime", "openvino", "tract") if name in run["summary"]]
        text += ["## The model alone\n", f"One image at a time on one processor; medians of {len(run['rounds'])} rounds. `make bench-kernels`, run `{stem}`; {machine(run)}.\n",
                 table(["", "ms per image", "time / Pomona's"], rows),
                 f"Pomona's kernels reach {run['summary']['share_of_sgemm']:.0%} of the speed of NumPy's sgemm on the same processor.\n"]
        if "start_ms" in run["summary"]:
            starts = ", ".join(f"{NAMES[name]} {ms:.0f} ms" for name, ms in run["summary"]["start_ms"].items())
            text.append(f"Time of a whole process that computes the features of one image: {starts}.\n")
    stem, run = newest("neon")
    if run:
        rows = [[NAMES[name], *(f"{counts[kind] / 1e6:.0f}" for kind in ("all", "multiply_adds", "memory")),
                 f"{counts['all'] / run['instructions_per_image']['pomona']['all']:.2f}"] for name, counts in run["instructions_per_image"].items()]
        text += ["## The model alone on arm64\n", f"Millions of instructions per image, counted by QEMU as {run['processor']}; nothing is timed. `make bench-neon`, run `{stem}`.\n",
                 table(["", "instructions", "of these vector multiply-adds", "loads and stores", "instructions / Pomona's"], rows)]
    stem, run = newest("latency")
    if run:
        rows = [[name if name == "folder" else f"S3, {name}", f"{row['images_per_second']:.0f}", f"{row['share_of_folder']:.2f}"] for name, row in run["summary"].items()]
        text += ["## Images that come with a delay\n", f"The stage featurize of one thread on one processor, from a folder and from a local S3 that answers each request for an image "
                 f"after a delay; {run['images']:,} images of 100 x 100. Without a delay, requests take their part of the processor. `make bench-latency`, run `{stem}`.\n",
                 table(["", "images/s", "of the folder's"], rows)]
    stem, run = newest("cold-start")
    if run:
        text += ["## Cold start of the featurize function\n",
                 f"The function asks for work {run['init_ms']:.0f} ms after its process has started, with the model loaded. It answers for its first image "
                 f"{run['first_image_ms']:.0f} ms later, with S3 on the same machine. Lambda adds its own start and the download of a zip of 29 MB, of which tract for models of users has 7. "
                 f"`{run['command']}` after `make e2e`, run `{stem}`, with the build of that date.\n"]
    stem, run = newest("query")
    if run:
        median = lambda of: run["found"][of][len(run["found"][of]) // 2]  # noqa: E731
        rows = [[name, f"{median(f'cold_{name}_ms'):.0f}", f"{times['p50_ms']:.0f}", f"{times['p99_ms']:.0f}"] for name, times in run["found"]["warm"].items()]
        if peer := run["found"].get("onnxruntime"):
            rows.append([f"{NAMES['onnxruntime']} in Python, features only, without HTTP", *(f"{peer[value]:.0f}" for value in ("first_ms", "p50_ms", "p99_ms"))])
        text += ["## The query function\n", f"Milliseconds for a photo of 100 x 100 pixels, of {run['found']['images']:,} images, with S3 on the same machine. `make bench-query`, run `{stem}`.\n",
                 table(["", "from the start of the process to the first answer", "next answers, median", "99th percentile"], rows)]
    stem, run = newest("cold-start-separate")
    if run:
        mb = lambda size: f"{size / 1e6:.1f}"  # noqa: E731
        rows = [[name, *(f"{row[which][value]:.0f}" for value in ("init_ms", "answer_ms") for which in ("separate", "one")),
                 mb(row["separate"]["zip_bytes"])] for name, row in run["functions"].items()]
        total = sum(row["separate"]["zip_bytes"] for row in run["functions"].values())
        text += ["## One program for all functions\n",
                 "Until 0.1.0, each function was a program of its own; now one program has them all, and the handler names one. Milliseconds from the "
                 "start of the process to the request for work (Lambda bills them as `Init Duration`) and to the first answer, with S3 on the same "
                 "machine; the answer of `featurize` is for one image, that of the others an error, because they have no event. Medians. "
                 f"`{run['command']}`, run `{stem}`; the folder has the programs of a build before the change."
                 f"{' Note: ' + run['note'] + '.' if 'note' in run else ''}\n",
                 table(["function", "request, before", "after", "answer, before", "after", "zip before, MB"], rows),
                 f"The zip of the one program has {mb(run['one']['zip_bytes'])} MB ({mb(run['one']['bootstrap_bytes'])} MB unpacked), instead of seven with {mb(total)} MB together.\n"]
    stem, run = newest("incremental")
    if run:
        rows = [[name, f"{row['seconds']:.2f}", f"{row['times_faster']:.0f}"] for name, row in
                (("with a new fit", run["summary"]["refit"]), ("with `--refit never`", run["summary"]["kept"]))]
        text += ["## One more image\n", f"Added to a data set of {run['first']['images']:,}; its first run took {run['first']['seconds']:.0f} s. `make bench-incremental`, run `{stem}`.\n",
                 table(["", "seconds", "times faster than the first run"], rows)]
    text += classifier()
    stem, run = newest("scaling")
    if run:
        rows = [[f"{row['images']:,}", str(row["threads"]), f"{row['seconds']:.1f}", f"{row['images'] / row['seconds']:.0f}", str(row["peak_mb"])] for row in run["runs"]]
        note = f" Note: {run['note']}." if "note" in run else ""
        text += ["## Images and threads\n", f"`make bench-scaling`, run `{stem}`.{note}\n", table(["images", "threads", "seconds", "images/s", "peak MB"], rows),
                 "![Time and memory by number of images](scaling.svg)\n"]
    if bars:
        text.insert(2, "![Seconds for the whole job, by program](compare.svg)\n")
        plt.rcParams["svg.hashsalt"] = "pomona"
        figure, axis = plt.subplots(figsize=(8, 0.55 * len(bars) + 0.8))
        colours = {"pomona": "#2f6e4f", "pomona with classifier": "#2f6e4f", "onnxruntime": "#5e6978", "pyspark": "#b08d57"}
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
