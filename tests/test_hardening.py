"""The example project outside DEBUG: policy, cookies, TLS, wrong passwords."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from agent_events.views import CONTENT_SECURITY_POLICY
from tests.support import Server, login, make_tenant, make_user, manage
from tests.support.database import ROOT
from tests.support.keys import make_key
from tests.support.site import DOCS, Site, blocks

TRIES = 6
POLICY = "Content-Security-Policy"


def production(**more: str) -> dict[str, str]:
    """The environment of a process outside DEBUG, on this machine."""
    return {
        "DJANGO_DEBUG": "0",
        "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
        "DJANGO_ALLOWED_HOSTS": "127.0.0.1",
        **more,
    }


@contextmanager
def sign_in_page(server: Server, path: str = "/accounts/login/") -> Iterator[Callable[..., int]]:
    """`attempt(name, password)`: what a browser's try to sign in is answered, a status."""
    with httpx.Client(base_url=server.url, timeout=20) as client:

        def attempt(name: str, password: str) -> int:
            token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', client.get(path).text)
            assert token is not None
            answer = client.post(
                path,
                data={"csrfmiddlewaretoken": token[1], "username": name, "password": password},
                headers={"Referer": f"{server.url}{path}"},
            )
            attempt.last = answer  # type: ignore[attr-defined]
            return answer.status_code

        yield attempt


# Pages


def test_every_page_bears_one_strict_policy_also_the_admin_and_errors(
    dsn: str, server: Callable[..., Server]
) -> None:
    make_user(dsn, "root", superuser=True)
    site = server(env=production(DJANGO_PLAIN_HTTP="1"))
    cookies = login(site, "root")
    with (
        httpx.Client(base_url=site.url, timeout=20) as browser,
        httpx.Client(base_url=site.url, timeout=20, cookies=cookies) as signed_in,
    ):
        answers = {
            "sign-in": (browser.get("/accounts/login/"), 200),
            "led away": (browser.get("/"), 302),
            "admin's sign-in": (browser.get("/admin/login/"), 200),
            "the feed": (signed_in.get("/"), 200),
            "the admin": (signed_in.get("/admin/"), 200),
            "a form of it": (signed_in.get("/admin/auth/user/add/"), 200),
            "nothing there": (browser.get("/nothing"), 404),
            "not this site's form": (browser.post("/accounts/logout/"), 403),
            "not this site's name": (browser.get("/", headers={"Host": "evil.example"}), 400),
        }
    for what, (answer, status) in answers.items():
        assert answer.status_code == status, what
        assert answer.headers.get_list(POLICY) == [CONTENT_SECURITY_POLICY], what
        assert not re.search(r"<style|\sstyle=|\son\w+=\"|<script(?![^>]* src=)", answer.text), what
        assert "Traceback" not in answer.text, what
    words = CONTENT_SECURITY_POLICY.split("; ")
    assert words[0] == "default-src 'self'"
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_an_error_of_the_server_tells_a_visitor_nothing_and_bears_the_policy(
    dsn: str, server: Callable[..., Server]
) -> None:
    gone = re.sub(r"/[^/?]+(\?|$)", r"/no_such_database\1", dsn)
    one = server(env=production(DJANGO_PLAIN_HTTP="1", DATABASE_URL=gone))
    answer = httpx.get(f"{one.url}/admin/", cookies={"sessionid": "a" * 32}, timeout=20)
    assert answer.status_code == 500
    assert answer.headers.get_list(POLICY) == [CONTENT_SECURITY_POLICY]
    assert "Something went wrong here" in answer.text
    assert "no_such_database" not in answer.text
    password = conninfo_to_dict(dsn)["password"]
    assert "no_such_database" in one.log()
    assert str(password) not in one.log() + answer.text


# TLS


