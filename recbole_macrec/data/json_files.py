"""Read JSON files of users."""
import json
from pathlib import Path

from recbole_macrec.data.features import duplicates, format_items
from recbole_macrec.errors import UserError


def read_json_object(path: Path) -> dict:
    """Read a JSON file with one object; raise UserError for repeated keys, which ``json`` ignores."""
    def to_dict(pairs: list[tuple]) -> dict:
        repeated = duplicates(key for key, _ in pairs)
        if repeated:
            raise UserError(f"{path} has {format_items(repeated, 'key')} more than once; keep one entry each")
        return dict(pairs)

    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=to_dict)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON or UTF-8, or a number of thousands of digits
        raise UserError(f"{path} is not readable JSON ({error}); the file may be truncated, download it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} contains a {type(value).__name__}; expected a JSON object {{key: value}}")
    return value
