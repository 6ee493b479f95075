"""The BentoML service of `bench.servers`; BentoML wants an importable class."""

import bentoml

from bench.scorer import BATCH, LANES, Scorer, from_base64


@bentoml.service(workers=LANES, traffic={"timeout": 120, "max_concurrency": 256})
class Scoring:
    """Scores base64 images, one or more a request, batched across requests."""

    def __init__(self) -> None:
        self.scorer = Scorer()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)
    def score(self, images: list[str]) -> list[float]:
        """Score images."""
        return self.scorer.run([self.scorer.decode(from_base64(text)) for text in images])
