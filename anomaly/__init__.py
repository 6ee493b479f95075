"""The science: arrays and tensors in, arrays and tensors out.

This package knows no HTTP, flags or logging set-up. Read `anomaly.detector` first: its
`Detector.detect_canvases` is the flow in four steps.
"""

import os

# Nobody outside learns what a plant inspects. These libraries send usage data, names of models
# among them, and leave an identifier on the disk, unless they are told not to before they are
# imported.
for _silence in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_silence, "1")
