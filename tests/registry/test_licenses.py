"""What parents' licences say about a merge."""

import pytest

from registry.licenses import conflict, forbids_merging, is_known, suggest, warnings


@pytest.mark.parametrize(
    ("names", "suggested"),
    [
        (["mit"], "mit"),
        (["MIT", "apache-2.0"], "apache-2.0"),
        (["cc0-1.0", "mit", "cc-by-4.0"], "cc-by-4.0"),
        (["mit", "GPL-3.0-or-later"], "gpl-3.0"),
        (["GPL-2.0-or-later", "gpl-3.0-only"], "gpl-3.0"),
        (["gpl-3.0", "agpl-3.0", "lgpl-3.0-only", "mpl-2.0"], "agpl-3.0"),
        (["cc-by-sa-4.0", "gpl-3.0"], "gpl-3.0"),
        (["cc-by-4.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["cc-by-nc-4.0", "cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0"),
        (["apache-2.0", "llama3.1"], "llama3.1"),
        (["llama3.1", "cc-by-nc-4.0"], "other"),
        (["acme-eula"], "acme-eula"),
        (["mit", "acme-eula"], ""),
        (["mit", ""], ""),
        (["gpl-3.0", "cc-by-nc-4.0"], ""),
        ([], ""),
    ],
)
def test_the_suggestion_covers_every_parent(names: list[str], suggested: str) -> None:
    assert suggest(names) == suggested
    assert suggest(reversed(names)) == suggested


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("gpl-2.0", "apache-2.0"),
        ("gpl-2.0-only", "gpl-3.0-only"),
        ("gpl-3.0", "cc-by-nc-4.0"),
        ("cc-by-sa-4.0", "cc-by-nc-sa-4.0"),
        ("llama3.1", "gpl-3.0"),
        ("llama3.1", "gemma"),
        ("creativeml-openrail-m", "agpl-3.0"),
    ],
)
def test_what_does_not_go_together(first: str, second: str) -> None:
    assert conflict(first, second)
    assert conflict(second, first)


@pytest.mark.parametrize(("first", "second"), [("mit", "gpl-3.0"), ("gemma", "cc-by-nc-4.0"), ("mit", "acme-eula")])
def test_what_does_or_may(first: str, second: str) -> None:
    assert not conflict(first, second)
    assert not conflict(second, first)


def test_no_derivatives_is_no_merge() -> None:
    assert forbids_merging("CC-BY-NC-ND-4.0")
    assert not forbids_merging("cc-by-nc-sa-4.0")
    assert not forbids_merging("")
    assert is_known("openrail++")
    assert not is_known("other")


def test_warnings_name_the_parents_and_their_licences() -> None:
    assert list(warnings({"ada/a": "mit", "ada/b": "apache-2.0"})) == []
    assert list(warnings({"ada/a": "", "ada/b": ""})) == []
    [conflicting, unknown] = warnings({"ada/a": "gpl-3.0", "ada/b": "cc-by-nc-4.0", "ada/c": ""})
    assert conflicting["code"] == "license_conflict"
    for text in ("ada/a", "gpl-3.0", "ada/b", "cc-by-nc-4.0"):
        assert text in conflicting["message"]
    assert unknown == {
        "code": "license_unknown",
        "message": "Whether these licences allow a merge with the others is not known here: ada/c (none stated).",
    }
