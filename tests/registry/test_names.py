"""Which names may be used."""

import pytest

from registry.errors import Invalid
from registry.names import check_tags, namespace_key, split_name


@pytest.mark.parametrize("name", ["ada/sql", "Ada-1/x_y.z", "a/b", "a" * 96 + "/" + "b" * 96])
def test_good_names_split(name):
    assert "/".join(split_name(name)) == name


@pytest.mark.parametrize(
    "name",
    ["ada", "ada/", "/x", "ada/x/y", "ada/../x", "ada/a..b", "ada/a--b", "ada/a-", "ada/a.", "ada/a.git", "ada/.x",
     "ada/x y", "ada/é", "ada/" + "b" * 97, "ada/x\n", "ada/x\0", "admin/x", "API/x", "Settings/x", "ada/../../etc",
     "\u0430da/x"],
)  # fmt: skip
def test_bad_and_reserved_names_are_refused(name):
    with pytest.raises(Invalid):
        split_name(name)


def test_confusable_namespaces_have_one_key():
    assert namespace_key("Ada_Lovelace") == namespace_key("ada-lovelace") == namespace_key("ADA.lovelace")


def test_tags_lose_blanks_and_repetitions():
    assert check_tags([" qa ", "qa", "sql"]) == ["qa", "sql"]


@pytest.mark.parametrize("tags", [[""], ["a\nb"], ['a"b'], ["x" * 81], [str(i) for i in range(51)]])
def test_bad_tags_are_refused(tags):
    with pytest.raises(Invalid):
        check_tags(tags)
