import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.needs("torch")


@pytest.fixture(scope="session")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from model_export.export import export
    from model_export.source import from_run

    return export(from_run(run), name="kinds", version="1", models=tmp_path_factory.mktemp("models"),
                  prepared=run / "prepared")


def given(weights: Path, prepared: Path, **options: object):
    """The source that a weights file of resnet18 for 32 px becomes."""
    from model_export.networks import Wanted, find_network
    from model_export.presets import Typed
    from model_export.source import from_network

    network = find_network(Wanted(source=str(weights), arch="resnet18", typed=Typed(size=32)))
    return from_network(network, prepared=prepared, **options)


def test_an_exported_bundle_answers_like_the_network_that_was_trained(bundle: Path, run: Path, class_folders: Path):
    from model_export.source import from_run
    from model_export.train import predict
    from shutterless.bundles import read_bundle
    from shutterless.classifier import Classifier
    from shutterless.pictures import decode
    from shutterless.preprocessing import to_pixels

    source = from_run(run)
    pictures = [(class_folders / source.pictures.names[i]).read_bytes() for i in source.parts["test"]]
    pixels = np.stack([to_pixels(decode(picture), source.spec) for picture in pictures])
    expected = predict(source.model, pixels, np.arange(len(pixels)), source.spec).argmax(1)
    classifier = Classifier(read_bundle(bundle))
    got = [classifier.predict(picture).prediction.pred_index for picture in pictures]
    assert np.mean(np.array(got) == expected) >= 23 / 24


