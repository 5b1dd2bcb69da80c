"""The page of the bus in the admin: figures now, what is wrong, and the last ten minutes.

Whoever may view the ledger may see it. The page itself is a frame: it asks `figures` every two
seconds, which looks at the database for all viewers of this process at once.
"""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _

from agent_events.admin import bus_figures, bus_history
from agent_events.admin.bus_looks import latest_look
from agent_events.admin.read_only import ReadOnlyAdmin
from agent_events.models import Batch, Bus

CHARTS = (
    {
        "series": "events",
        "title": _("Events"),
        "unit": "events/s",
        "words": _("That came into a batch, from the ledger."),
    },
    {
        "series": "batches",
        "title": _("Batches"),
        "unit": "batches/s",
        "words": _("Closed by whichever process, from the ledger."),
    },
    {
        "series": "delay",
        "title": _("Handover"),
        "unit": "ms",
        "words": _("From a batch's close until a process has it: the slowest one that answers."),
    },
    {
        "series": "waiting",
        "title": _("Events behind"),
        "unit": "events",
        "words": _("Committed, and in no batch yet; 10,000 at most."),
    },
    {
        "series": "waiters",
        "title": _("Waiting to commit"),
        "unit": "sessions",
        "words": _("At once, for PostgreSQL's lock of notifying commits; of the whole server."),
    },
    {
        "series": "queue",
        "title": _("Notification queue"),
        "unit": "%",
        "words": _("How full PostgreSQL's is; past 50 % nothing is rung any more."),
    },
)
"""What is drawn: `series` is a key of the points that `bus_figures` gives."""

TABLES = (
    {
        "id": "listeners",
        "title": _("Listening processes"),
        "columns": (
            _("Process"),
            _("Connection"),
            _("Batch"),
            _("Behind"),
            _("Tenants"),
            _("Does"),
        ),
        "none": _("No process listens."),
    },
    {
        "id": "waiters",
        "title": _("Who waited to commit just now"),
        "columns": (_("Session"), _("Database"), _("Waited"), _("Whose")),
        "none": _("Nobody."),
    },
    {
        "id": "writers",
        "title": _("Open transactions that wrote events"),
        "columns": (_("Session"), _("Open for")),
        "none": _("None."),
    },
)


@admin.register(Bus)
class BusAdmin(ReadOnlyAdmin):
    """How the bus does. There are no rows: the list is the page."""

    list_template = "agent_events/admin/bus.html"

    def listed(self, request: HttpRequest) -> dict[str, Any]:
        """The frame of the page."""
        return {"charts": CHARTS, "tables": TABLES, "figures_url": self.url("figures")}

    def get_urls(self) -> list[URLPattern]:
        """The page and its figures, and no page of a row."""
        view = self.admin_site.admin_view
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        return [
            path("", view(self.changelist_view), name=f"{name}_changelist"),
            path("figures/", view(self.figures), name=f"{name}_figures"),
        ]

    def figures(self, request: HttpRequest) -> HttpResponse:
        """How the bus does now, as JSON; with `?history=1` the last ten minutes of the ledger."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        answer = bus_figures.answer(latest_look(), bus_history.closed_at)
        if request.GET.get("history"):
            answer["history"] = bus_figures.past(bus_history.course())
        return JsonResponse(answer, headers={"Cache-Control": "no-store"})

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may view the ledger: the bus has no permission of its own."""
        opts = Batch._meta
        return bool(request.user.has_perm(f"{opts.app_label}.view_{opts.model_name}"))
