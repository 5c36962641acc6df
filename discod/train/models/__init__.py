"""Models by name. A new model is one file and one line here."""

from __future__ import annotations

from discod.train.models import lenet, logreg, mlp, mlp_2nn
from discod.train.models.parts import Array, Model, Passage

__all__ = ["MODELS", "Array", "Model", "Passage"]

MODELS: dict[str, Model] = {
    "logreg": logreg.MODEL,
    "mlp": mlp.MODEL,
    "mlp-2nn": mlp_2nn.MODEL,
    "lenet": lenet.MODEL,
}
