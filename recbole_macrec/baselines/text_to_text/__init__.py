"""Text-to-text baselines: language models that read a history as text and generate the ID of the next item."""
from recbole_macrec.baselines.text_to_text.lcrec import LCRec
from recbole_macrec.baselines.text_to_text.p5 import P5
from recbole_macrec.baselines.text_to_text.vip5 import VIP5

__all__ = ["LCRec", "P5", "VIP5"]
