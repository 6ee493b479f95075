"""The science: arrays and tensors in, arrays and tensors out.

This package knows no HTTP, flags, environment or logging set-up. Read `anomaly.detector` first: its
`Detector.detect` is the whole flow in one function.
"""
