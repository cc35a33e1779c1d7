from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("torch")


@pytest.fixture
def state():
    from model_export.architectures import build

    return build("resnet18", 7, 32).state_dict()


def _saved(content: object, path: Path) -> Path:
    import torch

    torch.save(content, path)
    return path


def _load(path: Path, n_labels: int = 7):
    from model_export.architectures import build
    from model_export.weights import load_state, read_state

    model = build("resnet18", n_labels, 32)
    load_state(model, read_state(path), source=str(path))
    return model


@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {"state_dict": s, "epoch": 3},
    lambda s: {f"module.{k}": v for k, v in s.items()},
    lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "pytorch-lightning_version": "2.5"},
    lambda s: {"model": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
    lambda s: {"state_dict": {f"classifier.net.{k}": v for k, v in s.items()}},
], ids=["plain", "in a checkpoint", "DataParallel", "Lightning", "compiled DataParallel", "own attribute"])
def test_weights_load_however_trainers_wrap_them(state, tmp_path: Path, wrap):
    import torch

    loaded = _load(_saved(wrap(state), tmp_path / "my.pth")).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_what_trainers_keep_beside_the_weights_does_not_hinder(state, tmp_path: Path):
    import argparse

    import numpy as np
    import torch

    beside = {"hyper_parameters": {"lr": np.float64(0.1), "folder": tmp_path, "n": np.int64(3)}, "epoch": 3,
              "args": argparse.Namespace(model="resnet18"), "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.9)}}}
    inside = {f"model.{k}": v for k, v in state.items()}
    loaded = _load(_saved(beside | {"state_dict": inside}, tmp_path / "my.ckpt")).state_dict()
    assert torch.equal(loaded["fc.bias"], state["fc.bias"])


def test_one_extra_key_in_a_checkpoint_is_refused_by_its_name_and_does_not_hide_the_others(state, tmp_path: Path):
    import torch

    from model_export.errors import ExportError

    inside = {f"model.{k}": v for k, v in state.items()} | {"criterion.weight": torch.ones(7)}
    with pytest.raises(ExportError, match=r"Missing: none; unknown: criterion\.weight; other .*--without criterion\."):
        _load(_saved({"state_dict": inside}, tmp_path / "my.ckpt"))


def test_keys_that_are_no_part_of_the_network_can_be_left_out(state, tmp_path: Path):
    import torch

    from model_export.errors import ExportError
    from model_export.weights import read_state, without

    inside = {f"model.{k}": v for k, v in state.items()} | {"criterion.weight": torch.ones(7)}
    read = read_state(_saved({"state_dict": inside}, tmp_path / "my.ckpt"))
    assert without(read, ["criterion."]).keys() == inside.keys() - {"criterion.weight"}
    with pytest.raises(ExportError, match="--without loss: no key of the weights begins so"):
        without(read, ["loss"])


def test_a_second_network_in_the_checkpoint_is_refused(state, tmp_path: Path):
    from model_export.errors import ExportError

    both = {f"{part}.{k}": v for part in ("model", "ema") for k, v in state.items()}
    with pytest.raises(ExportError, match=r"Missing: none; unknown: ema\..* and \d+ more.*--without ema\."):
        _load(_saved({"state_dict": both}, tmp_path / "my.ckpt"))


def test_an_object_beside_the_weights_is_refused_by_the_name_of_its_class(state, tmp_path: Path):
    import fractions

    from model_export.errors import ExportError

    with pytest.raises(ExportError, match=r"my\.pth holds a fractions\.Fraction beside tensors"):
        _load(_saved({"state_dict": state, "share": fractions.Fraction(1, 3)}, tmp_path / "my.pth"))


def test_a_torchscript_archive_is_told_from_a_torn_file(tmp_path: Path):
    import zipfile

    from model_export.errors import ExportError

    with zipfile.ZipFile(tmp_path / "my.pt", "w") as archive:  # torch.jit.save is on its way out, its files are not
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"my/{name}", b"")
    with pytest.raises(ExportError, match="TorchScript archive"):
        _load(tmp_path / "my.pt")


def test_safetensors_load(state, tmp_path: Path):
    import torch
    from safetensors.torch import save_file

    save_file(state, tmp_path / "my.safetensors")
    assert torch.equal(_load(tmp_path / "my.safetensors").state_dict()["fc.bias"], state["fc.bias"])


def test_one_renamed_key_is_refused_by_name_with_what_would_give_it_back(state, tmp_path: Path):
    from model_export.errors import ExportError

    state["layer1.0.conv1.kernel"] = state.pop("layer1.0.conv1.weight")
    with pytest.raises(ExportError, match=r"Missing: layer1\.0\.conv1\.weight; unknown: layer1\.0\.conv1\.kernel") as refused:
        _load(_saved(state, tmp_path / "my.pth"))
    assert "state['layer1.0.conv1.weight'] = state.pop('layer1.0.conv1.kernel')" in str(refused.value)
    state["layer1.0.conv1.weight"] = state.pop("layer1.0.conv1.kernel")
    _load(_saved(state, tmp_path / "my.pth"))


def test_keys_of_another_architecture_are_no_renamed_ones(state, tmp_path: Path):
    from model_export.errors import ExportError

    state["head.weight"] = state.pop("fc.weight").T.contiguous()
    with pytest.raises(ExportError, match=r"Give the --arch") as refused:
        _load(_saved(state, tmp_path / "my.pth"))
    assert "renamed" not in str(refused.value)


def test_another_number_of_labels_is_refused_with_both_shapes(state, tmp_path: Path):
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match=r"fc\.weight: expected \(5, 512\), got \(7, 512\)"):
        _load(_saved(state, tmp_path / "my.pth"), n_labels=5)


def test_a_refused_file_leaves_the_network_as_it_was(state):
    import torch

    from model_export.architectures import build
    from model_export.errors import ExportError
    from model_export.weights import load_state

    model = build("resnet18", 7, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    del state["fc.bias"]
    with pytest.raises(ExportError):
        load_state(model, state, source="my.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class _Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched-by-a-pickle"),))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch):
    from model_export.errors import ExportError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="would run code"):
        _load(_saved({"state_dict": _Evil()}, tmp_path / "my.pth"))
    assert not Path("touched-by-a-pickle").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"plain text"])
@pytest.mark.parametrize("name", ["my.pth", "my.safetensors"])
def test_a_torn_file_is_one_sentence(tmp_path: Path, name: str, content: bytes):
    from model_export.errors import ExportError

    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=name):
        _load(tmp_path / name)


def test_a_missing_file_is_one_sentence(tmp_path: Path):
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match="There is no weights file"):
        _load(tmp_path / "absent.pth")


def test_a_file_without_tensors_is_refused(tmp_path: Path):
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match="holds no state dict"):
        _load(_saved({"epoch": 3}, tmp_path / "my.pth"))
