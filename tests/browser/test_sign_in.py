"""Signing in by key, in a real browser: what opens, what does not, and when it ends."""

import re

import httpx
import pytest
from playwright.sync_api import expect
from sqlalchemy import text

from tests.browser.conftest import Site, Visitors


def test_a_visitor_signs_in_comes_where_they_wanted_and_signs_out(site: Site, visit: Visitors) -> None:
    page = visit("/system?x=1", role=None)
    expect(page).to_have_url(f"{site.url}/sign-in?next=%2Fsystem%3Fx%3D1")
    visit.expected.append("401")
    page.get_by_label("Key").fill("rfx_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("This key is not valid")
    page.get_by_label("Key").fill(site.keys["viewer"])
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.url}/system?x=1")
    expect(page.get_by_role("heading", name="System", level=1)).to_be_visible()
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert site.keys["viewer"] not in page.content()
    assert page.evaluate("JSON.stringify({...localStorage, ...sessionStorage}) + document.cookie").count("rfx_") == 0
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{site.url}/sign-in")
    page.goto("/")
    expect(page).to_have_url(f"{site.url}/sign-in?next=%2F")


def test_a_revoked_key_opens_nothing_any_more(site: Site) -> None:
    key = site.world.key("operator", "short-lived")
    with httpx.Client(base_url=site.url, follow_redirects=False) as http:
        http.post("/sign-in", data={"key": key})
        assert http.get("/").status_code == 200
        with site.world.session() as session:
            session.execute(text("update keys set revoked_at = now() where label = 'short-lived'"))
        assert http.get("/").status_code == 303


def test_a_sign_in_ends_after_twelve_idle_hours(site: Site) -> None:
    key = site.world.key("viewer", "idle")
    with httpx.Client(base_url=site.url, follow_redirects=False) as http:
        http.post("/sign-in", data={"key": key})
        for hours, status in ((11, 200), (13, 303)):
            with site.world.session() as session:
                query = "update sign_ins set seen_at = now() - make_interval(hours => :h) from keys k where key_digest = k.digest"
                session.execute(text(f"{query} and k.label = 'idle'"), {"h": hours})
            assert http.get("/").status_code == status


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_nobody_is_sent_to_another_site(site: Site, target: str) -> None:
    answer = httpx.post(f"{site.url}/sign-in", data={"key": site.keys["viewer"], "next": target})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_pages_of_other_sites_and_workers_keys_get_nothing(site: Site) -> None:
    evil = {"Origin": "https://evil.example"}
    signed_in = site.cookie("operator")
    assert httpx.post(f"{site.url}/sign-in", data={"key": site.keys["operator"]}, headers=evil).status_code == 403
    assert httpx.post(f"{site.url}/sign-out", headers=evil | signed_in).status_code == 403
    assert httpx.get(f"{site.url}/", headers=evil | signed_in).status_code == 403
    socket = f"{site.url}/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    assert httpx.get(socket, headers=evil | signed_in).status_code == 403
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "a" * 22 + "==",
    }
    socket = f"{site.url}/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    assert httpx.get(socket, headers=evil | signed_in | upgrade).status_code == 403
    answer = httpx.post(f"{site.url}/sign-in", data={"key": site.plane.keys["worker"]})
    assert (answer.status_code, "worker" in answer.text) == (401, True)


def test_pages_say_what_they_may_load(site: Site) -> None:
    first, second = (httpx.get(f"{site.url}/", headers=site.cookie("viewer")) for _ in range(2))
    policy = first.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    (nonce,) = set(re.findall(r"<script nonce=\"([^\"]+)\"", first.text))
    assert f"'nonce-{nonce}'" in policy
    assert nonce not in second.text
    assert first.headers["x-frame-options"] == "DENY"
    assert "script-src" not in httpx.get(f"{site.url}/sign-in").headers["content-security-policy"]


def test_guesses_are_limited(site: Site) -> None:
    elsewhere = {"X-Forwarded-For": "203.0.113.7"}  # so that the other tests may go on signing in
    answers = [httpx.post(f"{site.url}/sign-in", data={"key": f"rfx_{i}"}, headers=elsewhere).status_code for i in range(25)]
    assert set(answers) == {401, 429}
    assert answers[-1] == 429
