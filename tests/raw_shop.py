"""A small raw catalogue in Amazon's formats with all known defects, and a reference implementation of the filter."""
import gzip
import json
import random
from pathlib import Path

CATEGORY = "Musical_Instruments"
SHOP = "https://shop.example"


def write_2018(folder: Path, category: str = CATEGORY, unreviewed: int = 30, images_at: str = SHOP) -> Path:
    """Write ``CATEGORY.csv`` and ``meta_CATEGORY.json.gz`` with ``unreviewed`` items without reviews."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(2018)
    rows = [f"{item},{user},{rating}.0,{time}" for user, item, rating, time in _reviews(rng)]
    rows[5:5] = [
        "B0001,U1",
        "B0001,U1,five,1400000000",
        "B0001,U1,5.0,soon",
        ",U1,5.0,1400000000",
        "B0001,NA,5.0,1400000000",
        "",
        "B0001,U1,5.0,nan",
        "B\udcff1,U1,5.0,1400000000",
    ]
    (folder / f"{category}.csv").write_bytes("\n".join(rows).encode("utf-8", "surrogateescape") + b"\n")
    lines = []
    for item, text, images in _items(rng, unreviewed):
        fields = {"asin": item, "brand": "by\n    Acme & Sons", "category": ["Music", "Strings</span></span>", "junk"], **text}
        if images is not None:
            fields["imageURLHighRes"] = [url.replace(SHOP, images_at) for url in images]
        lines.append(repr(fields) if item.endswith("7") else json.dumps(fields))
    lines[3:3] = ['{"asin": "B0003", "title": "cut of', "[1, 2]", '{"title": "no id"}', "{'asin': __import__('os')}"]
    _write_gz(folder / f"meta_{category}.json.gz", lines)
    return folder


def write_2023(folder: Path, category: str = CATEGORY) -> Path:
    """Write ``CATEGORY.jsonl.gz`` and ``meta_CATEGORY.jsonl.gz``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(2023)
    lines = [json.dumps({"user_id": user, "parent_asin": item, "asin": f"{item}x", "rating": float(rating),
                         "timestamp": 1000 * time}) for user, item, rating, time in _reviews(rng)]
    lines[7:7] = ['{"user_id": "U1", "rating": 5.0}', "{", "null",
                  '{"user_id": "U\\ud83d", "asin": "B0001", "rating": 1, "timestamp": 1}',
                  '{"user_id": "U1", "asin": "B0001", "rating": [], "timestamp": 1}']
    _write_gz(folder / f"{category}.jsonl.gz", lines)
    lines = []
    for item, text, images in _items(rng, 30):
        sizes = [{"hi_res": url if i % 2 else None, "large": url, "thumb": "t"} for i, url in enumerate(images or [])]
        lines.append(
            json.dumps({"parent_asin": item, "store": "Acme & Sons", "categories": ["Music"], "images": sizes, **text})
        )
    _write_gz(folder / f"meta_{category}.jsonl.gz", lines + ['{"parent_asin": 7}'])
    return folder


def brute_force(reviews: list[tuple[str, str, float]], described: set[str], pictured: set[str], core: int):
    """Return the counts after each step and {user: [item, ...]}, by loops over (user, item, time) in the order of the file."""
    def counts(rows):
        return len({user for user, _, _ in rows}), len({item for _, item, _ in rows}), len(rows)

    steps, first = [counts(reviews)], {}
    for user, item, time in reviews:
        if (user, item) not in first or time < first[user, item]:
            first[user, item] = time
    rows = []
    for user, item, time in reviews:
        if first.get((user, item)) == time:
            rows.append((user, item, first.pop((user, item))))
    for part in (rows, [row for row in rows if row[1] in described], [row for row in rows if row[1] in described & pictured]):
        steps.append(counts(part))
    rows = part
    changed = True
    while changed:
        changed = False
        for place in (0, 1):
            for token in {row[place] for row in rows}:
                if sum(row[place] == token for row in rows) < core:
                    rows = [row for row in rows if row[place] != token]
                    changed = True
    histories = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):  # sorted is stable
        histories.setdefault(user, []).append(item)
    return [*steps, counts(rows)], histories


def read_2018(folder: Path, category: str = CATEGORY):
    """Return reviews, items with metadata and items with images, read without code of the package."""
    reviews, entries = [], []
    for line in (folder / f"{category}.csv").read_bytes().splitlines():
        try:
            item, user, rating, time = line.decode().split(",")
            float(rating)
            if item and user not in ("", "NA") and float(time) == float(time):
                reviews.append((user, item, float(time)))
        except ValueError:
            pass
    for line in gzip.open(folder / f"meta_{category}.json.gz", "rt"):
        try:
            fields = eval(line, {"__builtins__": {}}, {"null": None, "true": True, "false": False})  # the test's own file
            entries.append((fields["asin"], bool([url for url in fields.get("imageURLHighRes") or [] if url])))
        except Exception:  # whatever is wrong with a line
            pass
    return reviews, {item for item, _ in entries}, {item for item, image in entries if image}


def read_2023(folder: Path, category: str = CATEGORY):
    """Return reviews, items with metadata and items with images, read without code of the package."""
    reviews, entries = [], []
    for line in gzip.open(folder / f"{category}.jsonl.gz", "rt"):
        if line.count('"') == 16 and "[]" not in line:  # complete lines have at least seven strings
            fields = json.loads(line)
            reviews.append((fields["user_id"], fields["parent_asin"], fields["timestamp"]))
    for line in gzip.open(folder / f"meta_{category}.jsonl.gz", "rt"):
        fields = json.loads(line)
        if isinstance(fields["parent_asin"], str):
            entries.append((fields["parent_asin"], any(image["hi_res"] or image["large"] for image in fields["images"])))
    return reviews, {item for item, _ in entries}, {item for item, image in entries if image}


def _reviews(rng: random.Random):
    """Yield (user, item, rating, time). Times are days, so there are ties; some reviews are duplicates, some users and items
    rare."""
    for _ in range(900):
        user, item = int(60 * rng.random() ** 1.5), int(45 * rng.random() ** 1.5)
        time = 1_400_000_000 + 86_400 * rng.randrange(40)
        yield f"U{user}", f"B{item:04d}", rng.randrange(1, 6), time
        if rng.random() < 0.1:
            yield f"U{user}", f"B{item:04d}", rng.randrange(1, 6), time - 86_400 * rng.randrange(-3, 4)


def _items(rng: random.Random, unreviewed: int):
    """Yield (item, texts, images or None) of most reviewed items and of ``unreviewed`` other items; two occur twice."""
    for item in range(45 + unreviewed):
        token = f"B{item:04d}" if item < 45 else f"X{item:06d}"
        text = {"title": f"Guitar {item}", "description": ["<p>Made of <b>wo</b>od &amp; steel</p>", "Tab\there"]}
        if item % 10 == 1:
            del text["title"]
        if item % 10 == 2:
            text["title"] = "var aPageStart = (new Date()).getTime();"
        if item % 10 == 4:
            text = {"title": None, "description": []}
        images = {0: None, 5: [], 6: [""]}.get(item % 14, [f"{SHOP}/{token}-{i}.jpg" for i in range(1 + item % 2)])
        if item % 11 == 3 and item < 45:
            continue  # no metadata
        yield token, text, images
        if item in (5, 8):  # duplicates; the first entry of one has no image
            yield token, {"title": "Again"}, [f"{SHOP}/{token}-again.jpg"]


def _write_gz(path: Path, lines: list[str]) -> None:
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
