from __future__ import annotations

from pathlib import Path

import pytest
from pool_tools import shared_pool

from crayon import data
from crayon.adapters import Pool, find, find_pool, pool_names, user_pools_dir
from crayon.errors import AdapterError

SHIPPED = find.shipped_pools_dir  # before the fixture puts another in its place


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped pool `both` and one of the user's, another `both` of the user's, and `mine`."""
    monkeypatch.setattr(find, "shipped_pools_dir", lambda: tmp_path / "shipped")
    monkeypatch.setenv(find.DIRECTORY_VARIABLE, str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    for place, name in (("shipped", "both"), ("user", "both"), ("user", "mine")):
        shared_pool().save(tmp_path / place / name)
    (tmp_path / "user" / "no-pool").mkdir()
    return tmp_path


def test_names_are_those_of_folders_that_hold_a_pool() -> None:
    assert pool_names() == ("both", "mine")


def test_a_name_means_the_shipped_pool_first(places: Path) -> None:
    assert find_pool("both") == places / "shipped" / "both"
    assert find_pool("mine") == places / "user" / "mine"


def test_a_path_is_a_path(places: Path) -> None:
    shared_pool().save(places / "both")
    assert find_pool("./both").resolve() == places / "both"
    assert find_pool(places / "user" / "both") == places / "user" / "both"
    assert Pool.open(find_pool(str(places / "user" / "mine"))).id == shared_pool().id


def test_a_folder_here_is_found_by_its_name(places: Path) -> None:
    shared_pool().save(places / "here")
    assert find_pool("here").resolve() == places / "here"


@pytest.mark.parametrize("reference", ["nothing", "no-pool"])
def test_an_unknown_name_lists_the_known(reference: str) -> None:
    with pytest.raises(AdapterError, match=f"no pool '{reference}'; known: both, mine; a folder needs a path"):
        find_pool(reference)


@pytest.mark.parametrize("reference", ["./nothing", "../up", "/", "~nobody-here/pool", Path("nothing")])
def test_a_path_without_a_pool_is_refused(reference: str | Path) -> None:
    with pytest.raises(AdapterError, match="no such f"):
        Pool.open(find_pool(reference))


@pytest.mark.parametrize("reference", ["", "..", "Upper", "a\x00b", "x" * 200])
def test_what_is_no_name_is_refused(reference: str) -> None:
    with pytest.raises(AdapterError, match="the pool's name is"):
        find_pool(reference)


@pytest.mark.parametrize("reference", ["adapter_model.bin", "x/y.pt"])
def test_a_pickled_file_is_refused_by_name(reference: str) -> None:
    with pytest.raises(AdapterError, match="pickled"):
        find_pool(reference)


def test_without_a_setting_pools_lie_in_the_users_data(monkeypatch: pytest.MonkeyPatch, places: Path) -> None:
    monkeypatch.delenv(find.DIRECTORY_VARIABLE)
    monkeypatch.setenv("XDG_DATA_HOME", str(places / "data"))
    assert user_pools_dir().name == "pools"
    assert user_pools_dir().parent.name == "crayon"


def test_the_shipped_pools_lie_beside_the_data() -> None:
    assert Path(data.__file__).parent / "pools" == SHIPPED()


def test_no_folders_yet(monkeypatch: pytest.MonkeyPatch, places: Path) -> None:
    monkeypatch.setattr(find, "shipped_pools_dir", lambda: places / "none")
    monkeypatch.setenv(find.DIRECTORY_VARIABLE, str(places / "none"))
    assert pool_names() == ()
    with pytest.raises(AdapterError, match="known: none"):
        find_pool("x")