def test_behind_a_proxy_with_tls_pages_redirect_and_cookies_stay_on_tls(
    dsn: str, server: Callable[..., Server]
) -> None:
    site = server(env=production(DJANGO_TLS_PROXY="1"))
    plain = httpx.get(f"{site.url}/accounts/login/")
    assert plain.status_code == 301
    assert plain.headers["location"].startswith("https://")
    over_tls = httpx.get(f"{site.url}/accounts/login/", headers={"X-Forwarded-Proto": "https"})
    assert over_tls.status_code == 200
    assert over_tls.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    cookie = over_tls.headers["set-cookie"]
    assert {"Secure", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
    # Probes and Prometheus come from inside, without TLS and under any name.
    inside = {"Host": "10.1.2.3:8001"}
    assert httpx.get(f"{site.url}/healthz", headers=inside).status_code == 200
    assert httpx.get(f"{site.url}/readyz", headers=inside, timeout=20).status_code == 200
    assert httpx.get(f"{site.url}/metrics", headers=inside).status_code == 401


def test_without_being_told_of_a_proxy_nobody_claims_tls_by_a_header(
    dsn: str, server: Callable[..., Server]
) -> None:
    site = server(env=production())
    claimed = httpx.get(f"{site.url}/accounts/login/", headers={"X-Forwarded-Proto": "https"})
    assert claimed.status_code == 301


def test_a_session_is_set_for_tls_alone_out_of_reach_of_scripts_and_of_other_sites(
    dsn: str, server: Callable[..., Server]
) -> None:
    make_user(dsn, "ann")
    site = server(env=production(DJANGO_TLS_PROXY="1"))
    tls = {"X-Forwarded-Proto": "https", "Host": "127.0.0.1"}
    page = httpx.get(f"{site.url}/accounts/login/", headers=tls)
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token is not None
    answer = httpx.post(
        f"{site.url}/accounts/login/",
        headers={
            **tls,
            "Referer": "https://127.0.0.1/accounts/login/",
            "Cookie": f"csrftoken={page.cookies['csrftoken']}",
        },
        data={"csrfmiddlewaretoken": token[1], "username": "ann", "password": "ann"},
    )
    assert answer.status_code == 302
    (session,) = [c for c in answer.headers.get_list("set-cookie") if c.startswith("sessionid=")]
    assert {"Secure", "HttpOnly", "SameSite=Lax"} <= set(session.split("; "))


def test_the_example_project_with_the_documented_environment_has_nothing_to_be_warned_of(
    dsn: str, tmp_path: Path
) -> None:
    (text,) = [text for what, text in blocks("## In production", "security.md") if what == "env"]
    told = dict(line.removeprefix("export ").split("=", 1) for line in text.splitlines())
    assert told.pop("DATABASE_URL").startswith("postgresql://")
    made = re.fullmatch(r"\"\$\((.*)\)\"", told.pop("DJANGO_SECRET_KEY"))
    assert made is not None
    assert made[1] == "cat /etc/agent-events/secret_key"
    said = manage(
        *("check", "--deploy", "--database", "default", "--fail-level", "DEBUG"),
        dsn=dsn,
        DATA_DIR=str(tmp_path),
        DJANGO_SECRET_KEY=secrets.token_urlsafe(50),
        **{name: value.strip("'\"") for name, value in told.items()},
    )
    assert "no issues (1 silenced)" in said


def test_ones_own_project_with_the_documented_settings_has_nothing_to_be_warned_of(
    dsn: str, tmp_path: Path
) -> None:
    site = Site(tmp_path, Path(sys.executable).parent, dsn, tmp_path)
    site.shell("django-admin startproject mysite\ncd mysite")
    site.follow("### Settings")
    site.follow("### The streams")
    site.follow("### The page")
    (look,) = site.follow("## Settings", "deploy.md")["check"]
    # The key comes from outside; the templates lie in the package once it is a wheel.
    site.add(
        "mysite/settings.py",
        f"SECRET_KEY = {secrets.token_urlsafe(50)!r}\n"
        f"TEMPLATES[0]['DIRS'] = [{str(ROOT / 'templates')!r}]\n",
    )
    site.shell(f"{look.splitlines()[0]} --fail-level DEBUG")


# Secrets


@pytest.mark.parametrize("debug", ["0", "1"])
def test_no_secret_is_in_the_log_or_in_an_answer_however_it_was_used(
    dsn: str, server: Callable[..., Server], debug: str
) -> None:
    tenant = make_tenant(dsn, "Harbour")
    make_user(dsn, "root", superuser=True, password="the-password-of-root")
    metrics = "the-token-of-metrics"
    site = server(
        env=production(
            DJANGO_DEBUG=debug, DJANGO_PLAIN_HTTP="1", AGENT_EVENTS_METRICS_TOKEN=metrics
        )
    )
    cookies = login(site, "root", "the-password-of-root")
    key = make_key(dsn, tenant)
    with httpx.Client(base_url=site.url, timeout=20) as client:

        def bearer(text: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {text}"}

        made = [
            client.post(f"/api/agents/{what}", json={}, headers=bearer(key)).json()
            for what in ("tokens", "tickets")
        ]
        secrets_of = [key, made[0]["token"], made[1]["ticket"], cookies["sessionid"], metrics]
        wrong = [f"{text[:-3]}xyz" for text in secrets_of]
        doors = [
            *(("GET", path) for path in ("/", "/api/agents/events", "/metrics", "/admin/")),
            *(("GET", path) for path in ("/api/agents/events/1", "/api/agents/events?limit=x")),
            *(("POST", f"/api/agents/{name}") for name in ("events", "tokens", "tickets", "none")),
        ]
        answers = [
            client.request(method, path, headers=headers, json={"no": "event"})
            for method, path in doors
            for text in secrets_of + wrong
            for headers in (
                bearer(text),
                {"Cookie": f"sessionid={text}; agent_events_token={text}"},
            )
        ]
        for text in wrong:
            answers.append(client.get("/api/agents/stream", headers=bearer(text)))
            with (
                pytest.raises((ConnectionClosed, InvalidStatus)),
                connect(
                    f"{site.ws_url}/ws/agents/stream", additional_headers=bearer(text), proxy=None
                ) as socket,
            ):
                while True:
                    socket.recv(20)
    with sign_in_page(site) as attempt:
        assert attempt("root", "a-wrong-password") == 200
        answers.append(attempt.last)  # type: ignore[attr-defined]
    said = site.log() + "".join(f"{answer.headers} {answer.text}" for answer in answers)
    password = str(conninfo_to_dict(dsn)["password"])
    never = [*secrets_of, *wrong, "the-password-of-root", "a-wrong-password", password]
    assert {answer.status_code for answer in answers} >= {200, 302, 400, 401, 403, 404}
    assert [text for text in never if text in said] == []


# Wrong passwords


@pytest.mark.parametrize("path", ["/accounts/login/", "/admin/login/"])
def test_after_some_wrong_passwords_a_name_is_locked_and_no_other(
    dsn: str, server: Callable[..., Server], path: str
) -> None:
    make_user(dsn, "ann", superuser=True)
    make_user(dsn, "bob", superuser=True)
    env = production(DJANGO_PLAIN_HTTP="1")
    first, second = server(env=env), server(env=env)  # several processes count as one
    with sign_in_page(first, path) as attempt, sign_in_page(second, path) as other:
        tries = [(attempt if n % 2 else other)("ann", f"wrong-{n}") for n in range(TRIES - 1)]
        assert tries == [200] * (TRIES - 1)
        assert attempt("ann", "wrong-again") == 429
        page = attempt.last  # type: ignore[attr-defined]
        assert page.headers["retry-after"] == "900"
        assert page.headers[POLICY] == CONTENT_SECURITY_POLICY
        assert "Try again in 15 minutes" in page.text
        assert other("ann", "ann") == 429  # the right one too: it tells a guesser nothing
        assert other("nobody-at-all", "wrong") == 200
        assert other("bob", "bob") == 302
    assert "wrong-" not in first.log() + second.log()
    manage("axes_reset_username", "ann", dsn=dsn)
    with sign_in_page(first, path) as attempt:
        assert attempt("ann", "ann") == 302


def test_the_right_password_in_time_forgets_the_wrong_ones(
    dsn: str, server: Callable[..., Server]
) -> None:
    make_user(dsn, "ann")
    site = server(env=production(DJANGO_PLAIN_HTTP="1"))
    for _ in range(2):
        with sign_in_page(site) as attempt:
            assert [attempt("ann", "wrong") for _ in range(TRIES - 1)] == [200] * (TRIES - 1)
            assert attempt("ann", "ann") == 302


def test_no_number_of_tries_locks_the_demo_out(dsn: str, server: Callable[..., Server]) -> None:
    make_user(dsn, "demo", password="x")
    manage(
        *("shell", "-v", "0", "-c"),
        "from django.contrib.auth.models import User\n"
        "user = User.objects.get()\nuser.set_unusable_password()\nuser.save()",
        dsn=dsn,
    )
    site = server()
    with sign_in_page(site) as attempt:
        assert {attempt("demo", "wrong") for _ in range(TRIES + 2)} == {200}
        assert attempt("demo", "demo") == 302


def test_the_settings_that_are_printed_are_those_of_the_guide() -> None:
    text = (DOCS / "security.md").read_text()
    assert f"{TRIES} wrong passwords" in text
