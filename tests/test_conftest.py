"""Which tests stay in one process when two share them."""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

from tests.conftest import ON_RANKS, group_of

TESTS = Path(__file__).parent


def test_modules_that_share_ranks_or_engines_have_one_process_each() -> None:
    """The ranks of ``benches`` would be started a second time in another process, and so would a recorded run."""
    modules = {path.stem: path.read_text() for path in (TESTS / "integration").glob("test_*.py")}
    assert modules.keys() >= ON_RANKS
    assert {name for name, text in modules.items() if "benches: Benches" in text} <= ON_RANKS
    assert {name for name, text in modules.items() if ": RecordedRun" in text} & ON_RANKS == set()
    groups = {name: group_of(f"tests/integration/{name}.py::test_it") for name in modules}
    assert set(groups.values()) == {"ranks", "engines", "quickstart"}
    assert groups["test_parity"] == groups["test_run"] == groups["test_overlap"] == "engines"


def test_what_starts_ray_elsewhere_stays_with_its_folder_and_the_rest_goes_anywhere() -> None:
    for folder in ("several_nodes", "chaos", "gpu"):
        assert group_of(f"tests/{folder}/test_a.py::test_b[c/d::e]") == folder
    assert group_of("tests/losses/test_dpo.py::test_b[c]") == "tests/losses/test_dpo.py::test_b[c]"


def test_the_scheduler_asks_for_the_group_by_that_name() -> None:
    """Another name in a later version of pytest-xdist would split the groups without a word."""
    assert "_split_scope" in vars(LoadScopeScheduling)
