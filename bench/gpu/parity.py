"""Scores of the device beside those of the CPU."""

from bench.gpu.check import Check, Rows

_AGREES = 0.25  # of the good parts' spread: captured graphs compute in bfloat16


def parity(check: Check) -> Rows:
    """Score the same parts on the CPU and on the device, plainly and by captured graphs."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    from anomaly.bundle import load_bundle
    from anomaly.detector import Detector
    from anomaly.runtime import detector_of
    from training.data import open_dataset
    from training.decoding import STRICT

    bundle = load_bundle(check.model)
    assert bundle.calibration is not None
    test = open_dataset(check.parts).select("test")[:: 8 if check.small else 1]
    read = list(STRICT.on(bundle.model.config.preprocess.canvas).images(test))
    defective = np.array([not sample.is_normal for sample, _ in read])
    images = [image for _, image in read]

    def scores(detector: Detector, batch: int) -> np.ndarray:
        starts = range(0, len(images), batch)
        batches = [detector.detect(images[i : i + batch]) for i in starts]
        return np.array(
            [detection.pred_score for batch_detections in batches for detection in batch_detections]
        )

    on_cpu = scores(detector_of(bundle, "cpu", precision="fp32"), 1)
    spread = float(on_cpu[~defective].std())
    threshold = bundle.calibration.threshold
    staged = detector_of(bundle, check.device, staged=16)  # before what could overwrite its memory
    plain = Detector(bundle.model, bundle.calibration, check.device)
    ways = {f"plain, batches of {n}": scores(plain, n) for n in (1, 16)}
    ways |= {f"captured, batches of {n}": scores(staged, n) for n in (1, 3, 16)}
    bundle.model.cpu()
    rows = [
        {
            "against the CPU": name,
            "largest difference": float(abs(way_scores - on_cpu).max()),
            "of the good parts' spread": float(abs(way_scores - on_cpu).max()) / spread,
            "verdicts that differ": int(((way_scores > threshold) != (on_cpu > threshold)).sum()),
            "image AUROC": float(roc_auc_score(defective, way_scores)),
        }
        for name, way_scores in {"the CPU itself": on_cpu, **ways}.items()
    ]
    yield from rows
    worst = max(abs(way_scores - on_cpu).max() for way_scores in ways.values()) / spread
    if worst > _AGREES:
        raise SystemExit(f"scores differ by {worst:.2f} of the good parts' spread")
