"""Stream tokens and tickets: what they show, whose they are, and when they end."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connection, connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agent_events import keys, members, tokens
from agent_events.errors import AgentEventsError, NotSignedIn, RightLacking, TooLarge, UnknownTenant
from agent_events.filters import Filter
from agent_events.models import ApiKey, Membership, SpentTicket, Tenant
from agent_events.principals import Principal, Right, TenantRef
from tests.support import Server, make_tenant, wait_until
from tests.support.keys import make_key

pytestmark = pytest.mark.django_db(transaction=True)

ALL = Filter()
AGENT = str(uuid.uuid4())


@pytest.fixture
def acme() -> Tenant:
    return Tenant.objects.create(name="Acme")


@pytest.fixture
def other() -> Tenant:
    return Tenant.objects.create(name="Other")


def of_key(tenant: Tenant, *rights: Right, **fields: Any) -> Principal:
    _, text = keys.create(tenant, "backend", rights or [Right.SUBSCRIBE], **fields)
    return keys.principals([text])[text]


def of_user(user: Any) -> Principal:
    return members.principals_of([user])[user.pk]


def member(tenant: Tenant, name: str = "mara") -> Any:
    user = get_user_model().objects.create_user(name)
    Membership.objects.create(tenant=tenant, user=user)
    return user


def found(text: str) -> Principal | None:
    return tokens.principals([text]).get(text)


def ticketed(text: str, *, spend: bool = True) -> Principal | AgentEventsError:
    return tokens.ticket_principals([text], spend=spend)[text]


# Tokens


def test_a_token_shows_one_tenant_of_who_made_it(acme: Tenant, other: Tenant) -> None:
    user = member(acme)
    Membership.objects.create(tenant=other, user=user)
    root = get_user_model().objects.create_superuser("root")
    for maker in (of_key(acme, *keys.RIGHTS), of_user(user), of_user(root)):
        made = tokens.make_token(maker, acme.id, ALL, 60)
        assert tokens.is_token(made.text)
        principal = found(made.text)
        assert principal is not None
        assert principal.rights == {Right.SUBSCRIBE}
        assert principal.choose([]) == (str(acme.id),)
        assert [tenant.name for tenant in principal.named] == ["Acme"]
        assert (principal.everything, principal.issuer) == (False, maker.id)
        assert not principal.may_see(other.id)
        assert made.expires_at == pytest.approx(time.time() + 60, abs=5)
        assert made.text not in repr(made)


def test_a_superusers_token_may_be_of_a_tenant_without_a_name() -> None:
    root = of_user(get_user_model().objects.create_superuser("root"))
    unnamed = uuid.uuid4()
    principal = found(tokens.make_token(root, unnamed, ALL, 60).text)
    assert principal is not None
    assert principal.may_see(unnamed)


def test_a_token_is_limited_to_agents_and_types(acme: Tenant) -> None:
    wanted = Filter.of([AGENT], ["tool.*"])
    principal = found(tokens.make_token(of_key(acme), acme.id, wanted, 60).text)
    assert principal is not None
    assert principal.filter(ALL) == wanted
    with pytest.raises(RightLacking, match="agent"):
        principal.filter(Filter.of([str(uuid.uuid4())]))


def test_nobody_gives_what_is_not_theirs(acme: Tenant, other: Tenant) -> None:
    with pytest.raises(UnknownTenant):
        tokens.make_token(of_key(acme), other.id, ALL, 60)
    with pytest.raises(RightLacking, match="'subscribe'"):
        tokens.make_token(of_key(acme, Right.PUBLISH), acme.id, ALL, 60)
    limited = replace(of_key(acme), only=Filter.of(types=["tool.*"]))
    with pytest.raises(RightLacking, match="type"):
        tokens.make_token(limited, acme.id, Filter.of(types=["run.*"]), 60)
    within = found(tokens.make_token(limited, acme.id, ALL, 60).text)
    assert within is not None
    assert within.only == Filter.of(types=["tool.*"])


def test_a_token_makes_no_token(acme: Tenant) -> None:
    principal = found(tokens.make_token(of_key(acme), acme.id, ALL, 60).text)
    assert principal is not None
    with pytest.raises(RightLacking, match="cannot make tokens"):
        tokens.make_token(principal, acme.id, ALL, 60)


def test_a_token_ends_when_it_says_and_with_its_key_at_the_latest(acme: Tenant) -> None:
    maker = of_key(acme, expires_at=timezone.now() + timedelta(seconds=30))
    made = tokens.make_token(maker, acme.id, ALL, 3600)
    assert made.expires_at == maker.expires_at
    assert found(tokens.make_token(maker, acme.id, ALL, -1).text) is None


Ending = Callable[[Any, Tenant], object]
KEY_ENDINGS: dict[str, Ending] = {
    "revoked": lambda key, tenant: keys.revoke([key.prefix]),
    "deleted": lambda key, tenant: key.delete(),
    "expired": lambda key, tenant: ApiKey.objects.update(expires_at=timezone.now()),
    "lost the right": lambda key, tenant: ApiKey.objects.update(may_subscribe=False),
    "its tenant deleted": lambda key, tenant: tenant.delete(),
}
USER_ENDINGS: dict[str, Ending] = {
    "inactive": lambda user, tenant: get_user_model().objects.update(is_active=False),
    "deleted": lambda user, tenant: user.delete(),
    "no member": lambda user, tenant: Membership.objects.all().delete(),
}


@pytest.mark.parametrize("how", KEY_ENDINGS)
def test_a_token_and_a_ticket_end_with_their_key(acme: Tenant, how: str) -> None:
    row, text = keys.create(acme, "backend", keys.RIGHTS)
    maker = keys.principals([text])[text]
    token, ticket = tokens.make_token(maker, acme.id, ALL, 60), tokens.make_ticket(maker)
    assert found(token.text)
    assert isinstance(ticketed(ticket.text), Principal)
    KEY_ENDINGS[how](row, acme)
    assert found(token.text) is None
    assert isinstance(ticketed(ticket.text, spend=False), NotSignedIn)


@pytest.mark.parametrize("how", USER_ENDINGS)
def test_a_token_and_a_ticket_end_with_their_user(acme: Tenant, how: str) -> None:
    user = member(acme)
    maker = of_user(user)
    token, ticket = tokens.make_token(maker, acme.id, ALL, 60), tokens.make_ticket(maker)
    assert found(token.text)
    assert isinstance(ticketed(ticket.text), Principal)
    USER_ENDINGS[how](user, acme)
    assert found(token.text) is None
    after = ticketed(ticket.text, spend=False)
    assert isinstance(after, NotSignedIn) or not after.may_see(acme.id)


def test_a_token_of_a_resolver_of_ones_own_stands_for_itself(acme: Tenant) -> None:
    named = (TenantRef(acme.id, "Acme"),)
    maker = Principal(id="customer:7", rights=frozenset({Right.SUBSCRIBE}), named=named)
    principal = found(tokens.make_token(maker, acme.id, ALL, 60).text)
    assert principal is not None
    assert principal.may_see(acme.id)
    ticket = ticketed(tokens.make_ticket(maker).text)
    assert isinstance(ticket, Principal)
    assert ticket.choose([]) == (str(acme.id),)
    assert not ticket.may_see(uuid.uuid4())


def test_what_this_site_has_not_signed_is_nobody(acme: Tenant) -> None:
    made = tokens.make_token(of_key(acme), acme.id, Filter.of([AGENT]), 60).text
    head, body, signature = made.split(".")
    claims = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    forged = base64.urlsafe_b64encode(claims.replace(AGENT.encode(), b"")).decode().strip("=")
    ticket = tokens.make_ticket(of_key(acme)).text
    for text in (
        f"{head}.{forged}.{signature}",
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{head}.{body}",
        f"aet.{ticket.removeprefix('aek.')}",  # a ticket is no token
        "aet.",
        "aet.\x00" + "a" * 30,
        "aet.\ud800" + "a" * 30,
        "aet." + "a" * 100_000,
    ):
        assert found(text) is None, text
    with override_settings(SECRET_KEY="another"):
        assert found(made) is None
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert found(made)


def test_a_token_fits_a_cookie_and_a_subprotocol(acme: Tenant) -> None:
    maker = of_key(acme)
    with pytest.raises(TooLarge, match="Name fewer"):
        tokens.make_token(maker, acme.id, Filter.of(str(uuid.uuid4()) for _ in range(100)), 60)
    made = tokens.make_token(maker, acme.id, Filter.of(str(uuid.uuid4()) for _ in range(50)), 60)
    assert found(made.text)
    assert set(made.text) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
    )


def test_a_hundred_tokens_are_looked_up_by_few_queries(acme: Tenant) -> None:
    makers = [of_user(member(acme, f"m{n}")) for n in range(50)]
    makers += [of_key(acme) for _ in range(50)]
    made = [tokens.make_token(maker, acme.id, ALL, 60).text for maker in makers]
    with CaptureQueriesContext(connection) as queries:
        assert len(tokens.principals(made)) == 100
    assert len(queries) <= 3, queries.captured_queries


# Tickets


def test_a_ticket_works_once_and_its_stream_goes_on(acme: Tenant) -> None:
    maker = of_key(acme, *keys.RIGHTS)
    text = tokens.make_ticket(maker).text
    first = ticketed(text)
    assert isinstance(first, Principal)
    assert (first.id, first.rights, first.named) == (maker.id, {Right.SUBSCRIBE}, maker.named)
    assert "used already" in str(ticketed(text))
    assert ticketed(text, spend=False) == first


def test_of_two_that_use_one_ticket_at_once_one_wins(acme: Tenant) -> None:
    maker = of_key(acme)
    barrier = Barrier(4)

    def use(text: str) -> bool:
        try:
            barrier.wait(10)
            return isinstance(ticketed(text), Principal)
        finally:
            connections["default"].close()

    with ThreadPoolExecutor(4) as threads:  # (a connection each, as processes have)
        for _ in range(20):
            text = tokens.make_ticket(maker).text
            assert sorted(threads.map(use, [text] * 4)) == [False, False, False, True]


def test_a_ticket_that_was_not_used_in_time_is_refused(acme: Tenant) -> None:
    with override_settings(AGENT_EVENTS={"TICKET_S": 0.001}):
        made = tokens.make_ticket(of_key(acme))
    wait_until(lambda: time.time() > made.expires_at, what="its end")
    refused = ticketed(made.text)
    assert isinstance(refused, NotSignedIn)
    assert "expired" in str(refused)
    assert not SpentTicket.objects.exists()


def test_a_ticket_bears_the_limits_and_the_end_of_a_token(acme: Tenant, other: Tenant) -> None:
    user = member(acme)
    Membership.objects.create(tenant=other, user=user)
    token = tokens.make_token(of_user(user), acme.id, Filter.of([AGENT]), 60)
    holder = found(token.text)
    assert holder is not None
    principal = ticketed(tokens.make_ticket(holder).text)
    assert isinstance(principal, Principal)
    assert principal == holder
    Membership.objects.filter(tenant=acme).delete()
    text = tokens.make_ticket(holder).text
    assert isinstance(ticketed(text), NotSignedIn)


def test_a_tickets_stream_ends_after_the_longest_life_of_a_token(acme: Tenant) -> None:
    with override_settings(AGENT_EVENTS={"TOKEN_MINUTES": 2}):
        principal = ticketed(tokens.make_ticket(of_user(member(acme))).text)
    assert isinstance(principal, Principal)
    assert principal.expires_at == pytest.approx(time.time() + 120, abs=5)


def test_a_superusers_ticket_shows_everything_while_they_are_one(acme: Tenant) -> None:
    user = get_user_model().objects.create_superuser("root")
    text = tokens.make_ticket(of_user(user)).text
    first = ticketed(text)
    assert isinstance(first, Principal)
    assert first.everything
    assert Right.OPERATE not in first.rights
    get_user_model().objects.update(is_superuser=False)
    second = ticketed(text, spend=False)
    assert isinstance(second, Principal)
    assert not second.everything


@pytest.mark.parametrize("text", ["", "aek.", "x", "aek." + "a" * 40, "aek.\x00", "\ud800"])
def test_a_ticket_that_is_none_is_refused_in_words(text: str) -> None:
    refused = ticketed(text)
    assert isinstance(refused, NotSignedIn)
    assert "unknown" in str(refused)
    assert text == "" or text not in str(refused)


def test_used_tickets_are_forgotten_once_they_have_long_expired(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_next_sweep", 0.0)
    SpentTicket.objects.create(id="old", expires_at=timezone.now() - timedelta(hours=2))
    SpentTicket.objects.create(id="young", expires_at=timezone.now() - timedelta(minutes=2))
    assert isinstance(ticketed(tokens.make_ticket(of_key(acme)).text), Principal)
    assert "old" not in (left := set(SpentTicket.objects.values_list("id", flat=True)))
    assert "young" in left
    assert len(left) == 2


def test_of_two_servers_that_are_shown_one_ticket_at_once_one_takes_it(
    dsn: str, server: Callable[..., Server]
) -> None:
    tenant = make_tenant(dsn, "Acme")
    key = make_key(dsn, str(tenant))
    servers = [server(), server()]

    def status(url: str) -> int:
        with httpx.stream("GET", url, timeout=20) as answer:
            return answer.status_code

    with ThreadPoolExecutor(2) as threads:
        for _ in range(5):
            bearer = {"Authorization": f"Bearer {key}"}
            made = httpx.post(f"{servers[0].url}/api/agents/tickets", headers=bearer, timeout=20)
            assert made.status_code == 201, made.text
            path = f"/api/agents/stream?ticket={made.json()['ticket']}"
            assert sorted(threads.map(status, [one.url + path for one in servers])) == [200, 401]
    for one in servers:
        assert key not in one.log()
