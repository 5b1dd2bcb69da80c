"""The page and the history, for `include("agent_events.urls")` under any prefix.

The streams: routing.py.
"""

from django.urls import path

from agent_events import api, export_door, views

app_name = "agent_events"

urlpatterns = [
    path("", views.feed, name="feed"),
    path("api/agents/export", export_door.export, name="export"),
    path("api/agents/events", api.events, name="events"),
    path("api/agents/events/<path:event_id>", api.event, name="event"),  # JSON for any id
]
