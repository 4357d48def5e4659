"""What every trainer says of its options."""

from __future__ import annotations

import argparse
import importlib

import pytest

MODULES = (
    "compare_semi", "compare_semiseg", "covid1920", "domain_generalization", "kshot", "phantoms",
    "pseudolabel", "semiseg", "semiseg_pseudolabel", "supervised", "task1", "task2", "task3",
    "transfer",
)  # fmt: skip


class Asked(Exception):
    """Raised with the parser that is about to read a command line."""


@pytest.mark.parametrize("name", MODULES)
def test_every_option_has_its_help(name, monkeypatch):
    def stop(parser, *words):
        raise Asked(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    with pytest.raises(Asked) as asked:
        importlib.import_module(f"covidseg.trainers.{name}").main([])
    parser = asked.value.args[0]
    assert parser.format_help()
    assert [one.option_strings for one in parser._actions if not one.help] == []
