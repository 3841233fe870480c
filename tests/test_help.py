"""``--help`` of the commands: plain text, and a description of every option."""
import argparse

import pytest

from recbole_macrec.benchmark import __main__ as benchmark
from recbole_macrec.benchmark.compare import run_command as run
from recbole_macrec.commands import data
from recbole_macrec.recommend import __main__ as recommend

COMMANDS = {
    "run_recbole_macrec.py": (run.main, []),
    "recommend": (recommend.main, []),
    "benchmark": (benchmark.main, []),
    **{f"benchmark {name}": (benchmark.main, [name]) for name in benchmark.COMMANDS},
    "data": (data.main, []),
    **{f"data {name}": (data.main, [name]) for name in ("prepare", "import", "encode", "images", "toy")},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_every_option_without_markup(name, capsys, monkeypatch):
    parsers, format_help = [], argparse.ArgumentParser.format_help
    monkeypatch.setattr(argparse.ArgumentParser, "format_help", lambda self: parsers.append(self) or format_help(self))
    main, arguments = COMMANDS[name]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--help"])
    assert "`" not in capsys.readouterr().out
    [parser] = parsers
    assert parser.description
    commands = argparse._SubParsersAction  # described by their own help
    assert [action.dest for action in parser._actions if not action.help and not isinstance(action, commands)] == []
