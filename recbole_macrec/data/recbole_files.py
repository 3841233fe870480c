"""RecBole's own files: ``NAME.inter``, also as MMRec releases it, and benchmark files ``NAME.train.inter`` and so on."""
from __future__ import annotations

from pathlib import Path

from recbole_macrec.data import atomic
from recbole_macrec.data.atomic import check_tokens
from recbole_macrec.data.features import listing
from recbole_macrec.data.found import find_beside
from recbole_macrec.data.sources import Source, header_of, read_table, rows_of
from recbole_macrec.errors import UserError

PARTS = ("train", "valid", "test")


def read_inter(path: Path) -> Source:
    """Read ``NAME.inter`` of RecBole (``user_id:token ...``) or MMRec (``userID itemID rating timestamp x_label``).

    Token sequences of a ``NAME.item`` beside it become texts and its items the catalogue.
    """
    header = [column.split(":")[0].strip() for column in header_of(path, "\t")]
    source = read_table(path, header, "\t")
    if "x_label" in header:
        source.notes.append(f"the split in column x_label of {path.name} is not used: every model here splits leave-one-out")
    return _with_items(source, path.parent, path.name.removesuffix(".inter"))


def read_benchmark(train: Path) -> Source:
    """Read ``NAME.train.inter``, ``NAME.valid.inter`` and ``NAME.test.inter`` with a history ``item_id_list`` in every row.

    The interactions are put together from the rows, and leave-one-out splits them as the files do. UserError where that
    cannot be: rows of a user that contradict each other, or more than one row of a user for validation or for test.
    """
    name = train.name.removesuffix(".train.inter")
    use = f"use them as they are: --benchmark_filename=\"['train','valid','test']\" --data_path={train.parent.parent}"
    histories: dict[str, list[str]] = {}
    for part in PARTS:
        path, seen = train.with_name(f"{name}.{part}.inter"), set()
        header = [column.split(":")[0].strip() for column in header_of(path, "\t")]
        lacks = [column for column in ("user_id", "item_id_list", "item_id") if column not in header]
        if lacks:
            raise UserError(f"{path} has no column {lacks[0]} in its first line ({', '.join(header)}); expected user_id:token, "
                            "item_id_list:token_seq and item_id:token")
        user_at, past_at, item_at = (header.index(column) for column in ("user_id", "item_id_list", "item_id"))
        for line, row in rows_of(path, "\t", header):
            user, past, item = row[user_at].strip(), row[past_at].split(), row[item_at].strip()
            history = histories.setdefault(user, past[:])
            if history[len(history) - len(past):] != past:
                raise UserError(f"{path} line {line} gives user '{user}' another history than the lines before it, so the "
                                f"interactions can't be put together; {use}")
            if user in seen and part != "train":
                raise UserError(f"{path} has user '{user}' more than once, which leave-one-out would split otherwise; {use}")
            seen.add(user)
            history.append(item)
        if seen != set(histories):
            raise UserError(f"{path} lacks {listing(sorted(set(histories) - seen), 'user')} of the files before it, which "
                            f"leave-one-out would split otherwise; {use}")
    users = [user for user, history in histories.items() for _ in history]
    items = [item for history in histories.values() for item in history]
    if not items:
        raise UserError(f"{train} has no interactions; check the file")
    times = [float(place) for history in histories.values() for place in range(len(history))]
    catalogue = list(dict.fromkeys(items))
    check_tokens(list(histories), "user", train)
    check_tokens(catalogue, "item", train)
    source = Source(train, users, items, times, catalogue, {item: item for item in catalogue}, fixed=False)
    return _with_items(source, train.parent, name)


def _with_items(source: Source, folder: Path, name: str) -> Source:
    """Find features and IDs, and take catalogue and texts of ``NAME.item`` where there is one; UserError if it lacks items."""
    source.found, path = find_beside(source.path, name), folder / f"{name}.item"
    if not path.is_file():
        return source
    frame = atomic.read_items(folder, name)
    catalogue = frame["item_id"].tolist()
    check_tokens(catalogue, "item", path)
    known = set(catalogue)
    missing = [item for item in source.catalogue if item not in known]
    if missing:
        raise UserError(f"{path} lacks {listing(missing, 'item')} of {source.path.name}; give every item a row")
    texts = [column.split(":")[0] for column in header_of(path, "\t") if column.endswith(":token_seq")]
    source.catalogue, source.fixed = catalogue, True
    source.columns = {column: frame[column].tolist() for column in texts}
    numbered = sorted(catalogue, key=lambda item: (len(item), item)) == [str(i) for i in range(len(catalogue))]
    source.numbers = {item: item for item in catalogue} if numbered and catalogue == sorted(catalogue, key=int) else {}
    return source
