"""Models to and from Hugging Face's format: Llama, Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, DeepSeek-V2 and -V3.

`load` reads what transformers' `save_pretrained` writes, `locate` says where each tensor is in it, and `save` writes
what its `from_pretrained` reads; `transformers` itself is not needed. A model that the other side cannot represent is
refused with `UnsupportedModel`. How families are described is in `model/hf/families/family.py`, what cannot be
represented in docs/reference/hugging-face.md.
"""

from model.hf.errors import UnsupportedModel
from model.hf.families.registry import FAMILIES
from model.hf.folder import load, locate, save, to_transformer

__all__ = ["FAMILIES", "UnsupportedModel", "load", "locate", "save", "to_transformer"]
