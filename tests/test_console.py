"""What a person reads in a terminal: lines that end at words, stand under their heading, and lose nothing."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
from typer.testing import CliRunner

from demur.monitor.cli.console import fail, grid, note, out, say
from demur.monitor.cli.main import app


@pytest.fixture
def terminal(monkeypatch):
    """Sets the width that everything printed from here on keeps to, None for a pipe."""

    def wide(columns: int | None) -> None:
        out.cache_clear()
        if columns is None:
            monkeypatch.delenv("COLUMNS", raising=False)
        else:
            monkeypatch.setenv("COLUMNS", str(columns))

    yield wide
    out.cache_clear()


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize("seed", range(5))
def test_lines_break_where_the_standard_library_breaks_them(terminal, capsys, columns, seed):
    rng = np.random.default_rng(seed)
    words = [
        "".join(rng.choice(list("abc-/.=[]"), size))
        for size in rng.integers(1, columns + 20, 60) // rng.integers(1, 9, 60) + 1
    ]
    terminal(columns)
    note(text := " ".join(words))
    said = capsys.readouterr().out.splitlines()
    inner = columns - len("note  ")
    expected = textwrap.wrap(text, inner, break_long_words=False, break_on_hyphens=False)
    assert said == [("note  " if not i else "      ") + line for i, line in enumerate(expected)]


def test_paths_and_commands_stay_on_one_line_and_a_paragraph_stays_one(terminal, capsys):
    terminal(40)
    path, command = "/srv/" + "bundles/" * 8 + "digits.demur", "`demur fit monitor.yaml --reference ref.npz`"
    say(f"what is in {path} is old; run {command} and so on\n\nthe [bold]second[/] part", "[red]bad[/]  ")
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "bad  what is in",
        f"     {path}",
        "     is old; run",
        f"     {command}",
        "     and so on",
        "",
        "     the second part",
    ]


def test_wide_characters_count_twice(terminal, capsys):
    terminal(40)
    say("字" * 10 + " " + "字" * 10 + " end")
    assert capsys.readouterr().out.splitlines() == ["字" * 10, "字" * 10 + " end"]


def test_what_goes_into_a_pipe_has_whole_lines(terminal, capsys):
    terminal(None)
    text = "word " * 60 + "end"
    say(text)
    fail(ValueError(text))
    told = capsys.readouterr()
    assert told.out == f"{text}\n"
    assert told.err == f"refused  {text}\n"


def test_an_error_stands_under_its_heading_as_it_is_written(terminal, capsys):
    terminal(30)
    fail(ValueError("[red] is what a file was named, and nobody can read it"))
    assert capsys.readouterr().err.splitlines() == [
        "refused  [red] is what a file",
        "         was named, and nobody",
        "         can read it",
    ]


@pytest.mark.parametrize("columns", [60, 80])
def test_the_doctor_fits_a_terminal(terminal, columns):
    terminal(columns)
    told = CliRunner().invoke(
        app, ["doctor", "--config", "/no/such/place/of/a/configuration/in/this/machine/demur.yaml"]
    )
    lines = told.output.splitlines()
    assert any(line.startswith("bad  ") for line in lines)
    for line in lines:
        assert len(line) <= columns or " " not in line[5:], line
        assert line.startswith(("good ", "note ", "bad  ", "     "))


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_table_loses_no_letter(terminal, capsys, columns):
    terminal(columns)
    rows = [("mahalanobis", "0.123456789"), ("calibration/scores/fused.npy", "9876543210")]
    shown = grid("what it is called", "measured")
    for row in rows:
        shown.add_row(*row)
    out().print(shown, soft_wrap=False)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= columns
    assert sorted(said.replace(" ", "").replace("\n", "")) == sorted(
        "".join(["whatitiscalled", "measured", *map("".join, rows)])
    )
