"""What a user costs against the number of items: where two costs meet, and a drawing of them."""
import math
from itertools import pairwise

from recbole_macrec.errors import UserError


def crossing(rows: list[dict], cost: str, other: str) -> int | None:
    """The number of items from which ``cost`` is below ``other``, on straight lines between the measured sizes in double
    logarithmic scale; None where the sizes do not tell it."""
    points = [(math.log(row["items"]), math.log(row[cost] / row[other])) for row in sorted(rows, key=lambda row: row["items"])]
    for (x, y), (next_x, next_y) in pairwise(points):
        if y > 0 >= next_y:
            return round(math.exp(x + (next_x - x) * y / (y - next_y)))
    return None


def plot_costs(rows: list[dict], costs: dict[str, str], path: str) -> None:
    """Draw milliseconds a user against items, a line for each of ``costs`` (name -> label), into ``path``.

    Raises:
        UserError: for a kind of file that matplotlib cannot write.
    """
    from matplotlib.figure import Figure  # imported late: it takes a second, and most commands draw nothing

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="items", ylabel="ms per user")
    for name, label in costs.items():
        axes.plot([row["items"] for row in rows], [row[name] for row in rows], marker="o", label=label)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--plot={path} can't be written ({' '.join(str(error).split())[:150]}); name a file such as costs.svg "
                        "in a folder that exists.") from None