def test_the_manifest_says_where_the_model_comes_from_and_on_how_many_pictures_it_stands(bundle: Path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["precision"] == "int8"
    assert manifest["labels"] == ["checks", "columns", "rows"]
    assert manifest["report"]["accuracy"]["int8"]["n"] == 24
    assert manifest["report"]["int8_drop_points"]["n"] == 48
    assert manifest["report"]["parity"]["top1_agreement"] == 1
    assert manifest["report"]["calibration"]["fitted_on"] == 24
    assert len(manifest["source"]["weights_sha256"]) == 64
    assert manifest["source"]["split"]["seed"] == 0
    (command,) = manifest["source"]["commands"]
    assert command.startswith("shutterless train kinds")
    assert "--arch resnet18 --weights none --size 32 --epochs 3" in command
    assert "/" not in manifest["source"]["data"]


def test_convolutions_really_run_in_int8(bundle: Path):
    operators = json.loads((bundle / "manifest.json").read_text())["report"]["operators"]
    assert operators["QLinearConv"] == 20
    assert "Conv" not in operators
    assert "BatchNormalization" not in operators


def test_an_int8_bundle_holds_its_weights_once_and_opens_what_was_optimised_here(bundle: Path):
    from shutterless.bundles import read_bundle

    read = read_bundle(bundle, every_file=True)
    graph, batches = read.manifest.optimised
    assert read.graph() == (graph.graph, True)
    assert (graph.batches, batches.batches) == (False, True)
    assert graph.weights == batches.weights == ("model.onnx.data",)
    assert sum(file.bytes for file in read.manifest.files.values()) < 1.1 * (bundle / "model.onnx.data").stat().st_size + 300_000


def test_the_optimised_graph_answers_real_pictures_bit_for_bit_like_the_portable_one(bundle: Path, class_folders: Path):
    from shutterless.bundles import as_portable, read_bundle
    from shutterless.classifier import Classifier

    read = read_bundle(bundle)
    fast, portable = Classifier(read), Classifier(as_portable(read))
    pixels = np.stack([fast.pixels(path.read_bytes()) for path in sorted(class_folders.rglob("*.png"))])
    assert np.array_equal(fast.classify(pixels), portable.classify(pixels))


def test_the_report_card_says_how_far_each_graph_is_from_torch(bundle: Path):
    card = (bundle / "report.md").read_text()
    assert "## Does it answer like torch?" in card
    for graph in ("fp32, as exported", "fp32, as judged", "int8, as judged"):
        assert f"| {graph} | " in card
    agreement = json.loads((bundle / "manifest.json").read_text())["report"]["agreement"]
    assert agreement["fp32"]["n"] == agreement["int8"]["n"] == 24
    assert agreement["fp32"]["logits_difference"] < agreement["int8"]["logits_difference"]


def test_the_report_card_says_what_runs_in_int8_and_what_opening_costs(bundle: Path):
    card = (bundle / "report.md").read_text()
    assert re.search(r"\| int8 \| 20 QLinearConv, ", card)
    for row in ('plain InferenceSession("model.onnx")', "model.onnx, as the doors open it", "optimised graph"):
        assert f"| session open, {row} | " in card
    assert "which answers bit for bit like model.onnx on 24 pictures" in card


def test_the_report_card_is_kept_with_the_model(bundle: Path):
    assert "top-1, int8" in (bundle / "report.md").read_text()
    assert (bundle / "report.html").read_text().count("<svg") == 3
    card = (bundle / "report.md").read_text()
    plots = [bundle / place for place in re.findall(r"!\[.+\]\((.+)\)", card)]
    assert len(plots) == 3
    assert all(plot.read_text().startswith("<svg") for plot in plots)
    assert sorted(p.name for p in bundle.iterdir() if ".ort-" not in p.name) == [
        "manifest.json", "model.onnx", "model.onnx.data", "plots", "report.html", "report.md"]


def test_pictures_of_another_kind_are_told_apart_in_figures_and_in_the_card(run: Path, tmp_path: Path, draw):
    from model_export.export import export
    from model_export.source import from_run

    (tmp_path / "strangers").mkdir()
    for seed in range(30):
        draw((40, 40), seed).save(tmp_path / "strangers" / f"{seed}.png")
    folder = export(from_run(run), name="kinds", version="1", models=tmp_path, prepared=run / "prepared", precision="fp32",
                    outliers=str(tmp_path / "strangers"), when="shared")
    manifest = json.loads((folder / "manifest.json").read_text())
    found = manifest["report"]["in_distribution"]
    assert 0 <= found["auroc"] <= 1
    assert found["strangers_refused"]["n"] == 30
    assert f"AUROC {found['auroc']:.4f}" in (folder / "report.md").read_text()
    assert (folder / "plots" / "does-it-know-what-it-does-not-know.svg").is_file()
    assert manifest["optimised"] == []  # fp32 convolutions could not share their weights


def test_a_version_never_changes(bundle: Path, run: Path):
    from model_export.errors import ExportError
    from model_export.export import export
    from model_export.source import from_run

    with pytest.raises(ExportError, match="a version never changes"):
        export(from_run(run), name="kinds", version="1", models=bundle.parents[1], prepared=run / "prepared")


def test_int8_that_costs_accuracy_gives_way_to_fp32_and_where_insisted_on_leaves_no_bundle(
        run: Path, tmp_path: Path, monkeypatch):
    from model_export import export as chain
    from model_export.errors import ExportError
    from model_export.quantize import quantize
    from model_export.source import from_run

    def spoil(source: Path, target: Path, pixels: np.ndarray, **settings: object) -> None:
        quantize(source, target, np.full_like(pixels[:1], 0), **settings)  # calibrated on one black picture

    monkeypatch.setattr(chain, "quantize", spoil)
    with pytest.raises(ExportError, match=r"int8 is refused: on 48 .*95 % interval"):
        chain.export(from_run(run), name="kinds", version="1", models=tmp_path, prepared=run / "prepared", precision="int8")
    assert not (tmp_path / "kinds").exists()
    said: list[str] = []
    folder = chain.export(from_run(run), name="kinds", version="1", models=tmp_path, prepared=run / "prepared", step=said.append)
    assert json.loads((folder / "manifest.json").read_text())["precision"] == "fp32"
    assert any(sentence.startswith("this bundle is fp32, since int8 is refused: on 48") for sentence in said)
    assert "| why it is fp32 | int8 is refused: on 48" in (folder / "report.md").read_text()


def test_a_graph_that_answers_unlike_its_network_is_refused_by_parity(run: Path, tmp_path: Path):
    import torch

    from model_export.errors import ExportError
    from model_export.graph import write_graph
    from model_export.parity import check_parity
    from model_export.source import from_run

    source = from_run(run)
    write_graph(source.model, source.spec, tmp_path / "graph.onnx")
    with torch.no_grad():
        source.model.fc.bias[0] += 0.5
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(ExportError, match=r"expected at most .* got 5\.00e-01"):
        check_parity(source.model, source.spec, tmp_path / "graph.onnx", pixels)
    larger = pixels.repeat(2, 1).repeat(2, 2)[:, :48, :48]
    with pytest.raises(ExportError, match=r"input differs: expected .*48, 48, 3.*got .*32, 32, 3"):
        check_parity(source.model, replace(source.spec, size=48), tmp_path / "graph.onnx", larger)


def test_weights_without_pictures_become_fp32_with_indices_for_labels(run: Path, tmp_path: Path):
    from model_export.export import export
    from shutterless.bundles import read_bundle

    source = given(run / "weights.pth", tmp_path)
    folder = export(source, name="mine", version="1", models=tmp_path, prepared=tmp_path)
    manifest = read_bundle(folder).manifest
    assert (manifest.precision, manifest.labels) == ("fp32", ("0", "1", "2"))
    assert "nothing is known of its accuracy" in (folder / "report.md").read_text()


def test_int8_without_pictures_is_refused(run: Path, tmp_path: Path):
    from model_export.errors import ExportError
    from model_export.export import export

    source = given(run / "weights.pth", tmp_path)
    with pytest.raises(ExportError, match="needs pictures"):
        export(source, name="mine", version="1", models=tmp_path, prepared=tmp_path, precision="int8")


def test_a_labels_file_with_one_line_too_few_is_refused(run: Path, tmp_path: Path):
    from model_export.errors import ExportError

    (tmp_path / "labels.txt").write_text("rows\ncolumns\n")
    with pytest.raises(ExportError, match=r"labels\.txt has 2 labels, and the weights have 3 outputs"):
        given(run / "weights.pth", tmp_path, labels=tmp_path / "labels.txt")


def test_pictures_that_a_training_was_not_split_on_are_refused(run: Path, class_folders: Path, tmp_path: Path):
    from model_export.errors import ExportError
    from model_export.source import from_run

    shutil.copytree(class_folders, tmp_path / "kinds")
    (tmp_path / "kinds" / "rows" / "rows_0.png").rename(tmp_path / "kinds" / "rows" / "another.png")
    with pytest.raises(ExportError, match="not the ones of this training"):
        from_run(run, data=str(tmp_path / "kinds"))


def test_an_unfinished_training_is_not_exported(tmp_path: Path):
    from model_export.errors import ExportError
    from model_export.source import from_run

    with pytest.raises(ExportError, match="not finished"):
        from_run(tmp_path)


@pytest.mark.parametrize("name", ["../elsewhere", "my model", ""])
def test_a_name_that_no_door_could_find_is_refused_before_any_work(run: Path, tmp_path: Path, name: str):
    from model_export.errors import ExportError
    from model_export.export import export
    from model_export.source import from_run

    with pytest.raises(ExportError, match="--name: expected letters"):
        export(from_run(run), name=name, version="1", models=tmp_path / "models", prepared=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_some_of_the_labels_are_enough_to_judge_on(run: Path, class_folders: Path, tmp_path: Path):
    from model_export.export import export

    for kind in ("checks", "rows"):
        shutil.copytree(class_folders / kind, tmp_path / "some" / kind)
    (tmp_path / "labels.txt").write_text("checks\ncolumns\nrows\n")
    source = given(run / "weights.pth", tmp_path, labels=tmp_path / "labels.txt", data=str(tmp_path / "some"))
    folder = export(source, name="some", version="1", models=tmp_path, prepared=tmp_path, precision="fp32")
    card = (folder / "report.md").read_text()
    assert "| rows |" in card
    assert "| columns |" not in card


@pytest.fixture
def unlabelled(tinynets, flat_pictures: Path, tmp_path: Path):
    """`unlabelled("trained")`: a tiny network of somebody else's, with 40 readable pictures without labels."""
    from model_export.networks import Wanted, find_network
    from model_export.presets import Typed
    from model_export.source import from_network

    def unlabelled(function: str):
        network = find_network(Wanted(source=f"tinynets:{function}", typed=Typed(size=32)))
        return from_network(network, calibration=str(flat_pictures), prepared=tmp_path / "prepared")
    return unlabelled


def test_pictures_without_labels_are_enough_for_int8_where_it_names_what_torch_names(unlabelled, tmp_path: Path):
    from model_export.export import export

    told: list[tuple[int, int]] = []
    folder = export(unlabelled("trained"), name="mine", version="1", models=tmp_path, prepared=tmp_path / "prepared",
                    advance=lambda n, total: told.append((n, total)))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["precision"] == "int8"
    assert manifest["report"]["top1_agreement"]["int8"]["top1"]["n"] == 40
    card = (folder / "report.md").read_text()
    assert "not known: the pictures have no labels" in card
    assert "torn.png" in card
    calibrating, judging = ([n for n, total in told if total == which] for which in (20, 2 * 40 + 20))
    assert (sum(calibrating), sum(judging)) == (20, 80)  # 20 are too few for a threshold


def test_without_labels_an_int8_graph_that_names_others_gives_way_to_fp32_unless_insisted_on(
        unlabelled, tmp_path: Path, monkeypatch):
    from model_export import export as chain
    from model_export.errors import ExportError
    from model_export.quantize import quantize

    def spoil(source: Path, target: Path, pixels: np.ndarray, **settings: object) -> None:
        quantize(source, target, np.full_like(pixels[:1], 0), **settings)

    monkeypatch.setattr(chain, "quantize", spoil)
    source = unlabelled("sharp")
    folder = chain.export(source, name="mine", version="1", models=tmp_path, prepared=tmp_path / "prepared")
    assert json.loads((folder / "manifest.json").read_text())["precision"] == "fp32"
    assert "| why it is fp32 | int8 is not taken: it names what the network names on" in (folder / "report.md").read_text()
    with pytest.raises(ExportError, match=r"int8 is not taken: .*--precision fp32"):
        chain.export(source, name="other", version="1", models=tmp_path, prepared=tmp_path / "prepared", precision="int8")
    assert not (tmp_path / "other").exists()


def test_strangers_without_pictures_of_the_model_s_own_kind_are_refused_or_said_to_be_too_few(
        run: Path, unlabelled, flat_pictures: Path, tmp_path: Path):
    from model_export.errors import ExportError
    from model_export.export import export

    with pytest.raises(ExportError, match="--outliers are pictures to tell the model's own from"):
        export(given(run / "weights.pth", tmp_path), name="mine", version="1", models=tmp_path, prepared=tmp_path,
               outliers=str(flat_pictures))
    folder = export(unlabelled("trained"), name="mine", version="1", models=tmp_path, prepared=tmp_path / "prepared",
                    precision="fp32", outliers=str(flat_pictures))
    assert "not measured: too few pictures to choose a threshold on" in (folder / "report.md").read_text()
