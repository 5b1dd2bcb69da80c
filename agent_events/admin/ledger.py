"""The ledger in the admin: which batches there are, when they were closed and what they hold."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from agent_events import history
from agent_events.admin import ledger_looks
from agent_events.admin.forms import LedgerForm
from agent_events.admin.read_only import ReadOnlyAdmin
from agent_events.models import AgentEvent, Batch


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    """The ledger, read-only: appends write it."""

    list_template = "agent_events/admin/ledger.html"
    change_form_template = "agent_events/admin/one.html"
    fields = ("n", "closed_at_text", "events_text", "total_text", "running_text", "seen_text")
    readonly_fields = fields

    def listed(self, request: HttpRequest) -> dict[str, Any]:
        """A page of the ledger."""
        form = LedgerForm(request.GET)
        context: dict[str, Any] = {
            "form": form,
            "sees_events": self.may_view(request, AgentEvent),
        }
        if not form.is_valid():
            return context
        asked = form.cleaned_data
        before = asked["before"]
        if before is None and asked["batch"] is not None:
            before = asked["batch"] + 1
        if before is None and asked["until"] is not None:
            before = history.since(int(asked["until"].timestamp() * 1000)).position.batch
        look = ledger_looks.page(before=before, after=asked["after"] if before is None else None)
        return context | {
            "rows": look.rows,
            "older": look.older is not None and self.list_url(before=look.older),
            "newer": look.newer is not None and self.list_url(after=look.newer),
            "newest": self.list_url() if look.newer is not None else None,
        }

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """The batch, with its number of events as `row`."""
        found: Any = super().get_object(request, object_id, from_field)
        if found is not None:
            found.row = ledger_looks.row_of(found)
        return found

    def ways(self, request: HttpRequest, row: Any) -> list[tuple[Any, str]]:
        """Its events, and the batches before it."""
        ways: list[tuple[Any, str]] = []
        if self.may_view(request, AgentEvent) and row.row.events and not row.row.pruned:
            ways.append((_("Its events"), self.list_url(AgentEvent, batch=row.n)))
        ways.append((_("The ledger from here"), self.list_url(batch=row.n)))
        return ways

    @admin.display(description=_("closed at"))
    def closed_at_text(self, batch: Any) -> str:
        """To the microsecond: it rises with n by a millisecond at least."""
        return str(timezone.localtime(batch.closed_at))

    @admin.display(description=_("events"))
    def events_text(self, batch: Any) -> str:
        """How many events it holds, or held."""
        if batch.row.events is None:
            return str(_("Not known: the ledger's row before it is gone."))
        return f"{batch.row.events:,}" + (f" ({_('pruned')})" if batch.row.pruned else "")

    @admin.display(description=_("events up to and with it"))
    def total_text(self, batch: Batch) -> str:
        """The ledger's running total."""
        return f"{batch.total:,}"

    @admin.display(description=_("transactions open then"))
    def running_text(self, batch: Batch) -> str:
        """They come in later batches."""
        return f"{len(batch.running):,}"

    @admin.display(description=_("snapshot"))
    def seen_text(self, batch: Batch) -> str:
        """As PostgreSQL writes it, `xmin:xmax:running`."""
        return str(batch.seen)
