"""Parts of a batch that fit into the cache.

Shapes: M rows (tokens), n users of a part, Q queries and S keys of a user.
"""
from collections.abc import Iterator

PART = 2**18  # maximum number of entries in a part's widest activation: 1 MB


def row_parts(count: int, width: int) -> list[slice]:
    """Split rows into parts whose activation of ``width`` has at most ``PART`` numbers."""
    rows = max(1, PART // width)
    return [slice(begin, min(begin + rows, count)) for begin in range(0, count, rows)]


def user_parts(groups: list[tuple[int, int, int]], width: int) -> Iterator[tuple[slice, slice, int, int, int]]:
    """Split users into parts with at most ``PART`` numbers in all heads of ``width``: rows of queries and keys, n, Q, S."""
    query = key = 0
    for users, queries, keys in groups:
        size = max(1, PART // (width * max(queries, keys)))
        for begin in range(0, users, size):
            n = min(size, users - begin)
            yield slice(query, query + n * queries), slice(key, key + n * keys), n, queries, keys
            query, key = query + n * queries, key + n * keys
