"""What the log's pages in the admin have in common: they only read, where the log is."""

from typing import Any, TypeVar
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.text import capfirst

from agent_events.conf import get_settings

M = TypeVar("M", bound=Model)


class LinkedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only in the stubs
    """Leads from a row's own page to the pages of other models, as far as somebody may open them.

    A subclass gives `ways`; its `change_form_template` shows them.
    """

    def ways(self, request: HttpRequest, row: Any) -> list[tuple[Any, str]]:
        """Where one goes on from a row's own page: what to call it, and its address."""
        raise NotImplementedError

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Model | None = None,
    ) -> HttpResponse:
        """With the ways on from it; a row that is being made has none."""
        if obj is not None:
            context = {**context, "ways": self.ways(request, obj)}
        return super().render_change_form(request, context, add, change, form_url, obj)

    def url(self, page: str, *args: Any, model: type[Model] | None = None) -> str:
        """The address of a page (`changelist`, `change`) of this model, or of another one."""
        opts = (model or self.model)._meta
        name = f"admin:{opts.app_label}_{opts.model_name}_{page}"
        return reverse(name, args=args, current_app=self.admin_site.name)

    def list_url(self, model: type[Model] | None = None, /, **query: Any) -> str:
        """The address of the list of this model, or of another one, with a query.

        A list is a name that is there several times.
        """
        url = self.url("changelist", model=model)
        return f"{url}?{urlencode(query, doseq=True)}" if query else url

    def may_view(self, request: HttpRequest, model: type[M]) -> bool:
        """Is there a page of this model here, and may they open it?"""
        site = self.admin_site
        return site.is_registered(model) and site.get_model_admin(model).has_view_permission(
            request
        )


class ReadOnlyAdmin(LinkedAdmin):
    """Shows rows to superusers and to staff with Django's view permission, and changes nothing.

    Deliberately without Django's ChangeList, whose paginator counts and skips rows: a subclass
    gives `listed` what its own `list_template` shows.
    """

    actions: Any = None
    list_template: str

    def listed(self, request: HttpRequest) -> dict[str, Any] | HttpResponse:
        """The context of the list, or an answer in its place."""
        raise NotImplementedError

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list; 403 without the view permission."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST" and self.actions:
            # (Where the action had nothing to do, the list says so.)
            done = self.response_action(request, self.get_queryset(request))
            return done or HttpResponseRedirect(request.get_full_path())
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD", *(["POST"] if self.actions else [])])
        found = self.listed(request)
        if isinstance(found, HttpResponse):
            return found
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": capfirst(self.opts.verbose_name_plural),
            "subtitle": None,
            "opts": self.opts,
            "media": self.media,
            **found,
            **(extra_context or {}),
        }
        response = TemplateResponse(request, self.list_template, context)
        response["Cache-Control"] = "no-store"
        return response

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Where the log is, whatever the routers say."""
        return super().get_queryset(request).using(get_settings().database)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody: producers insert events, and appends close batches."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the log does not change."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: pruning goes by batch, by command."""
        return False
