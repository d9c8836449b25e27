"""Search: the time of exact nearest neighbours beside faiss, usearch and LanceDB on the same rows, in the same run.

    search.py --example PATH --pomona PATH [--rows 100000 1000000] [--queries 100] [--work FOLDER]

Rows are made-up features (`examples/search_time.rs`): 1,280 numbers, clusters of 40 views, 1 % copies. Each program answers the
same queries, one at a time, on all processors: the 10 nearest by Euclidean distance. Times are medians within a process whose
index is open; `process` is a whole `pomona search --like`, start included. Recall is the share of the answers of faiss's flat
index that a program has. A program that is not installed is left out; those that take long to build their index only search up
to 100,000 rows. Raw runs go to bench/runs/.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

import numpy as np
import record

COLUMNS, COUNT = 1_280, 10
# Building a graph of a million rows takes hours on two processors.
MOST_OF_GRAPHS = 100_000
PROCESSES = 9


def timed(search, queries):
    """Median and 99th percentile in milliseconds, and the answers."""
    search(queries[0])
    times, answers = [], []
    for query in queries:
        start = time.perf_counter()
        found = search(query)
        times.append((time.perf_counter() - start) * 1e3)
        answers.append([int(row) for row in found])
    return {"p50_ms": statistics.median(times), "p99_ms": float(np.percentile(times, 99)), "answers": answers}


def flat(rows, _):
    import faiss

    index = faiss.IndexFlatL2(COLUMNS)
    index.add(rows)
    return lambda query: index.search(query[None], COUNT)[1][0]


def ivf(rows, _):
    import faiss

    lists = int(4 * len(rows) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(COLUMNS), COLUMNS, lists)
    index.cp.max_points_per_centroid = 64
    index.train(rows[:: max(1, len(rows) // (lists * 64))])
    index.add(rows)
    index.nprobe = 16
    return lambda query: index.search(query[None], COUNT)[1][0]


def graph(rows, _):
    from usearch.index import Index

    if len(rows) > MOST_OF_GRAPHS:
        return None
    index = Index(ndim=COLUMNS, metric="l2sq", dtype="f32")
    index.add(np.arange(len(rows)), rows)
    return lambda query: index.search(query, COUNT).keys


def lance(rows, folder):
    import lancedb
    import pyarrow as pa

    if len(rows) > MOST_OF_GRAPHS:
        return None
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), COLUMNS)
    table = lancedb.connect(folder).create_table("rows", pa.table({"id": np.arange(len(rows)), "vector": vectors}))
    return lambda query: table.search(query).select(["id", "_distance"]).limit(COUNT).to_arrow()["id"].to_pylist()


PEERS = {"faiss flat": flat, "faiss IVF": ivf, "usearch HNSW": graph, "LanceDB without an index": lance}


def ours(args, folder, count, file):
    """Times of the library and of whole processes."""
    command = [args.example, folder, str(count), "--queries", str(args.queries), "--rows-file", file]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    seconds = []
    for number in range(PROCESSES):
        path = f"{number * (count // PROCESSES) + 7:09}.jpg"
        search = [args.pomona, "search", folder, "--like", path, "--metric", "euclidean", "--json"]
        start = time.perf_counter()
        subprocess.run(search, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    found["process_ms"] = statistics.median(seconds) * 1e3
    return found


def measure(args, count, work):
    folder, file = work / f"{count}", work / f"{count}.f32"
    found = ours(args, folder, count, file)
    rows = np.fromfile(file, dtype=np.float32).reshape(count, COLUMNS)
    queries = [rows[query * (count // args.queries) + 7].copy() for query in range(args.queries)]
    peers = {}
    for name, build in PEERS.items():
        start = time.perf_counter()
        try:
            search = build(rows, work / f"lance-{count}")
        except ImportError:
            continue
        if search is not None:
            built = time.perf_counter() - start
            peers[name] = {"build_seconds": built, **timed(search, queries)}
            print(name, count, peers[name]["p50_ms"], flush=True)
            del search
    line = {"rows": count, "pomona": found, "peers": peers}
    exact = peers.get("faiss flat", {}).get("answers")
    for of in [found["euclidean"], found["cosine"], *peers.values()]:
        answers = of.pop("answers")
        if exact and of is not found["cosine"]:
            of["recall"] = sum(len(set(a) & set(b)) for a, b in zip(answers, exact)) / sum(map(len, exact))
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", required=True)
    parser.add_argument("--pomona", required=True)
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--work", help="a folder for the files, 10 GB for a million rows [default: a temporary one]")
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(args.work or temporary)
        for count in args.rows:
            found.append(measure(args, count, work))
            print(json.dumps(found[-1]), flush=True)
            shutil.rmtree(work / f"lance-{count}", ignore_errors=True)
    record.write("search", found=found)


if __name__ == "__main__":
    main()
