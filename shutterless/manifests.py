"""What a bundle says of itself: `manifest.json`, checked on reading, the only source of preprocessing and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from shutterless.errors import BadBundle

TASKS = ("classify", "caption")
RESIZES = ("shorter side", "squash", "none")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
PRECISIONS = ("fp32", "int8")
FILES = {"classify": ("model.onnx",), "caption": ("encoder.onnx", "decoder.onnx", "tokenizer.json")}


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How a picture becomes the network's input, in torchvision's terms.

    size: target of the resize, pixels: the shorter side, or both sides when squashed; unused with resize "none".
    crop: side of the centre crop after it, pixels; None takes the whole (then the resize must be "squash").
    mean, std: per RGB channel, of values in 0..1. The graph applies them; they stand here to be read.
    """

    size: int
    resize: str = "squash"
    crop: int | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        _expect(_is_int(self.size) and 1 <= self.size <= 4096, "input.size", "an integer from 1 to 4096", self.size)
        _expect(self.resize in RESIZES, "input.resize", f"one of {', '.join(RESIZES)}", self.resize)
        crop_fits = self.crop is None or (_is_int(self.crop) and 1 <= self.crop <= 4096)
        _expect(crop_fits, "input.crop", "an integer from 1 to 4096, or null", self.crop)
        square = self.resize == "squash" or self.crop is not None
        _expect(square, "input.crop", f'a size in pixels, which resize "{self.resize}" needs', self.crop)
        _expect(self.interpolation in INTERPOLATIONS, "input.interpolation", f"one of {', '.join(INTERPOLATIONS)}",
                self.interpolation)
        for name, values in (("mean", self.mean), ("std", self.std)):
            fits = isinstance(values, (list, tuple)) and len(values) == 3 and all(_is_number(v) for v in values)
            _expect(fits, f"input.{name}", "three numbers, red, green and blue", values)
            object.__setattr__(self, name, tuple(float(v) for v in values))
        _expect(all(v > 0 for v in self.std), "input.std", "three numbers above 0", self.std)

    @property
    def side(self) -> int:
        """Side of the square that the network sees, in pixels."""
        return self.size if self.crop is None else self.crop


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """A file of the bundle: digest in hexadecimal, length in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class OptimisedGraph:
    """A graph that onnxruntime `ort` optimised for one class of machines, opened there in place of `of`, a portable one.

    weights: the files that it maps. system: such as linux-x86_64. cpu: features that the machine must have (true) or must
    not have (false): a graph laid out for other vectors than the machine's gives wrong answers, not errors. batches: it is
    meant for several pictures at a time; whoever has one is served better by the other.
    """

    of: str
    graph: str
    weights: tuple[str, ...]
    ort: str
    system: str
    cpu: dict[str, bool]
    batches: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One model, one version. `temperature` divides the logits before softmax; `ood_threshold` is the lowest energy
    score, in nats, of a picture that counts as in distribution (None: never measured)."""

    name: str
    version: str
    task: str
    files: dict[str, BundleFile]
    labels: tuple[str, ...]
    input: InputSpec
    opset: int
    precision: str
    temperature: float = 1.0
    ood_threshold: float | None = None
    optimised: tuple[OptimisedGraph, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def needed(self, optimised: Iterable[OptimisedGraph] = ()) -> list[str]:
        """The files that are opened when `optimised` take the place of their portable graphs.

        A portable graph may keep its weights beside it, as ONNX's tools do: model.onnx in model.onnx.data.
        """
        chosen = {graph.of: graph for graph in optimised}
        portable = [path for path in FILES[self.task] if path.endswith(".onnx")]
        apart = {*portable, *map(weights_of, portable)}.union(*((graph.graph, *graph.weights) for graph in self.optimised))
        opened = {path for path in self.files if path not in apart}
        for path in portable:
            opened.update((chosen[path].graph, *chosen[path].weights) if path in chosen else (path, weights_of(path)))
        return [path for path in self.files if path in opened]

    def to_json(self) -> str:
        """The text of `manifest.json`: stable order, so that equal bundles have equal bytes."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def weights_of(graph: str) -> str:
    """Where a graph's own weights are, if they are not in it."""
    return f"{graph}.data"


def parse_manifest(text: str | bytes) -> Manifest:
    """Read and check `manifest.json`. Raises BadBundle naming the field, what was expected and what came."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadBundle("manifest.json is not valid JSON. Export the bundle again, or download it whole.") from error
    _expect(isinstance(fields, dict), "the document", "an object", fields)
    known = set(Manifest.__dataclass_fields__)
    required = known - {"temperature", "ood_threshold", "optimised", "source", "report"}
    missing, unknown = sorted(required - set(fields)), sorted(set(fields) - known)
    if missing or unknown:
        raise BadBundle(f"manifest.json: missing fields {missing or 'none'}, unknown fields {unknown or 'none'}. "
                        "Export the bundle again with this version of shutterless.")
    for name in ("name", "version"):
        _expect(is_slug(fields[name]), name, "letters, digits, dots, dashes and underscores", fields[name])
    _expect(fields["task"] in TASKS, "task", f"one of {', '.join(TASKS)}", fields["task"])
    _expect(fields["precision"] in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", fields["precision"])
    _expect(_is_int(fields["opset"]) and fields["opset"] > 0, "opset", "an integer above 0", fields["opset"])
    temperature = fields.get("temperature", 1.0)
    _expect(_is_number(temperature) and temperature > 0, "temperature", "a number above 0", temperature)
    threshold = fields.get("ood_threshold")
    _expect(threshold is None or _is_number(threshold), "ood_threshold", "a number or null", threshold)
    for name in ("source", "report"):
        _expect(isinstance(fields.get(name, {}), dict), name, "an object", fields.get(name))
    files = _files(fields["files"], fields["task"])
    return Manifest(**fields | {"files": files, "labels": _labels(fields["labels"]), "input": _input(fields["input"]),
                                "optimised": _optimised(fields.get("optimised", []), files, FILES[fields["task"]])})


def _files(files: Any, task: str) -> dict[str, BundleFile]:
    _expect(isinstance(files, dict), "files", "an object {path: {sha256, bytes}}", files)
    for path, entry in files.items():
        fits = (isinstance(entry, dict) and set(entry) == {"sha256", "bytes"} and _is_int(entry["bytes"])
                and entry["bytes"] >= 0 and re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])))
        _expect(fits, f"files.{path}", "{sha256, bytes}", entry)
        inside = path and not path.startswith("/") and "\\" not in path and ".." not in path.split("/")
        _expect(inside, "files", "paths inside the bundle", path)
    for path in FILES[task]:
        _expect(path in files, "files", f"an entry for {path}, which task {task} needs", sorted(files))
    return {path: BundleFile(**entry) for path, entry in files.items()}


def _optimised(entries: Any, files: dict[str, BundleFile], portable: tuple[str, ...]) -> tuple[OptimisedGraph, ...]:
    known = set(OptimisedGraph.__dataclass_fields__)
    _expect(isinstance(entries, list), "optimised", "a list of graphs", entries)
    for entry in entries:
        complete = isinstance(entry, dict) and known - {"batches"} <= set(entry) <= known
        _expect(complete, "optimised", f"graphs with {', '.join(sorted(known))}", entry)
        _expect(isinstance(entry.get("batches", False), bool), "optimised.batches", "true or false", entry.get("batches"))
        _expect(entry["of"] in portable and entry["of"].endswith(".onnx"), "optimised.of", "a graph of this task", entry["of"])
        _expect(isinstance(entry["weights"], list), "optimised.weights", "a list of files", entry["weights"])
        for path in (entry["graph"], *entry["weights"]):
            _expect(isinstance(path, str) and path in files, "optimised", "files of this bundle", path)
        _expect(entry["graph"] not in portable, "optimised.graph", "another file than the portable graph", entry["graph"])
        for name in ("ort", "system"):
            _expect(isinstance(entry[name], str) and entry[name], f"optimised.{name}", "a text", entry[name])
        fits = isinstance(entry["cpu"], dict) and all(isinstance(there, bool) for there in entry["cpu"].values())
        _expect(fits, "optimised.cpu", "features with true or false", entry["cpu"])
    return tuple(OptimisedGraph(**entry | {"weights": tuple(entry["weights"])}) for entry in entries)


def _labels(labels: Any) -> tuple[str, ...]:
    fits = isinstance(labels, list) and labels and all(isinstance(label, str) and label for label in labels)
    _expect(fits, "labels", "a list of names, in the order of the logits", labels)
    _expect(len(set(labels)) == len(labels), "labels", "names that differ from each other", labels)
    return tuple(labels)


def _input(spec: Any) -> InputSpec:
    _expect(isinstance(spec, dict), "input", "an object", spec)
    known = set(InputSpec.__dataclass_fields__)
    _expect("size" in spec and set(spec) <= known, "input", f"size and any of {', '.join(sorted(known))}", spec)
    return InputSpec(**spec)


def _expect(fits: Any, where: str, expected: str, got: object) -> None:
    if not fits:
        raise BadBundle(f"manifest.json: {where}: expected {expected}, got {str(got)[:80]!r}. "
                        "Correct it, or export the bundle again.")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def is_slug(value: object) -> bool:
    """Whether it can be a bundle's name or version: ASCII letters, digits, `._-`, at most 64, no leading dot."""
    return (isinstance(value, str) and 0 < len(value) <= 64 and not value.startswith(".")
            and all(c.isascii() and (c.isalnum() or c in "._-") for c in value))
