"""Somebody else's page with opinions of its own, and two feeds on it."""

from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import path

from project.urls import urlpatterns as ours

HOST = """{% load agent_events %}<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="color-scheme" content="light dark"><title>Host</title>
<link rel="icon" href="/static/agent_events/favicon.svg">
{% agent_events_media %}</head>
<body data-cursor="{% agent_events_cursor %}"><h1>Host page</h1>
<div id="all">{% agent_events_feed tenant=request.GET.tenant %}</div>
<div id="errors">{% agent_events_feed tenant=request.GET.tenant types="error" rows=5 %}</div>
</body></html>"""


def host(request: HttpRequest) -> HttpResponse:
    """The page, under a Content-Security-Policy without anything inline."""
    page = engines["django"].from_string(HOST).render({}, request)
    return HttpResponse(page, headers={"Content-Security-Policy": "default-src 'self'"})


urlpatterns = [path("host/", host), *ours]
