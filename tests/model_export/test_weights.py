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
], ids=["plain", "in a checkpoint", "DataParallel", "Lightning", "compiled DataParallel"])
def test_weights_load_however_trainers_wrap_them(state, tmp_path: Path, wrap):
    import torch

    loaded = _load(_saved(wrap(state), tmp_path / "my.pth")).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_safetensors_load(state, tmp_path: Path):
    import torch
    from safetensors.torch import save_file

    save_file(state, tmp_path / "my.safetensors")
    assert torch.equal(_load(tmp_path / "my.safetensors").state_dict()["fc.bias"], state["fc.bias"])


def test_one_renamed_key_is_refused_by_name(state, tmp_path: Path):
    from model_export.errors import ExportError

    state["layer1.0.conv1.kernel"] = state.pop("layer1.0.conv1.weight")
    with pytest.raises(ExportError, match=r"Missing: layer1\.0\.conv1\.weight; unknown: layer1\.0\.conv1\.kernel"):
        _load(_saved(state, tmp_path / "my.pth"))


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
