"""The sites, and the browser with the camera, for as long as this folder's tests run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.journeys.browser import FLAGS, find_chromium
from tests.journeys.gallery.camera import Camera
from tests.journeys.gallery.sites import Scene, crowded_scene, empty_scene, filled_scene
from tests.journeys.server import ROOT


@pytest.fixture(scope="package")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with empty_scene(tmp_path_factory.mktemp("empty")) as scene:
        yield scene


@pytest.fixture(scope="package")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with filled_scene(tmp_path_factory.mktemp("filled")) as scene:
        yield scene


@pytest.fixture(scope="package")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with crowded_scene(tmp_path_factory.mktemp("crowded")) as scene:
        yield scene


@pytest.fixture(scope="package")
def camera() -> Iterator[Camera]:
    folder = Path(os.environ.get("GALLERY", ROOT / "gallery"))
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield Camera(browser, folder)
        browser.close()
