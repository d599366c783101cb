"""Length, language, speed, network and battery, from measurements to routes."""

from __future__ import annotations

import pytest
from hand_clock import HandClock
from sdk_fakes import UNSURE, Fake, FakeServer, Hang, answer, delta

from crayon import Conditions, PromptTooLongError, Reason, Source
from crayon.completion import FinishReason, Timings, Usage
from crayon.contention import Contention
from crayon.engine import Finished
from crayon.errors import ServerUnavailableError
from crayon.machine import Battery
from crayon.router.conditions import RecentSpeed
from crayon.sdk.budget.speed_meters import FORGET_SECONDS, Meters

LONG = "word " * 2000  # the fakes' context is 1024
GERMAN = "Wie kann ich besser schlafen, wenn es draußen heiß ist?"


def both(**options):
    return Fake("small", **options), FakeServer("large", [answer("from the server")])


def finished(prompt=100, written=11, prompt_ms=1000.0, decode_ms=1000.0, queue_ms=0.0):
    return Finished(FinishReason.STOP, Usage(prompt, written), Timings(queue_ms, prompt_ms, decode_ms))


# -- length


def test_a_prompt_that_cannot_fit_the_device_goes_to_the_server_at_once(sdk):
    device, server = both()
    route = sdk.call(sdk.make(device, server).ask(LONG)).route
    assert (route.source, route.reason, route.fallback_from) == (Source.SERVER, Reason.LONG, None)
    assert device.requests == []


def test_a_prompt_that_may_fit_is_tried_on_the_device(sdk):
    device, server = both()
    unbroken = "x" * 3000  # surely one token, maybe more than the context has
    assert sdk.call(sdk.make(device, server).ask(unbroken)).route.source is Source.DEVICE


def test_an_engine_that_counts_tokens_is_believed(sdk):
    device, server = both()
    device.count_tokens = lambda messages: sum(len(message.content) for message in messages)
    client = sdk.make(device, server)
    assert sdk.call(client.ask("x" * 1024)).route.reason is Reason.LONG
    assert sdk.call(client.ask("x" * 1023)).route.source is Source.DEVICE


def test_a_limit_of_the_callers_own(sdk):
    client = sdk.make(*both(), conditions=Conditions(max_prompt_tokens=3))
    assert sdk.call(client.ask("one two three four")).route.reason is Reason.LONG
    assert sdk.call(client.ask("one two three")).route.source is Source.DEVICE


@pytest.mark.parametrize("options", [{"private": True}, {"mode": "only_on_device"}])
def test_length_and_language_never_send_what_must_stay(sdk, options):
    device, server = both()
    client = sdk.make(device, server, conditions=Conditions(device_languages=("en",)))
    assert sdk.call(client.ask(LONG + GERMAN, **options)).route.source is Source.DEVICE
    assert server.requests == []


def test_a_long_prompt_whose_server_fails_ends_in_the_devices_error(sdk):
    device = Fake("small", [PromptTooLongError(2000, 1023)])
    server = FakeServer("large", [ServerUnavailableError("gone")])
    with pytest.raises(PromptTooLongError) as caught:
        sdk.call(sdk.make(device, server).ask(LONG))
    assert caught.value.__notes__ == ["before that the server failed: gone"]


# -- language


def test_another_language_goes_to_the_server_and_an_unknown_one_stays(sdk):
    client = sdk.make(*both(), conditions=Conditions(device_languages=("en",)))
    assert sdk.call(client.ask(GERMAN)).route.reason is Reason.LANGUAGE
    assert sdk.call(client.ask("How can I sleep better when it is hot outside?")).route.source is Source.DEVICE
    assert sdk.call(client.ask("Hallo Welt")).route.source is Source.DEVICE
    assert sdk.call(sdk.make(*both()).ask(GERMAN)).route.source is Source.DEVICE


# -- speed, network, battery


def speedy(sdk, device, server, measured, **options):
    client = sdk.make(device, server, conditions=Conditions(speed=True, **options))
    client._core.tracker.meters.read = lambda: measured
    return client


SLOW = RecentSpeed(
    device_prompt_rate=10.0, device_decode_rate=1.0, server_first_token_s=0.1, server_decode_rate=100.0,
    answer_tokens=90.0,
)  # fmt: skip


def test_a_slow_device_hands_over_to_a_faster_server(sdk):
    device, server = both()
    client = speedy(sdk, device, server, SLOW)
    assert sdk.call(client.ask("hi")).route.reason is Reason.DEVICE_SLOW
    assert sdk.call_or_value(client.status()).weighed is Reason.DEVICE_SLOW
    assert sdk.call(client.ask("hi", private=True)).route.reason is Reason.PRIVATE
    assert sdk.call(client.ask("hi", mode="only_on_device")).route.source is Source.DEVICE


