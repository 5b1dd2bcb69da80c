"""The pages, for `include("agent_events.urls")` under any prefix. The streams: routing.py."""

from django.urls import path

from agent_events import views

app_name = "agent_events"

urlpatterns = [path("", views.feed, name="feed")]
