"""The LitServe interface of `bench.servers`; its workers want an importable class."""

from typing import Any

import litserve
from fastapi import Request

from bench.scorer import Scorer


class Api(litserve.LitAPI):
    """Decodes, batches and scores the `file` of multipart bodies."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.scorer = Scorer()

    def decode_request(self, request: Request) -> Any:
        """Decode one image."""
        return self.scorer.decode(request["file"].file.read())

    def batch(self, inputs: Any) -> Any:
        """Keep decoded images as a list."""
        return inputs

    def predict(self, works: Any) -> list[float]:
        """Score a batch."""
        return self.scorer.run(works if isinstance(works, list) else [works])

    def unbatch(self, output: Any) -> Any:
        """Keep scores as a list."""
        return output

    def encode_response(self, output: Any) -> dict[str, float]:
        """Answer with the score."""
        return {"score": float(output)}