def test_a_slow_network_keeps_what_a_gate_would_send(sdk):
    device, server = both(scripts=[answer("who knows what", UNSURE)])
    client = speedy(sdk, device, server, RecentSpeed(round_trip_s=9.0))
    route = sdk.call(client.ask("hi")).route
    assert (route.source, route.reason, route.holdback_ms) == (Source.DEVICE, Reason.NETWORK_SLOW, None)
    assert sdk.call(client.ask("hi", mode="prefer_on_server")).route.reason is Reason.NETWORK_SLOW
    assert sdk.call(client.ask("hi", mode="only_on_server")).route.source is Source.SERVER


def test_answers_feed_the_meters(sdk, monkeypatch):
    monkeypatch.setattr(Contention, "slowdown", lambda _: 1.0)  # however busy this machine is
    end = finished()
    device = Fake("small", [[*answer("a b c d e f")[:-1], end]])
    server = FakeServer("large", [[*answer("a b c d e f")[:-1], end]])
    client = sdk.make(device, server, hardness=False)
    for mode in ("only_on_device", "only_on_server", "only_on_server"):
        sdk.call(client.ask("hi", mode=mode))
    now = sdk.call_or_value(client.status()).measured
    assert (now.device_prompt_rate, now.device_decode_rate) == (pytest.approx(100.0), pytest.approx(10.0))
    assert (now.device_running, now.answer_tokens, now.server_loss) == (0, 11.0, 0.0)
    assert now.server_first_token_s >= 0.0
    assert now.round_trip_s >= 0.0


def test_a_device_that_is_at_work_is_seen_and_a_cancelled_answer_ends(sdk):
    client = sdk.make(Fake("small", [[delta("one"), Hang]]))
    stream = client.stream("hi")
    sdk.read(stream, limit=1)
    assert sdk.call_or_value(client.status()).measured.device_running == 1
    sdk.shut_stream(stream)
    assert sdk.call_or_value(client.status()).measured.device_running == 0


def test_lost_requests_are_counted_and_refusals_are_not(sdk):
    device = Fake("small")
    server = FakeServer("large", [ServerUnavailableError("gone")])
    client = sdk.make(device, server, mode="prefer_on_server")
    sdk.call(client.ask("hi"))
    assert sdk.call_or_value(client.status()).measured.server_loss == 1.0


# -- the meters alone


def test_averages_follow_and_are_forgotten_so_that_a_side_gets_another_try():
    clock = HandClock(0.0)
    meters = Meters(clock, power=lambda: None)
    meters.device_ends(finished(), meters.device_begins())
    meters.device_ends(finished(decode_ms=500.0), meters.device_begins())
    assert meters.read().device_decode_rate == pytest.approx(10.0 + 0.3 * 10.0)
    clock.now = FORGET_SECONDS + 1.0
    assert meters.read() == RecentSpeed()


def test_answers_at_once_are_counted_as_if_alone():
    meters = Meters(HandClock(0.0), power=lambda: None)
    first, second = meters.device_begins(), meters.device_begins()
    meters.device_ends(finished(), first)
    assert meters.read().device_decode_rate == pytest.approx(20.0)
    assert (second, meters.read().device_running) == (2, 1)


def test_what_neighbours_slowed_is_counted_as_if_there_were_none_and_what_they_slow_now_is_told():
    factor = 2.0
    meters = Meters(HandClock(0.0), power=lambda: None, slowdown=lambda: factor)
    meters.device_ends(finished(), meters.device_begins())
    assert meters.read().device_decode_rate == pytest.approx(20.0)
    assert meters.read().device_slowdown == 2.0
    factor = 1.0
    assert meters.read().device_slowdown == 1.0


def test_the_first_round_trip_has_the_connection_in_it_and_does_not_count():
    meters = Meters(HandClock(0.0), power=lambda: None)
    for _ in range(2):
        assert meters.read().round_trip_s is None
        meters.server_answered(finished(queue_ms=200.0), started_s=0.5, first_token_s=0.6, total_s=1.6)
    assert meters.read().round_trip_s == pytest.approx(0.3)
    assert meters.read().server_decode_rate == pytest.approx(10.0)


def test_the_battery_is_looked_at_now_and_then():
    clock, looks = HandClock(0.0), []
    meters = Meters(clock, power=lambda: looks.append(clock.now) or Battery(50.0, plugged=False))
    for clock.now in (0.0, 1.0, 29.0, 31.0):
        assert (meters.read().battery_percent, meters.read().plugged) == (50.0, False)
    assert looks == [0.0, 31.0]


@pytest.mark.parametrize("found", ["none", "missing", "broken"])
def test_a_platform_that_does_not_tell_of_a_battery(monkeypatch, found):
    import psutil

    from crayon.machine import battery

    def broken():
        raise OSError("odd driver")

    monkeypatch.setattr(psutil, "sensors_battery", {"none": lambda: None, "broken": broken}.get(found), raising=False)
    if found == "missing":
        monkeypatch.delattr(psutil, "sensors_battery")
    assert battery() is None
