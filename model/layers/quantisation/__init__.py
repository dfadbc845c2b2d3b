"""Training with 8-bit matrix products: int8 or 8-bit floats, full-precision masters.

    quantise_training(model, "int8")    # in place; None switches back

`int8.py` and `fp8.py` multiply two matrices, `linear.py` makes a differentiable linear map of that, `experts.py`
applies routed experts with it, `convert.py` switches a model. Figures are in docs/concepts/eight-bit.md.
"""

from model.layers.quantisation.convert import quantise_training
from model.layers.quantisation.linear import EightBitMode

__all__ = ["EightBitMode", "quantise_training"]
