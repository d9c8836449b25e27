"""ORB keypoints, descriptors and visual words, against OpenCV and scikit-learn."""

import json
import pathlib
import subprocess

import cv2
import deltalake
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import POMONA, ROOT, pomona
from PIL import Image

# The parameters of both programs: these are the defaults.
KEYPOINTS, SIDE = 500, 31
SAMPLES = ROOT.parent / "shared/samples"


def drawing(seed, width, height):
    """Noise at several scales, with the edges of random rectangles."""
    random = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cells in (4, 9, 20, 45):
        noise = random.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        picture += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)) / 4.0
    for _ in range(60):
        x, y = random.integers(0, width - 12), random.integers(0, height - 12)
        picture[y : y + random.integers(6, 60), x : x + random.integers(6, 60)] = random.uniform(0, 255, 3)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def pictures():
    found = {f"drawing-{seed}": drawing(seed, 420 - 30 * seed, 260 + 40 * seed) for seed in range(5)}
    # Real pictures, where they are at hand.
    photos = sorted(SAMPLES.glob("photos/*.jpg"))[:4] + sorted(SAMPLES.glob("fruits-360/Training/*/*.jpg"))[::60]
    return found | {f"sample-{at}": Image.open(file).convert("RGB") for at, file in enumerate(photos)}


def table(folder, images, *options):
    """Our keypoints of pictures, by name."""
    (folder / "images").mkdir(parents=True)
    for name, picture in images.items():
        picture.save(folder / f"images/{name}.png")
    pomona("descriptors", folder / "images", folder / "table", *options)
    # Only a whole table has the mark.
    assert (folder / "table/_SUCCESS").read_bytes() == b""
    rows = pq.read_table(folder / "table").to_pandas()
    return {pathlib.Path(path).stem: of for path, of in rows.groupby("path")}


def opencv(picture, **options):
    grey = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2GRAY)
    points, descriptors = cv2.ORB_create(nfeatures=KEYPOINTS, **options).detectAndCompute(grey, None)
    if descriptors is None:
        return pd.DataFrame({"x": [], "y": [], "octave": [], "angle": [], "response": [], "descriptor": []})
    columns = {"x": [p.pt[0] for p in points], "y": [p.pt[1] for p in points], "octave": [p.octave for p in points],
               "angle": [p.angle for p in points], "response": [p.response for p in points]}
    return pd.DataFrame(columns | {"descriptor": [row.tobytes() for row in descriptors]})


def nearest(theirs, ours):
    """For each of their keypoints the row of ours that is nearest in the same octave, and how far away it is."""
    if len(ours) == 0 or len(theirs) == 0:
        return np.zeros(len(theirs), int), np.full(len(theirs), np.inf)
    places = lambda rows: np.stack([rows["x"], rows["y"], rows["octave"] * 1e6], axis=1).astype(float)  # noqa: E731
    distances = np.linalg.norm(places(theirs)[:, None] - places(ours)[None], axis=2)
    return distances.argmin(axis=1), distances.min(axis=1)


def hamming(a, b):
    return np.unpackbits(np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)).sum()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    images = pictures()
    return images, table(tmp_path_factory.mktemp("orb"), images)


def test_keypoints_and_descriptors_are_those_of_opencv(found):
    images, ours = found
    near, total, bits, angles, ratios = 0, 0, [], [], []
    for name, picture in images.items():
        theirs, mine = opencv(picture), ours.get(name, pd.DataFrame({"x": [], "y": [], "octave": []}))
        if len(theirs) == 0:
            assert len(mine) == 0
            continue
        # At equal count: the strongest of each.
        count = min(len(theirs), len(mine))
        assert abs(len(theirs) - len(mine)) <= 0.05 * len(theirs) + 2, (name, len(theirs), len(mine))
        theirs = theirs.sort_values("response", ascending=False, kind="stable")[:count]
        mine = mine.sort_values("response", ascending=False, kind="stable")[:count]
        rows, distances = nearest(theirs, mine)
        total, near = total + count, near + int((distances <= 2).sum())
        for (_, a), row, distance in zip(theirs.iterrows(), rows, distances):
            if distance <= 2:
                b = mine.iloc[row]
                bits.append(hamming(a["descriptor"], b["descriptor"]))
                angles.append(abs((a["angle"] - b["angle"] + 180) % 360 - 180))
                ratios.append(b["response"] / a["response"])
    print(f"{near} of {total} keypoints of OpenCV are within 2 pixels; median Hamming distance {np.median(bits)}, "
          f"90 % {np.percentile(bits, 90)}; median angle {np.median(angles):.3f}; response {np.median(ratios):.4f}")
    assert near >= 0.9 * total and total > 1500
    assert np.median(bits) <= 25 and np.median(angles) < 1 and abs(np.median(ratios) - 1) < 0.05


@pytest.mark.parametrize(("degrees", "scale"), [(30, 1.0), (90, 1.0), (0, 0.75), (45, 0.8)])
def test_keypoints_are_found_again_as_often_as_with_opencv(tmp_path, degrees, scale):
    images = {name: picture for name, picture in pictures().items() if min(picture.size) > 200 and max(picture.size) < 1500}
    matrices, moved = {}, {}
    for name, picture in images.items():
        matrices[name] = cv2.getRotationMatrix2D((picture.width / 2, picture.height / 2), degrees, scale)
        moved[name] = Image.fromarray(cv2.warpAffine(np.asarray(picture), matrices[name], picture.size, flags=cv2.INTER_AREA))

    def repeated(before, after):
        again, of = 0, 0
        for name, picture in images.items():
            places = np.stack([before[name]["x"], before[name]["y"], np.ones(len(before[name]))])
            places = matrices[name] @ places
            width, height = picture.size
            inside = (places[0] > 40) & (places[0] < width - 40) & (places[1] > 40) & (places[1] < height - 40)
            others = np.stack([after[name]["x"], after[name]["y"]]).astype(float)
            distances = np.linalg.norm(places[:, inside][:, :, None] - others[:, None, :], axis=0).min(axis=1)
            of, again = of + int(inside.sum()), again + int((distances <= 3).sum())
        return 100 * again / of

    ours = repeated(table(tmp_path / "before", images), table(tmp_path / "after", moved))
    theirs = repeated({n: opencv(p) for n, p in images.items()}, {n: opencv(p) for n, p in moved.items()})
    print(f"turned by {degrees} degrees, scaled by {scale}: {ours:.1f} % found again, with OpenCV {theirs:.1f} %")
    assert ours >= theirs - 3 and theirs > 30


