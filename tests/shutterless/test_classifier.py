"""Against a real graph in the real onnxruntime: it names the strongest colour of a picture."""

import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shutterless.bundles import as_portable, read_bundle
from shutterless.classifier import Classifier, energy, softmax
from shutterless.errors import BadBundle, BadPicture, BadRequest, TooLarge
from shutterless.pictures import Limits

ROOT = Path(__file__).parents[2]


@pytest.fixture
def classifier(bundle_folder):
    return Classifier(read_bundle(bundle_folder))


@pytest.fixture
def classifier_with(make_bundle, tmp_path):
    """`classifier_with(temperature=2.0)`: a classifier whose manifest has such fields."""
    return lambda **manifest: Classifier(read_bundle(make_bundle(tmp_path, **manifest)))


def colour(encode, name: str, format: str = "PNG") -> bytes:
    return encode(Image.new("RGB", (50, 40), name), format)


@pytest.mark.parametrize(("name", "index"), [("red", 0), ("lime", 1), ("blue", 2)])
def test_names_the_strongest_colour(name, index, classifier, encode):
    prediction = classifier.predict(colour(encode, name)).prediction
    assert (prediction.pred_index, prediction.label) == (index, classifier.manifest.labels[index])
    assert prediction.confidence == pytest.approx(np.exp(16) / (np.exp(16) + 2))


def test_logits_are_those_of_the_graph(classifier):
    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    pixels[2, ..., 1] = 255
    logits = classifier.classify(pixels)
    assert logits.dtype == np.float32
    assert logits == pytest.approx(np.array([[0, 0, 0], [0, 0, 0], [0, 16, 0], [0, 0, 0]], np.float32))


def test_a_batch_is_predicted_row_by_row(classifier):
    predictions = classifier.predictions(np.array([[3, 1, 2], [1, 2, 3]], np.float32), top=2)
    assert [p.label for p in predictions] == ["red", "blue"]
    assert [[label for _, label, _ in p.top] for p in predictions] == [["red", "blue"], ["blue", "green"]]


def test_pictures_decoded_apart_and_run_together_get_their_own_answers(classifier, encode):
    pictures = [colour(encode, name, "JPEG") for name in ("blue", "red", "lime")]
    logits = classifier.classify(np.stack([classifier.pixels(picture) for picture in pictures]))
    assert [p.label for p in classifier.predictions(logits)] == ["blue", "red", "green"]
    assert [p.confidence for p in classifier.predictions(logits)] == pytest.approx(
        [classifier.predict(picture).prediction.confidence for picture in pictures], abs=1e-6)


def test_a_picture_outside_the_limits_has_no_pixels(classifier, encode):
    with pytest.raises(TooLarge):
        classifier.pixels(colour(encode, "red"), Limits(max_side=49))


def test_equal_confidences_are_ranked_by_index(classifier):
    assert [index for index, _, _ in classifier.predictions(np.zeros((1, 3), np.float32))[0].top] == [0, 1, 2]


def test_top_is_capped_at_the_number_of_labels(classifier):
    assert len(classifier.predictions(np.zeros((1, 3), np.float32), top=100)[0].top) == 3


@pytest.mark.parametrize("top", [0, -1])
def test_top_below_one_is_refused(top, classifier):
    with pytest.raises(BadRequest, match="top: expected 1 or more"):
        classifier.predictions(np.zeros((1, 3), np.float32), top=top)


def test_the_temperature_makes_confidence_milder_and_changes_no_rank(classifier_with):
    prediction = classifier_with(temperature=4.0).predictions(np.array([[8, 4, 0]], np.float32))[0]
    assert [confidence for _, _, confidence in prediction.top] == pytest.approx(softmax(np.array([2.0, 1.0, 0.0])))


def test_in_distribution_compares_the_energy_of_the_raw_logits(classifier_with):
    logits = np.array([[2, 1, 0]], np.float32)
    threshold = float(energy(logits[0].astype(np.float64)))
    assert threshold == pytest.approx(np.log(np.exp(2) + np.exp(1) + 1))
    classifier = classifier_with(ood_threshold=threshold, temperature=9.0)
    assert classifier.predictions(logits)[0].in_distribution is True
    assert classifier.predictions(logits - 0.01)[0].in_distribution is False


def test_in_distribution_is_unknown_without_a_threshold(classifier):
    assert classifier.predictions(np.zeros((1, 3), np.float32))[0].in_distribution is None


@pytest.mark.parametrize("shift", [-3e38, -1e4, 0, 1e4, 3e38])
def test_softmax_and_energy_survive_any_finite_logits(shift):
    logits = np.array([0.0, 1.0, 2.0]) + shift
    assert softmax(logits).sum() == pytest.approx(1)
    assert np.isfinite(energy(logits))


def test_logits_that_are_no_numbers_are_no_answer(classifier):
    with pytest.raises(BadBundle, match="finite"):
        classifier.predictions(np.array([[0, np.nan, 0]], np.float32))


