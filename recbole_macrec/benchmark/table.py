"""The side-by-side table of several runs: on the terminal, as markdown, as JSON."""
import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table


def rows(records: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and one row per record; a run that failed has its sentence in place of figures."""
    metrics = list(dict.fromkeys(name for record in records for name in record.get("test_result") or {}))
    metrics = [name for name in metrics if name != "ndcg@1" or "hit@1" not in metrics]  # equal for one target
    header = ["model", *metrics, "seconds", "parameters", "collisions"]
    body = []
    for record in records:
        if "error" in record:
            body.append([record["model"], *["failed"] * len(metrics), "", "", ""])
            continue
        collisions = ", ".join(
            f"{modality} {100 * statistics['collision_rate']:.2f}%"
            for modality, statistics in record["semantic_ids"].items()
            if statistics.get("collision_rate") is not None
        )
        figures = [f"{record['test_result'][name]:.4f}" if name in record["test_result"] else "" for name in metrics]
        body.append(
            [record["model"], *figures, f"{record['seconds']['total']:.1f}", f"{record['parameters']:,}", collisions]
        )
    return header, body


def print_table(records: list[dict], title: str) -> None:
    """Print the table to the terminal."""
    header, body = rows(records)
    table = Table(title=title)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i in (0, len(header) - 1) else "right", no_wrap=True)
    for row in body:
        table.add_row(*row)
    console = Console()
    needed = Console(width=1000).measure(table).maximum  # a narrow terminal or a pipe must not cut figures off
    Console(width=max(console.width, needed)).print(table)


def write_table(records: list[dict], title: str, folder: str | Path) -> list[Path]:
    """Write ``<dataset>-<time>.md`` and ``.json`` into ``folder`` and return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{records[0]['dataset']}-{time.strftime('%Y%m%d-%H%M%S')}"
    markdown = folder / f"{stem}.md"
    markdown.write_text(_markdown(records, title), encoding="utf-8")
    return [markdown, write_json({"title": title, "runs": records}, folder / f"{stem}.json")]


def write_json(content: dict, path: str | Path) -> Path:
    """Write ``content`` to ``path``, whose folder is made if missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _markdown(records: list[dict], title: str) -> str:
    header, body = rows(records)
    lines = [f"# {title}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    lines += [f"\n{record['model']} failed: {record['error']}" for record in records if "error" in record]
    done = next((record for record in records if "error" not in record), None)
    if done:
        machine, libraries = done["hardware"], done["versions"]
        lines += [
            "",
            f"Seed {done['seed']}; {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
            f"GPU: {', '.join(machine['gpus']) or 'none'}; "
            + ", ".join(f"{name} {version}" for name, version in libraries.items()),
        ]
    return "\n".join(lines) + "\n"