def test_a_data_set_of_visual_words_is_a_function_of_its_images(tmp_path):
    pomona("demo", tmp_path, "--views", 6, "--images-only")
    images, results = tmp_path / "images", tmp_path / "results"
    pomona("run", images, results, "--extractor", "orb", "--words", 64, "-k", 5)
    table = pd.read_parquet(results / "features/v=00000001")
    features = np.stack(table["features"])
    file = next((results / "vocabularies").glob("*.json"))
    vocabulary = json.loads(file.read_text())
    words = np.array([list(bytes.fromhex(word["descriptor"])) for word in vocabulary["words"]], dtype=np.uint8)
    assert features.shape == (len(table), 64) and len(words) == 64 and features.sum() > 500
    # Each descriptor counts for the word with the smallest Hamming distance, the first of equal ones: with the descriptors of
    # the table of keypoints, and distances of NumPy.
    pomona("descriptors", images, tmp_path / "table", "--border", vocabulary["orb"]["border"])
    keypoints = pq.read_table(tmp_path / "table").to_pandas()
    expected = np.zeros_like(features)
    rows = {path: row for row, path in enumerate(table["path"])}
    for path, descriptor in zip(keypoints["path"], keypoints["descriptor"]):
        distances = np.unpackbits(words ^ np.frombuffer(descriptor, np.uint8), axis=1).sum(axis=1)
        expected[rows[path], distances.argmin()] += 1
    assert np.array_equal(features, expected)
    # Later runs and commands find the words in the output; another output takes them from there.
    assert json.loads(pomona("run", images, results, "--json", "-k", 5))["up_to_date"]
    asked = table["path"][0]
    assert json.loads(pomona("search", results, images / asked, "--json", "-n", 1))[0]["path"] == asked
    other = json.loads(pomona("run", images, tmp_path / "other", "--extractor", "orb", "--vocabulary", file, "-k", 5, "--json"))
    assert other["images"] == len(table)
    again = pd.read_parquet(tmp_path / "other/features/v=00000001")
    assert np.array_equal(np.stack(again["features"]), features)
    assert "no damage" in pomona("check", results)
    # A byte short: named by the check, and by what needs the words.
    (kept,) = (results / "vocabularies").glob("*.json")
    kept.write_bytes(kept.read_bytes()[:-1])
    for command in (["check", results], ["search", results, images / asked]):
        done = subprocess.run([POMONA, *map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and f"vocabularies/{kept.name}" in done.stdout + done.stderr, done
    # Words are asked of this extractor only.
    done = subprocess.run([POMONA, "run", images, tmp_path / "raw", "--extractor", "raw", "--words", "8"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Input.Invalid" in done.stderr and not (tmp_path / "raw/versions").exists(), done


def test_kept_keypoints_are_those_of_the_table_and_other_programs_read_them(tmp_path):
    pomona("demo", tmp_path, "--views", 2, "--images-only")
    images, output, table = tmp_path / "images", tmp_path / "output", tmp_path / "table"
    pomona("run", images, output, "--extractor", "orb", "--words", 16, "-k", 3, "--keep-keypoints", "--delta")
    pomona("descriptors", images, table, "--border", 16)
    files = f"{output}/features/v=00000001/*.parquet"
    rows = duckdb.sql(f"SELECT path, unnest(keypoints, recursive := true) FROM '{files}'").df()
    expected = pd.read_parquet(table)
    assert list(rows) == list(expected) and len(rows) > 1_000
    pd.testing.assert_frame_equal(rows.map(lambda x: bytes(x) if isinstance(x, bytearray) else x), expected, check_dtype=False)
    # Words, and what else reads features, are as without keypoints.
    counts = pd.read_parquet(output / "features/v=00000001")
    assert [len(keypoints) for keypoints in counts["keypoints"]] == [features.sum() for features in counts["features"]]
    found = pl.read_parquet(files)["keypoints"].list.len().sum()
    assert found == len(expected) and len(deltalake.DeltaTable(output / "delta").to_pandas()) == len(counts)
    pomona("check", output)


@pytest.mark.parametrize("how", ["l1", "tf-idf"])
def test_weights_are_those_of_scikit_learn(tmp_path, how):
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import normalize

    pomona("demo", tmp_path, "--views", 4, "--images-only")
    images, counted, weighed = tmp_path / "images", tmp_path / "counted", tmp_path / "weighed"
    pomona("run", images, counted, "--extractor", "orb", "--words", 32, "-k", 3)
    pomona("run", images, weighed, "--extractor", "orb", "--words", 32, "-k", 3, "--word-weights", how)
    counts, found = (np.stack(pd.read_parquet(output / "features/v=00000001")["features"]) for output in (counted, weighed))
    if how == "l1":
        expected = normalize(counts, "l1")
    else:
        # All images are in the sample. scikit-learn adds 1 to the logarithm.
        expected = TfidfTransformer(norm=None, smooth_idf=False).fit_transform(counts).toarray() - counts
        expected = expected / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
