"""The fast way through a CLIP: transformer blocks as functions of their weights."""

from copra_lab.engine.extraction import plain_text, plain_tower
from copra_lab.engine.text_encoder import Encoder, encode_texts
from copra_lab.engine.text_tower import TextTower
from copra_lab.engine.transformer import Tower

__all__ = ["Encoder", "TextTower", "Tower", "encode_texts", "plain_text", "plain_tower"]
