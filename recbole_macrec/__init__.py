"""Generative sequential recommendation with multimodal semantic IDs, as models for RecBole.

Importing this package makes RecBole 1.2 work with current libraries and registers the models with RecBole.
"""
from recbole_macrec.utils.interrupts import end_commands_at_once

end_commands_at_once()
try:
    from recbole_macrec import compat

    compat.apply()

    from recbole_macrec import plugin  # needs the repaired RecBole

    plugin.register()

    from recbole_macrec.baselines import SASRecPerUser
    from recbole_macrec.errors import UserError
    from recbole_macrec.model import TIGER, MACRec, MMGRec, MQL4GRec
    from recbole_macrec.plugin import register_model
    from recbole_macrec.recommend import Recommender
except ModuleNotFoundError as error:
    from recbole_macrec.utils.requirements import missing_library

    raise missing_library(error) from None

__version__ = "0.1.0"
__all__ = ["MACRec", "MMGRec", "MQL4GRec", "Recommender", "SASRecPerUser", "TIGER", "UserError", "register_model"]
