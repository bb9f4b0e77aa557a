"""What hangs at a run's end does not hold the run."""

from __future__ import annotations

import threading
import time

import pytest

from actors.cluster.teardown import bounded
from raypref.cli.ending import HANGING


def test_a_call_that_returns(caplog: pytest.LogCaptureFixture) -> None:
    called: list[int] = []
    assert bounded("the call", lambda: called.append(1))
    assert called == [1]
    assert caplog.text == ""


def test_a_call_that_raises_is_logged_and_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert bounded("the call", lambda: 1 / 0)
    assert "the call failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_call_that_hangs_is_left_behind_under_a_name_that_the_command_knows(caplog: pytest.LogCaptureFixture) -> None:
    over, began = threading.Event(), time.monotonic()
    assert not bounded("the call", over.wait, limit_s=0.1)
    assert time.monotonic() - began < 5
    assert "the call did not return within 0.1 s" in caplog.text
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith(HANGING))
    over.set()
    thread.join()
