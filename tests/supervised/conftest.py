import pytest
import torch

from anomaly.mae import MaeConfig
from anomaly.model import AnomalyModel, ModelConfig
from anomaly.preprocess import PreprocessConfig
from anomaly.scoring import ScoringConfig
from anomaly.targets import TargetConfig
from supervised.bundle import SupervisedBundle
from supervised.encoder import Encoder
from supervised.tasks import SupervisedConfig, build_network

KINDS = ("good", "crack", "scratch")


def pretrained(**mae: object) -> AnomalyModel:
    """An autoencoder of pixels that nobody trained: 64 px, patches of 8."""
    sizes = {
        "width": 32,
        "depth": 3,
        "heads": 2,
        "decoder_width": 32,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "window": 8,
    }
    torch.manual_seed(0)
    config = ModelConfig(
        preprocess=PreprocessConfig(canvas=64),
        target=TargetConfig(kind="pixels", patch=8),
        mae=MaeConfig(**(sizes | mae)),
        scoring=ScoringConfig(families=("masked",), errors=("l2",)),
    )
    return AnomalyModel.fresh(config).eval()


@pytest.fixture
def bundle() -> SupervisedBundle:
    encoder = Encoder.pretrained(pretrained())
    config = SupervisedConfig("classification", KINDS, encoder.config)
    network = build_network(config, encoder).eval()
    torch.nn.init.normal_(network.head.weight)
    return SupervisedBundle("kinds", config, network, {"training": {"data": "drawn"}})
