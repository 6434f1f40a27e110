"""Pictures of every page in every state, light and dark, at a desk and on a phone; each page is also judged.

The pictures are written to $GALLERY, by default `gallery/`, to be looked at after a change.
"""

import pytest

from tests.journeys.gallery.camera import Camera, faults
from tests.journeys.gallery.sites import Scene
from tests.journeys.gallery.states import STATES, State

# Colours do not depend on the width, nor layout on the colours: two of the four are enough, and axe takes its time.
JUDGED = {(1280, "light"), (390, "dark")}
pytestmark = [pytest.mark.journey, pytest.mark.browser]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("state", STATES, ids=str)
def test_page(request: pytest.FixtureRequest, camera: Camera, state: State, width: int) -> None:
    """No fault in markup, layout, console, network or accessibility, in either colour scheme."""
    scene = request.getfixturevalue(state.site)
    with camera.visit(scene, state, width) as (page, watch):
        found = faults(page)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            camera.shoot(page, f"{state}-{width}-{scheme}")
            if (width, scheme) in JUDGED:
                found += [f"{scheme}: {violation}" for violation in camera.violations(page)]
        found += watch.problems
    assert not found, "\n".join(found)


def test_the_page_of_the_api_is_drawn_from_this_host_alone(empty: Scene, camera: Camera) -> None:
    """Swagger UI is not ours to judge by axe, but it must be there, without a request to anybody else."""
    with camera.visit(empty, State("api", "docs", "empty", "/api/v1/docs/"), 1280) as (page, watch):
        page.get_by_text("/api/v1/retrieve/").first.wait_for()
        camera.shoot(page, "api-docs-1280-light")
    assert not watch.problems
