"""What is sensitive never reaches a server that must not have it."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_fakes import COLOURS, UNSURE, USAGE, Async, Fake, FakeServer, Sync, answer

from crayon import (
    Budget,
    BudgetError,
    Conditions,
    Hardness,
    InvalidRequestError,
    Privacy,
    PrivacyError,
    PrivacyReport,
    Reason,
    Scope,
    Source,
)
from crayon.errors import CrayonError, EngineError
from crayon.router.conditions import RecentSpeed

CARD, MAIL = "4111 1111 1111 1111", "ada@example.com"
CLOSE = Hardness(choice_margin=0.99)  # sends all but the clearest choices


def sent(server):
    """Everything that a server was given, as one text."""
    texts = [m.content for r in [*server.requests, *server.scored] for m in r.messages]
    texts += [text for r in server.scored for text in r.continuations]
    texts += [text for r in server.encoded for text in r.texts]
    texts += [stop for r in server.requests for stop in r.sampling.stop]
    return "\n".join(texts)


def both(device=None, server=None):
    return device or Fake("small"), server or FakeServer("large", [answer("from the server")])


def say(sdk, chat, text, **options):
    return sdk.call(chat.ask(text, **options))


# -- the hard switch


@pytest.mark.parametrize("value", ["1", "true", "yes", "on", "please", "2", "nope"])
@pytest.mark.parametrize("mode", ["prefer_on_device", "prefer_on_server"])
def test_the_switch_keeps_everything_here(sdk, monkeypatch, value, mode):
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", value)
    device, server = both(Fake("small", [answer("who knows what", UNSURE)]))
    client = sdk.make(device, server, mode=mode, privacy=Privacy(action="off"))
    sdk.call_or_value(client.load())
    assert sdk.call(client.ask("hi")).route.reason is Reason.LOCAL_ONLY
    sdk.call(client.score("hi", ["yes"]))
    sdk.call(client.encode("hi"))
    say(sdk, client.chat(), "hi")
    assert sent(server) == ""


@pytest.mark.parametrize("value", ["", "0", "false", "No", "OFF", " 0 "])
def test_the_switch_is_off_for_these_values(sdk, monkeypatch, value):
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", value)
    device, server = both()
    assert sdk.call(sdk.make(device, server, mode="only_on_server").ask("hi")).route.source is Source.SERVER


@pytest.mark.parametrize("device", [None, "device"])
def test_what_needs_the_server_names_the_switch(sdk, monkeypatch, device):
    monkeypatch.setenv("crayon_local_only", "1")
    server = FakeServer("large")
    client = sdk.make(device and Fake("small"), server, mode="only_on_server")
    calls = [lambda: client.ask("hi"), lambda: client.score("hi", ["yes"]), lambda: say(sdk, client.chat(), "hi")]
    for call in [*calls, *([] if device else [lambda: client.encode("hi")])]:
        with pytest.raises(PrivacyError, match="CRAYON_LOCAL_ONLY"):
            sdk.call_or_value(call())
    assert sent(server) == ""


@pytest.mark.parametrize("switch", [False, True], ids=["without", "with"])
@pytest.mark.parametrize("mode", ["prefer_on_device", "prefer_on_server"])
def test_the_switch_keeps_choices_here(sdk, monkeypatch, mode, switch):
    if switch:
        monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    device, server = both()
    client = sdk.make(device, server, mode=mode, hardness=CLOSE)
    route = sdk.call(client.choose("is it so?", ["yes", "no"])).route
    if switch:
        assert (route.source, route.reason, route.bytes_sent) == (Source.DEVICE, Reason.LOCAL_ONLY, 0)
        assert sent(server) == ""
    else:
        assert route.source is Source.SERVER
        assert "is it so?" in sent(server)


@pytest.mark.parametrize("device", [None, "device"])
def test_a_choice_that_needs_the_server_names_the_switch(sdk, monkeypatch, device):
    server = FakeServer("large")
    client = sdk.make(device and Fake("small"), server, mode="only_on_server")
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    with pytest.raises(PrivacyError, match="CRAYON_LOCAL_ONLY"):
        sdk.call(client.choose("is it so?", ["yes", "no"]))
    assert sent(server) == ""
    monkeypatch.delenv("CRAYON_LOCAL_ONLY")
    assert sdk.call(client.choose("is it so?", ["yes", "no"])).route.source is Source.SERVER


def test_the_switch_holds_for_an_answer_that_was_allowed_before(sdk, monkeypatch):
    device, server = both()
    stream = sdk.make(device, server, mode="prefer_on_server").stream("hi")
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    with pytest.raises(PrivacyError):
        sdk.read(stream)
    assert sent(server) == ""


def test_a_remote_engine_itself_obeys_the_switch(monkeypatch):
    from crayon.client.remote import RemoteEngine
    from crayon.engine import EncodeRequest

    monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    engine = RemoteEngine("localhost:1")
    with pytest.raises(PrivacyError, match="CRAYON_LOCAL_ONLY"):
        engine.encode(EncodeRequest(texts=("hi",))).result(5)
    with pytest.raises(PrivacyError, match="CRAYON_LOCAL_ONLY"):
        engine.models()
    with pytest.raises(PrivacyError, match="CRAYON_LOCAL_ONLY"):
        engine.check()
    engine.close()


# -- keep


@pytest.mark.parametrize("place", ["system", "earlier question", "earlier answer", "question"])
@pytest.mark.parametrize("mode", ["prefer_on_device", "prefer_on_server"])
def test_a_finding_anywhere_keeps_the_query_here(sdk, place, mode):
    texts = dict.fromkeys(("system", "earlier question", "earlier answer", "question"), "plain") | {place: CARD}
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts.values(), strict=True)]
    device, server = both(Fake("small", [answer("who knows what", UNSURE)]))
    route = sdk.call(sdk.make(device, server, mode=mode).ask(messages)).route
    assert (route.source, route.reason) == (Source.DEVICE, Reason.SENSITIVE)
    assert route.privacy == PrivacyReport(("card",))
    assert sent(server) == ""


def test_a_device_that_fails_after_a_finding_is_an_error(sdk):
    device, server = both(Fake("small", [EngineError("broken")]))
    with pytest.raises(EngineError):
        sdk.call(sdk.make(device, server).ask(CARD))
    assert sent(server) == ""


def test_a_scope_gate_cannot_send_what_was_found(sdk):
    device, server = both()
    route = sdk.call(sdk.make(device, server, scopes=[Scope("colours", COLOURS)]).ask(f"magnets {MAIL}")).route
    assert (route.source, sent(server)) == (Source.DEVICE, "")


@pytest.mark.parametrize("options", [{"mode": "only_on_server"}, {}])
def test_what_only_the_server_could_answer_is_refused(sdk, options):
    server = FakeServer("large")
    client = sdk.make(Fake("small") if options else None, server, **options)
    for call in (lambda: client.ask(CARD), lambda: client.score("hi", [MAIL]), lambda: client.score(MAIL, ["x"])):
        with pytest.raises(PrivacyError, match="sensitive"):
            sdk.call(call())
    if not options:
        with pytest.raises(PrivacyError):
            sdk.call(client.encode(["hi", CARD]))
    assert sent(server) == ""


def test_a_stop_text_is_looked_at_too(sdk):
    device, server = both()
    assert sdk.call(sdk.make(device, server, mode="prefer_on_server").ask("hi", stop=[MAIL])).route.source == "device"


def test_off_sends_and_harmless_queries_are_sent(sdk):
    device, server = both()
    off = sdk.make(device, server, mode="only_on_server", privacy=Privacy(action="off"))
    assert sdk.call(off.ask(CARD)).route.privacy is None
    on = sdk.make(device, server, mode="only_on_server")
    assert sdk.call(on.ask("hello")).route.privacy is None


# -- redact


def test_a_server_gets_placeholders_and_the_caller_the_originals(sdk):
    device = Fake("small")
    server = FakeServer("large", [[*answer("wrote to [EMAIL_1] [EMA")[:-1], *answer("IL_2] [")]])
    client = sdk.make(device, server, mode="only_on_server", privacy=Privacy(action="redact"))
    messages = [
        {"role": "system", "content": f"I am {MAIL}"},
        {"role": "user", "content": "bob@example.com"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": f"write to {MAIL}"},
    ]
    got = sdk.call(client.ask(messages))
    assert [m.content for m in server.requests[0].messages] == [
        "I am [EMAIL_1]",
        "[EMAIL_2]",
        "ok",
        "write to [EMAIL_1]",
    ]
    assert got.text == f"wrote to {MAIL} bob@example.com ["
    assert got.route.privacy == PrivacyReport(("email",), "redact")


def test_the_device_that_stands_in_sees_the_original(sdk):
    device, server = both(server=FakeServer("large", [EngineError("gone")]))
    client = sdk.make(device, server, mode="prefer_on_server", privacy=Privacy(action="redact"))
    sdk.call(client.ask(MAIL))
    assert device.requests[0].messages[0].content == MAIL
    assert sent(server) == "[EMAIL_1]"


def test_score_and_encode_are_redacted(sdk):
    server = FakeServer("large")
    client = sdk.make(None, server, privacy=Privacy(action="redact"))
    sdk.call(client.score(MAIL, [MAIL, "no"]))
    sdk.call(client.encode([MAIL, "hi"]))
    assert sent(server).split("\n") == ["[EMAIL_1]", "[EMAIL_1]", "no", "[EMAIL_1]", "hi"]


def test_choices_are_looked_at_and_replaced_like_the_question(sdk):
    device, server = both()
    client = sdk.make(device, server, mode="prefer_on_server", privacy=Privacy(action="redact"))
    chosen = sdk.call(client.choose(f"who is {MAIL}?", [MAIL, "somebody else"]))
    assert chosen.route.source is Source.SERVER
    assert str(chosen) in {MAIL, "somebody else"}
    (request,) = server.scored
    assert request.continuations == ("[EMAIL_1]", "somebody else")
    assert MAIL not in sent(server)
    kept = sdk.call(sdk.make(device, server, mode="prefer_on_server").choose("who?", [MAIL, "somebody else"]))
    assert (kept.route.source, kept.route.reason) == (Source.DEVICE, Reason.SENSITIVE)
    assert len(server.scored) == 1
    with pytest.raises(PrivacyError):
        sdk.call(sdk.make(None, server).choose("who?", [MAIL, "somebody else"]))


HARMLESS, SENSITIVE = (f"please write to this person as soon as you can: {who}" for who in ("Ada", MAIL))
CALLED = ["ask", "chat", "choose", "score", "encode"]
# Why a harmless text is sent: the options, and the reason that its route names.
SENDING = {
    "a budget with room": ({"mode": "prefer_on_server", "budget": Budget(tokens_per_day=10**6)}, Reason.MODE),
    "long": ({"conditions": Conditions(max_prompt_tokens=1)}, Reason.LONG),
    "another language": ({"conditions": Conditions(device_languages=("de",))}, Reason.LANGUAGE),
    "a slow device": ({"conditions": Conditions(speed=True)}, Reason.DEVICE_SLOW),
}
SLOW = RecentSpeed(
    device_prompt_rate=1.0, device_decode_rate=1.0, server_first_token_s=0.1, server_decode_rate=100.0,
    answer_tokens=90.0,
)  # fmt: skip


def call_by(sdk, client, called, text):
    """Call one way; the device embeds where there is one, and only the mode sends what is scored."""
    if called == "chat":
        return say(sdk, client.chat(), text)
    if called == "score":
        return sdk.call(client.score(text, ["yes", "no"], mode="prefer_on_server"))
    return sdk.call(getattr(client, called)(text, *([["yes", "no"]] if called == "choose" else [])))


@pytest.mark.parametrize("called", CALLED)
@pytest.mark.parametrize("why", SENDING)
def test_no_other_reason_sends_what_must_stay(sdk, why, called, monkeypatch, tmp_path):
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path))
    options, reason = SENDING[why]
    device, server = both()
    client = sdk.make(None if called == "encode" else device, server, **options)
    client._core.tracker.meters.read = lambda: SLOW
    got = call_by(sdk, client, called, HARMLESS)
    assert HARMLESS in sent(server)
    if called in {"ask", "chat", "choose"}:
        assert (got.route.source, got.route.reason) == (Source.SERVER, reason)
    before = sent(server)
    if called == "encode":
        with pytest.raises(PrivacyError):
            call_by(sdk, client, called, SENSITIVE)
    else:
        got = call_by(sdk, client, called, SENSITIVE)
    if called in {"ask", "chat", "choose"}:
        assert (got.route.source, got.route.reason) == (Source.DEVICE, Reason.SENSITIVE)
    assert sent(server) == before


@pytest.mark.parametrize("called", CALLED)
def test_a_used_up_budget_sends_nothing_that_must_stay(sdk, called, monkeypatch, tmp_path):
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path))
    device, server = both()
    options = {"mode": "prefer_on_server", "budget": Budget(tokens_per_day=USAGE.prompt_tokens + 1)}
    client = sdk.make(None if called == "encode" else device, server, **options)
    call_by(sdk, client, called, HARMLESS)
    before = sent(server)
    assert HARMLESS in before
    for text in (HARMLESS, SENSITIVE):
        if called == "encode":
            with pytest.raises(BudgetError):
                call_by(sdk, client, called, text)
        else:
            got = call_by(sdk, client, called, text)
            assert called == "score" or (got.route.source, got.route.reason) == (Source.DEVICE, Reason.BUDGET)
    assert sent(server) == before


@pytest.mark.parametrize("history", ["keep", "drop"])
def test_what_was_said_while_the_budget_was_used_up_stays_once_there_is_room(sdk, history, monkeypatch, tmp_path):
    monkeypatch.setenv("CRAYON_STATE_DIR", str(tmp_path))
    device, server = both(Fake("small", [answer("your word is Zanzibar")]))
    options = {"mode": "prefer_on_server", "budget": Budget(tokens_per_day=1), "privacy": Privacy(history=history)}
    chat = sdk.make(device, server, **options).chat()
    assert say(sdk, chat, "hi").route.source is Source.SERVER
    assert say(sdk, chat, SENSITIVE).route.reason is Reason.BUDGET
    (tmp_path / "budget.json").unlink()  # a new day
    route = say(sdk, chat, "and now?").route
    assert route.source == ("server" if history == "drop" else "device")
    assert "Zanzibar" not in sent(server)
    assert MAIL not in sent(server)
    assert ("and now?" in sent(server)) == (history == "drop")


def test_what_cannot_be_placed_is_not_redacted_but_kept(sdk):
    device, server = both()
    privacy = Privacy(action="redact", patterns={"slow": r"(a|a)+c"})
    client = sdk.make(device, server, mode="prefer_on_server", privacy=privacy)
    route = sdk.call(client.ask("a" * 60 + "b")).route
    assert (route.reason, route.privacy.found, sent(server)) == (Reason.SENSITIVE, ("slow",), "")


# -- ask


@pytest.mark.parametrize(
    ("said", "text"),
    [("keep", ""), ("redact", "[EMAIL_1]"), ("send", MAIL), ("yes", ""), (None, ""), (True, ""), (OSError(), "")],
)
def test_only_a_clear_answer_lets_anything_go(sdk, said, text):
    asked = []

    def ask(found):
        asked.append(found)
        if isinstance(said, Exception):
            raise said
        return said

    device, server = both()
    client = sdk.make(device, server, mode="prefer_on_server", privacy=Privacy(action="ask", ask=ask))
    sdk.call(client.ask(MAIL))
    assert asked == [{"email": 1}]
    assert sent(server) == text


def test_nobody_to_ask_keeps(sdk):
    device, server = both()
    sdk.call(sdk.make(device, server, mode="prefer_on_server", privacy=Privacy(action="ask")).ask(MAIL))
    assert sent(server) == ""


# -- conversations


def test_a_conversation_stays_after_a_finding(sdk):
    device, server = both()
    chat = sdk.make(device, server, mode="prefer_on_server").chat()
    assert say(sdk, chat, "hi").route.source is Source.SERVER
    assert say(sdk, chat, CARD).route.reason is Reason.SENSITIVE
    assert say(sdk, chat, "and now?").route.source is Source.DEVICE
    assert CARD not in sent(server)
    chat.clear()
    assert say(sdk, chat, "hi").route.source is Source.SERVER


@pytest.mark.parametrize("private", [True, False])
def test_turns_that_must_stay_are_left_out_where_that_is_wanted(sdk, private):
    device, server = both(Fake("small", [answer("your word is Zanzibar")]))
    client = sdk.make(device, server, mode="prefer_on_server", privacy=Privacy(history="drop"))
    chat = client.chat(system="Be brief.")
    say(sdk, chat, "Zanzibar" if private else f"Zanzibar {MAIL}", private=private)
    # The device has seen it, so what it says next may hold it in other words.
    say(sdk, chat, "what did I say?", mode="only_on_device")
    got = say(sdk, chat, "how do magnets work?")
    assert (got.route.source, got.route.privacy.dropped_turns) == (Source.SERVER, 2)
    assert sent(server) == "Be brief.\nhow do magnets work?"
    say(sdk, chat, "why?")
    assert [m.content for m in server.requests[1].messages] == [
        "Be brief.",
        "how do magnets work?",
        "from the server",
        "why?",
    ]


def test_a_history_given_from_outside_is_left_out_from_the_first_finding_on(sdk):
    device, server = both()
    client = sdk.make(device, server, mode="prefer_on_server", privacy=Privacy(history="drop"))
    turns = ["before", "ok", f"I am {MAIL}", "hi", "who am I?", "Ada at example"]
    roles = ("user", "assistant") * 3
    chat = client.chat([{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)])
    say(sdk, chat, "next")
    assert sent(server) == "before\nok\nnext"


def test_a_system_message_cannot_be_left_out(sdk):
    device, server = both()
    client = sdk.make(device, server, mode="prefer_on_server", privacy=Privacy(history="drop"))
    assert say(sdk, client.chat(system=MAIL), "hi").route.source is Source.DEVICE


# -- arguments and logs


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"action": "send"}, "privacy.action"),
        ({"history": "lose"}, "privacy.history"),
        ({"ask": 5}, "privacy.ask"),
        ({"detect": "email"}, "privacy.detect"),
        ({"detect": ("mood",)}, "privacy.detect"),
        ({"patterns": {"x": "("}}, "privacy.patterns.x"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, field):
    with pytest.raises(InvalidRequestError) as caught:
        Privacy(**options)
    assert caught.value.field == field


@pytest.mark.parametrize("action", ["keep", "redact"])
def test_logs_hold_kinds_and_counts_only(sdk, caplog, action):
    caplog.set_level(logging.DEBUG)
    device, server = both()
    sdk.call(sdk.make(device, server, mode="prefer_on_server", privacy=Privacy(action=action)).ask(f"{MAIL} {CARD}"))
    assert "card 1, email 1" in caplog.text
    assert MAIL not in caplog.text
    assert "4111" not in caplog.text


# -- nothing leaks, whatever is asked for

SECRETS = [CARD, MAIL, "DE89 3704 0044 0532 0130 00", "AKIAIOSFODNN7EXAMPLE", "4111\u200b1111\u00a01111 1111"]
TEXTS = st.builds(
    lambda before, secret, after: f"{before} {secret} {after}",
    st.sampled_from(["hi", "which colour is", "note:"]),
    st.sampled_from([*SECRETS, "", ""]),
    st.sampled_from(["please", "now", "?"]),
)
CALLS = st.fixed_dictionaries(
    {
        "texts": st.lists(TEXTS, min_size=1, max_size=4),
        "system": st.one_of(st.none(), TEXTS),
        "mode": st.sampled_from(["prefer_on_device", "prefer_on_server", "only_on_device", "only_on_server"]),
        "private": st.booleans(),
        "action": st.sampled_from(["keep", "redact", "ask"]),
        "history": st.sampled_from(["keep", "drop"]),
        "said": st.sampled_from(["keep", "redact", "perhaps"]),
        "device": st.sampled_from(["sure", "unsure", "broken"]),
        "scoped": st.booleans(),
        "call": st.sampled_from(["ask", "chat", "score", "encode", "choose", "explain"]),
        "with_device": st.booleans(),
    }
)


@pytest.mark.parametrize("driver", [Sync, Async])
@settings(max_examples=60, deadline=None)
@given(CALLS)
def test_no_planted_secret_ever_reaches_the_server(driver, case):
    sdk = driver()
    scripts = {"sure": answer("yes it is"), "unsure": answer("who knows what", UNSURE), "broken": EngineError("x")}
    device, server = Fake("small", [scripts[case["device"]]]), FakeServer("large", [answer("fine")])
    client = sdk.make(
        device if case["with_device"] else None,
        server,
        mode=case["mode"],
        scopes=[Scope("colours", COLOURS)] if case["scoped"] and case["with_device"] else [],
        system=case["system"],
        privacy=Privacy(action=case["action"], history=case["history"], ask=lambda _: case["said"]),
    )
    texts = case["texts"]
    chat = client.chat()
    for text in texts if case["call"] in {"ask", "chat"} else texts[:1]:
        try:
            if case["call"] == "ask":
                sdk.call(client.ask(text, private=case["private"]))
            elif case["call"] == "chat":
                say(sdk, chat, text, private=case["private"])
            elif case["call"] == "score":
                sdk.call(client.score(text, texts, private=case["private"]))
            elif case["call"] == "choose":
                choices = [f"{each} {i}" for i, each in enumerate([*texts, "other"])]
                sdk.call(client.choose(text, choices, private=case["private"]))
            elif case["call"] == "explain":
                sdk.call_or_value(client.explain(text, private=case["private"]))
            else:
                sdk.call(client.encode(texts, private=case["private"]))
        except CrayonError:
            pass
    sdk.shut()
    given_away = sent(server)
    assert case["call"] != "explain" or given_away == ""
    assert [secret for secret in SECRETS if secret in given_away] == []
