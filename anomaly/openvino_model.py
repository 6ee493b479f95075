"""The scoring path of one image run by OpenVINO, its autoencoder in bfloat16.

Processors with units for bfloat16 matrices compute the autoencoder several times as fast so. The
exported graph is cut in three: features, autoencoder, comparison. The first and the last stay in
float32, since their rounding would move scores by more than good parts differ, and that of the
autoencoder hardly moves them (docs/LOG.md). Whoever builds one holds it to the golden scores.
"""

import functools
import importlib.util
import sys
import threading
from collections.abc import Sequence
from typing import Any

import torch

from anomaly.device import Cores, has_matrix_units
from anomaly.model import AnomalyModel
from anomaly.scoring import Evidence
from anomaly.scoring_path import mask_indices

_TOKENS, _PREDICTED, _ERROR = "tokens", "predicted", "error"  # outputs of the exported graph
_ONE_AT_A_TIME = threading.Lock()  # asks for the process's core


def pays_here() -> bool:
    """Whether OpenVINO is installed and this processor has units for bfloat16."""
    return has_matrix_units() and importlib.util.find_spec("openvino") is not None


class OpenVinoModel:
    """Stands in for `AnomalyModel` in a detector: the same call, run by OpenVINO on the CPU.

    With `cores`, an image has all threads while its batch is alone and its lane's threads
    otherwise, as in `OnnxModel`. Raises `RuntimeError` where OpenVINO cannot read the graph, or
    where it was exported without the outputs that it is cut at.
    """

    def __init__(self, model: AnomalyModel, graph: bytes, cores: Cores | None = None) -> None:
        self._cores = cores or Cores(1, torch.get_num_threads())
        lanes, threads = self._cores.lanes, self._cores.threads
        openvino = _openvino()
        parts = _cut(openvino, graph)
        self._beside = _Chain(parts, lanes, threads)
        self._alone = self._beside if lanes == 1 else _Chain(parts, 1, lanes * threads)
        self._model = model
        self.engine = f"OpenVINO {openvino.__version__.split('-')[0]}, autoencoder in bfloat16"

    def __call__(self, pixels: torch.Tensor, seeds: Sequence[int]) -> Evidence:
        """Raw evidence on (B, 3, S, S) canvases; image i is masked by seed i."""
        values, differences = [], []
        for image, seed in zip(pixels, seeds, strict=True):
            masks = mask_indices(self._model, [seed])
            chain = self._beside if self._cores.are_shared else self._alone
            error, *between = chain(image.unsqueeze(0), *(index[0] for index in masks))
            values.append(error.clone())
            differences.append(self._model.differences(*between))
        return Evidence(torch.cat(values), self._model.names, torch.cat(differences))


class _Chain:
    """The three parts compiled for so many images at once, each with so many threads."""

    def __init__(self, parts: Sequence[Any], at_once: int, threads: int) -> None:
        self._compiled = [
            _core().compile_model(
                part,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": precision,
                    "INFERENCE_NUM_THREADS": at_once * threads,
                    "NUM_STREAMS": at_once,
                    "ENABLE_CPU_PINNING": False,  # other programs have cores, too
                },
            )
            for part, precision in zip(parts, ("f32", "bf16", "f32"), strict=True)
        ]
        self._of_thread = threading.local()  # a request holds one image's tensors

    def __call__(
        self, pixels: torch.Tensor, visible: torch.Tensor, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Evidence (1, R, E, L) of a canvas (1, 3, S, S) and its masks (W, R, G, ·).

        With the tokens (1, L, C) and their predictions (1, R, L, C), all until this thread's next.
        """
        if not hasattr(self._of_thread, "requests"):
            self._of_thread.requests = [part.create_infer_request() for part in self._compiled]
        features, autoencoder, comparison = self._of_thread.requests
        tokens = _run(features, {"pixels": pixels.numpy()})
        masks = {"visible": visible.numpy(), "hidden": hidden.numpy()}
        predicted = _run(autoencoder, {_TOKENS: tokens, **masks})
        error = _run(comparison, {_TOKENS: tokens, _PREDICTED: predicted})
        return torch.from_numpy(error), torch.from_numpy(tokens), torch.from_numpy(predicted)


def _run(request: Any, inputs: dict[str, Any]) -> Any:
    """Return a part's only output, which lives until its request runs again."""
    return request.infer(inputs, share_inputs=True, share_outputs=True)[0]


def _cut(openvino: Any, graph: bytes) -> list[Any]:
    """Return the graph's parts: pixels to tokens, tokens to predictions, both to evidence."""
    return [
        _part(openvino, graph, _TOKENS, inputs=["pixels"]),
        _part(openvino, graph, _PREDICTED, inputs=["visible", "hidden"], given=[_TOKENS]),
        _part(openvino, graph, _ERROR, given=[_TOKENS, _PREDICTED]),
    ]


def _part(
    openvino: Any,
    graph: bytes,
    output: str,
    *,
    inputs: Sequence[str] = (),
    given: Sequence[str] = (),
) -> Any:
    """Return what computes `output` from the graph's `inputs` and from `given` results of it."""
    whole = _core().read_model(graph)
    source = whole.output(output).node.input_value(0)
    parameters = [whole.input(name).node for name in inputs]
    for name in given:
        result = whole.output(name).node.input_value(0)
        parameter = openvino.opset13.parameter(result.partial_shape, result.element_type)
        parameter.output(0).set_names({name})
        for user in list(result.get_target_inputs()):
            user.replace_source_output(parameter.output(0))
        parameters.append(parameter)
    return openvino.Model([openvino.opset13.result(source)], parameters, output)


def _core() -> Any:
    """Return the process's only core, which is never dropped.

    A core that compiles gives its thread another stack for signals, and puts the one before back
    when it is dropped. Of two cores the later would put back the stack that the earlier has
    unmapped, and the next signal that Python handles would end the process.
    """
    with _ONE_AT_A_TIME:
        return _only_core()


@functools.cache
def _only_core() -> Any:
    return _openvino().Core()


def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports each import to its maker."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # not to be found
    import openvino

    return openvino