def test_the_answer_is_the_body_of_predict(classifier, encode):
    body = classifier.predict(colour(encode, "red"), top=2).to_json_dict()
    timings = body.pop("timings")
    assert body == {
        "pred_index": 0, "label": "red", "confidence": pytest.approx(1, abs=1e-6),
        "top": [{"index": 0, "label": "red", "confidence": pytest.approx(1, abs=1e-6)},
                {"index": 1, "label": "green", "confidence": pytest.approx(0, abs=1e-6)}],
        "in_distribution": None, "cold_start": True,
        "model": {"name": "colours", "version": "1", "sha256": classifier.bundle.sha256}}
    assert set(timings) == {"model_load_s", "preprocess_s", "inference_s"}
    assert all(0 < seconds < 60 for seconds in timings.values())
    json.dumps(body | {"timings": timings})


def test_decoding_is_a_part_of_preprocessing(classifier, encode):
    timings = classifier.predict(colour(encode, "red")).timings
    assert 0 < timings.decode_s < timings.preprocess_s


def test_only_the_first_answer_is_a_cold_start_even_after_a_warm_up(classifier, encode):
    classifier.warm_up()
    assert [classifier.predict(colour(encode, "red")).cold_start for _ in range(3)] == [True, False, False]


def test_a_warm_up_imports_what_a_photo_needs(bundle_folder):
    """A plain JPEG does without Pillow's plugin; the first photo of a phone must not wait for it."""
    code = ("import sys; from shutterless.bundles import read_bundle; from shutterless.classifier import Classifier\n"
            "Classifier(read_bundle(sys.argv[1])).warm_up(); print(*sys.modules)")
    shown = subprocess.run([sys.executable, "-c", code, bundle_folder], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "PIL.JpegImagePlugin" in shown.stdout.split()


def test_a_bad_picture_is_refused_and_takes_no_cold_start(classifier, encode):
    with pytest.raises(BadPicture):
        classifier.predict(b"no picture")
    with pytest.raises(TooLarge):
        classifier.predict(colour(encode, "red"), limits=Limits(max_side=49))
    assert classifier.predict(colour(encode, "red")).cold_start


def test_threads_get_the_answers_of_their_own_pictures(classifier, encode):
    names = ["red", "lime", "blue"] * 40
    pictures = {name: colour(encode, name, "JPEG") for name in names}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: classifier.predict(pictures[name]), names))
    assert [a.prediction.label for a in answers] == ["red", "green", "blue"] * 40
    assert sum(a.cold_start for a in answers) == 1


@pytest.mark.parametrize("manifest", [{"labels": ["red", "green"]}, {"input": {"size": 48}}])
def test_a_graph_that_contradicts_its_manifest_is_refused(manifest, classifier_with):
    with pytest.raises(BadBundle, match=r"model\.onnx: expected one (in|out)put .*, got .*Export the bundle again"):
        classifier_with(**manifest)


def test_a_graph_that_onnxruntime_cannot_open_is_refused(classifier_with):
    with pytest.raises(BadBundle, match=r"model\.onnx: expected a graph for onnxruntime"):
        classifier_with(model=b"not a graph")


# The graph that was optimised for this machine.

@pytest.fixture
def pixels(draw):
    """uint8 (12, 32, 32, 3)."""
    return np.stack([np.asarray(draw((32, 32), seed)) for seed in range(12)])


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 5, 12])
def test_the_optimised_graph_answers_bit_for_bit_like_the_portable_one(fast_bundle, pixels, threads, batch):
    bundle = read_bundle(fast_bundle)
    assert bundle.graph()[1]
    fast, portable = Classifier(bundle, threads), Classifier(as_portable(bundle), threads)
    assert np.array_equal(fast.classify(pixels[:batch]), portable.classify(pixels[:batch]))
    assert fast.model == portable.model


def test_threads_share_the_optimised_graph(fast_bundle, pixels):
    classifier = Classifier(read_bundle(fast_bundle))
    expected = [classifier.classify(one[np.newaxis]) for one in pixels]
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda one: classifier.classify(one[np.newaxis]), np.repeat(pixels, 10, axis=0)))
    assert np.array_equal(np.concatenate(got), np.repeat(np.concatenate(expected), 10, axis=0))


def test_sessions_opened_at_the_same_time_map_the_same_weights(fast_bundle, pixels):
    bundle = read_bundle(fast_bundle)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: Classifier(bundle).classify(pixels), range(8)))
    assert all(np.array_equal(logits, got[0]) for logits in got)


@pytest.fixture
def unopenable(fast_bundle, tmp_path):
    """A bundle whose optimised graph has the right digest, and is none for the onnxruntime that is here."""
    folder = shutil.copytree(fast_bundle, tmp_path / "tiles" / "1")
    document = json.loads((folder / "manifest.json").read_text())
    name, content = document["optimised"][0]["graph"], b"made by another build of that version"
    (folder / name).write_bytes(content)
    document["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


@pytest.mark.usefixtures("without_kernels")
def test_where_the_optimised_graph_cannot_be_opened_the_portable_one_answers(unopenable, fast_bundle, pixels, caplog):
    classifier = Classifier(read_bundle(unopenable))
    assert np.array_equal(classifier.classify(pixels), Classifier(read_bundle(fast_bundle)).classify(pixels))
    assert "the portable graph answers" in caplog.text


def test_the_portable_graph_is_checked_before_it_answers_instead(unopenable):
    bundle = read_bundle(unopenable)
    with (unopenable / "model.onnx.data").open("r+b") as file:
        file.write(b"other weights")
    with pytest.raises(BadBundle, match=r"model\.onnx\.data: expected sha256"):
        Classifier(bundle)
