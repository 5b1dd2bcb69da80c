"""The README's pictures: there, small, told in words; and the story that they show is worth it."""

from __future__ import annotations

import re

from project.screenshot_story import FAILED, PAST_EVENTS, Story
from project.screenshots import FOLDER
from tests.support.database import ROOT

MOST_BYTES = 262_144


def test_the_pictures_of_the_readme_are_there_small_and_told_in_words() -> None:
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r'(?:src|srcset)="(docs/screenshots/[^"]+)"', text)
    assert shown
    for picture in shown:
        assert 10_000 < (ROOT / picture).stat().st_size < MOST_BYTES, picture
    assert all(re.search(r'alt="[^"]{30,}"', image) for image in re.findall(r"<img[^>]+>", text))


def test_no_picture_is_large_or_left_behind() -> None:
    names = {file.name for file in FOLDER.iterdir()}
    assert names == {
        f"{name}.png" for name in ("feed-light", "feed-dark", "phone", "run", "event", "bus")
    }
    assert all(file.stat().st_size < MOST_BYTES for file in FOLDER.iterdir())


def test_the_story_ends_where_people_are_needed_and_something_has_failed() -> None:
    told = Story().past()
    assert len(told) >= PAST_EVENTS
    last = {event.agent_id: event.event_type for _, event in told}
    assert list(last.values()).count("needs_human") >= 2
    assert set(last.values()) & set(FAILED)


def test_the_story_is_the_same_each_time() -> None:
    assert Story().past() == Story().past()
