"""The demo's output: animated on a terminal, plain lines elsewhere, and complete in both."""

import re
import sys
from io import StringIO

import pytest
from rich.console import Console

from demo.claims import Claim
from demo.screen import PlainScreen, Screen, TerminalScreen, screen_for_output
from demo.snapshot import Snapshot

LONG = f"kubectl --kubeconfig /{'long/' * 30}config get worklease -w"


def play(screen: Screen) -> None:
    screen.title("The demo", "What it does.")
    with screen.working("A server [really]"):
        pass
    with screen.watching():
        screen.show(Snapshot())
        screen.chapter(1, "A chapter", "Why it matters.")
        screen.command(LONG)
        screen.say("It [happened].")
        screen.claim(Claim("this is so"))
        screen.claim(Claim("that is so", "it was not"))
        screen.table(lambda: "$ kubectl get worklease\nNAME\nlease\n")
    screen.verdict("Over.", well=True)


def test_plain_lines_hold_everything_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    play(PlainScreen())
    output = re.sub(r"\(\d+\.\d s\)", "(a moment)", capsys.readouterr().out)
    assert output.splitlines() == [
        "The demo",
        "What it does.",
        "",
        "- A server [really] (a moment)",
        "",
        "1. A chapter",
        "   Why it matters.",
        f"   $ {LONG}",
        "   It [happened].",
        "   [ok] this is so",
        "   [FAILED] that is so",
        "            it was not",
        "   $ kubectl get worklease",
        "   NAME",
        "   lease",
        "",
        "Over.",
    ]


def test_a_terminal_shows_the_same_and_its_own_tables() -> None:
    output = StringIO()
    play(TerminalScreen(Console(file=output, force_terminal=True, color_system=None, width=80)))
    shown = output.getvalue()
    for text in ("The demo", "✔ A server [really]", "1  A chapter", "Why it matters.", "It [happened].", "Over."):
        assert text in shown
    assert "✔ this is so" in shown
    assert "✘ that is so" in shown
    assert "failed: it was not" in shown
    assert "$ kubectl get worklease" in shown
    assert "NAME\nlease" not in shown


def test_a_line_to_copy_is_never_broken() -> None:
    output = StringIO()
    TerminalScreen(Console(file=output, force_terminal=True, color_system=None, width=80)).command(LONG)
    assert LONG in output.getvalue()


def test_output_that_is_no_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdout", StringIO())
    assert isinstance(screen_for_output(), PlainScreen)
