"""What every page must keep to."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects what our rules for HTML are about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.fields: list[dict[str, str | None]] = []
        self.depth_in_label = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.inline += [f"{tag} {name}" for name in found if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in found and found.get("type") != "application/json"):
            self.inline.append(f"inline <{tag}>")
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag == "label":
            self.depth_in_label += 1
            self.labelled.add(found.get("for") or "")
        if tag in ("input", "select", "textarea") and found.get("type") != "hidden":
            named = self.depth_in_label or found.get("aria-label") or found.get("data-part")
            if not named:
                self.fields.append(found)

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self.depth_in_label -= 1

    @property
    def unlabelled(self) -> list[dict[str, str | None]]:
        return [field for field in self.fields if field.get("id") not in self.labelled]


def check_html(html: str) -> None:
    # Rows of the merge form get their ids, and so their labels, when a script adds them.
    page = Page(html.split('<template id="input-template">')[0])
    assert page.inline == []
    assert page.unlabelled == []
    assert len(page.ids) == len(set(page.ids))
