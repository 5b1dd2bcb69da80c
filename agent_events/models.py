"""The log as Django sees it, and who belongs to which tenant."""

import uuid

from django.conf import settings
from django.core.validators import MinLengthValidator
from django.db import models
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Left, Now
from django.utils.translation import gettext_lazy as _


class Xid8Field(models.Field):  # type: ignore[type-arg]  # generic only in the stubs
    """PostgreSQL's `xid8`: which transaction wrote a row. Filled by the database alone."""

    def db_type(self, connection: object) -> str:
        """The column type."""
        return "xid8"


class SnapshotField(models.Field):  # type: ignore[type-arg]
    """PostgreSQL's `pg_snapshot`, as text: which transactions were finished at a moment."""

    def db_type(self, connection: object) -> str:
        """The column type."""
        return "pg_snapshot"


class CurrentTransactionId(models.Func):
    """`pg_current_xact_id()`: the id of the transaction at work."""

    function = "pg_current_xact_id"
    template = "%(function)s()"
    output_field = Xid8Field()


HUMAN_TYPES = ("needs_human", "escalation", "human.answered")
"""Questions to people, and their answers."""
RUN_ENDS = ("run.finished", "run.failed")


class AgentEvent(models.Model):
    """One event: a row of the log. Rows are inserted and read, never changed.

    A tenant id need not name a `Tenant`: the log takes what producers write. The order of the
    log is the ledger's (`agent_event_batches`), not that of `id` or `created_at`.
    """

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.UUIDField(_("tenant"))
    agent_id = models.UUIDField(_("agent"))
    event_type = models.TextField(
        _("type"), max_length=200, validators=[MinLengthValidator(1)], db_index=False
    )
    payload = models.JSONField(_("payload"))
    created_at = models.DateTimeField(_("created at"), db_default=Now())
    tx = Xid8Field(_("transaction"), db_default=CurrentTransactionId(), editable=False)

    class Meta:
        db_table = "agent_events"
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ("-id",)
        # (The other two are made with the table; sql/tables.sql.) Both are for `agents_now`: who
        # waits for a person, and has their run ended since? Cut, for an entry of an index has a
        # limit, and no INSERT fails for its payload.
        indexes = (
            models.Index(
                fields=["tenant_id", "tx", "id"],
                name="agent_events_human",
                condition=models.Q(event_type__in=list(HUMAN_TYPES)),
            ),
            models.Index(
                models.F("tenant_id"),
                Left(KeyTextTransform("run_id", "payload"), 200),
                name="agent_events_run_end",
                condition=models.Q(event_type__in=list(RUN_ENDS)),
            ),
        )

    def __str__(self) -> str:
        return f"{self.event_type} #{self.pk}"


class EventKey(models.Model):
    """A key that an event came with: whatever comes with it again is not written again.

    Nothing here reads it through Django. It is a model so that Django's `flush`, which is what
    empties tables between tests, leaves no key behind of an event that is gone.
    """

    pk = models.CompositePrimaryKey("tenant_id", "key")
    tenant_id = models.UUIDField()
    key = models.TextField()
    event_id = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "agent_event_keys"
        default_permissions = ()

    def __str__(self) -> str:
        return f"key of #{self.event_id}"


class Batch(models.Model):
    """A row of the ledger: the snapshot at which batch n was closed. docs/ledger.md explains it.

    Deliberately not managed: Django's `flush` would TRUNCATE it, which a trigger refuses.
    """

    n = models.BigIntegerField(_("batch"), primary_key=True)
    seen = SnapshotField(_("snapshot"))
    total = models.BigIntegerField(_("events up to and with it"))
    closed_at = models.DateTimeField(_("closed at"))

    class Meta:
        managed = False
        db_table = "agent_event_batches"
        verbose_name = _("batch")
        verbose_name_plural = _("ledger")
        default_permissions = ("view",)
        ordering = ("-n",)

    def __str__(self) -> str:
        return f"batch {self.n}"

    @property
    def running(self) -> list[int]:
        """The transactions that were open when it was closed."""
        return [int(tx) for tx in str(self.seen).split(":")[2].split(",") if tx]


class Bus(Batch):
    """No rows of its own: the page of the admin that says how the bus does."""

    class Meta:
        proxy = True
        verbose_name = _("bus")
        verbose_name_plural = _("bus")
        default_permissions = ()


class Tenant(models.Model):
    """A customer or project whose events are kept apart from everybody else's."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("name"), max_length=200, unique=True)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    members = models.ManyToManyField(
        settings.AUTH_USER_MODEL, through="Membership", related_name="agent_events_tenants"
    )

    class Meta:
        verbose_name = _("tenant")
        verbose_name_plural = _("tenants")
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """A user may see the events of a tenant."""

    tenant = models.ForeignKey(Tenant, models.CASCADE)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="agent_events_memberships"
    )

    class Meta:
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        constraints = (
            models.UniqueConstraint(fields=("tenant", "user"), name="agent_events_one_membership"),
        )

    def __str__(self) -> str:
        return f"{self.user} in {self.tenant}"


class ApiKey(models.Model):
    """A key of one tenant, for programs. The key itself is shown once and stored nowhere.

    A revoked key stays, to say whose it was; nothing makes it a living one again.
    """

    tenant = models.ForeignKey(
        Tenant, models.CASCADE, verbose_name=_("tenant"), related_name="api_keys"
    )
    name = models.CharField(_("name"), max_length=200)
    prefix = models.CharField(_("prefix"), max_length=8, unique=True, editable=False)
    hash = models.CharField(_("hash"), max_length=64, editable=False)
    may_publish = models.BooleanField(_("may publish"), default=False)
    may_subscribe = models.BooleanField(_("may subscribe"), default=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
        verbose_name=_("created by"),
    )
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used at"), null=True, editable=False)
    revoked_at = models.DateTimeField(_("revoked at"), null=True, editable=False)

    class Meta:
        db_table = "agent_event_api_keys"
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ("-created_at", "-id")

    def __str__(self) -> str:
        return f"{self.name} (ae_{self.prefix}_...)"


class SpentTicket(models.Model):
    """A ticket that was used, so that no process takes it again; a row goes once it has expired."""

    id = models.CharField(primary_key=True, max_length=32)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        db_table = "agent_event_spent_tickets"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.id)
