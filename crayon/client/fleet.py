"""The servers of a client: their connections, whose turn it is, and what is known of each."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from crayon.client import resolver
from crayon.client.access import ServerAccess
from crayon.client.balancer import Balancer, Health
from crayon.client.breakers import Breakers
from crayon.client.channel import LazyChannel
from crayon.client.check import ServerStatus, look, together
from crayon.client.prober import Prober
from crayon.errors import EngineClosedError, ServerUnavailableError
from crayon.wire.address import split

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import grpc

    from crayon.client.access import AccessOptions, Metadata
    from crayon.client.balancer import Pick
    from crayon.client.breaker import Breaker
    from crayon.client.resolver import Endpoint

_SAID = {Health.NOT_SERVING: "loads its model, drains or broke down", Health.AWAY: "is away"}


class Fleet:
    """One server or several, and the channel to each. Several are asked for their health while they are in use.

    Args:
        addresses: one, or several with commas between them.
        connect_timeout: seconds for one attempt to connect, and for one answer about health.
        breaker: of the server; each of several gets one like it.
        on_silent: hears of servers that have stopped to answer, and so should lose what waits for them.
        access: TLS and token, the same for all.

    Raises:
        ConfigError: an address is malformed, or on another machine and there is no TLS; or `access` is wrong.
    """

    def __init__(
        self,
        addresses: str,
        *,
        connect_timeout: float,
        breaker: Breaker,
        on_silent: Callable[[str], None],
        access: AccessOptions,
    ) -> None:
        accesses = [ServerAccess(address, **access) for address in split(addresses, "server")]
        self._connect_timeout = connect_timeout
        self._lock = threading.Lock()
        self._channels: dict[str, LazyChannel] = {}
        self._places = {endpoint.target: endpoint for endpoint in resolver.plain(accesses)}
        self._accesses = accesses
        self.closed = False
        self._given: Breaker | None = breaker
        self._fresh = breaker.fresh
        self.balancer = Balancer(self._places, breaker=self._breaker)
        # One server is asked by its requests alone.
        named = resolver.named(accesses)
        self._prober = Prober(
            self.balancer,
            self.channel,
            timeout=connect_timeout,
            on_silent=on_silent,
            look_up=self._look_up if named else None,
        )
        self._many = named or len(accesses) > 1

    @property
    def breaker(self) -> Breaker | Breakers:
        """The server's breaker; of several, what they come to together."""
        breakers = self.balancer.breakers
        return breakers[0] if len(breakers) == 1 else Breakers(lambda: self.balancer.breakers)

    def pick(self, tried: Collection[str], patience: float) -> Pick:
        """Return whose turn it is; names that were not looked up so far are waited for, but not for long.

        Raises:
            ServerUnavailableError: nobody may be asked, and why.
        """
        if self._many:
            self._prober.used()
            self._prober.looked_up.wait(min(self._connect_timeout, patience))
            self._drop_retired()
        pick = self.balancer.pick(tried)
        if pick is None:
            raise ServerUnavailableError(self._refusal())
        return pick

    def channel(self, address: str) -> grpc.Channel:
        """Return the channel to a server; this never waits for the network.

        Raises:
            EngineClosedError: after `close`, or in a process forked after the first use.
        """
        with self._lock:
            if self.closed:
                raise EngineClosedError("the client was closed")
            channel = self._channels.get(address)
            if channel is None:
                endpoint = self._places[address]
                channel = LazyChannel(endpoint.access, connect_timeout=self._connect_timeout, target=address)
                self._channels[address] = channel
        return channel.get()

    def metadata(self, address: str) -> Metadata:
        """Return the metadata of the next call to a server, with the token if there is one.

        Raises:
            ConfigError: the token's file cannot be read any more, or holds no token.
        """
        return self._places[address].access.metadata()

    def check_open(self) -> None:
        """Raise what `channel` would."""
        # First, and without the lock: who held it when the process forked is not in this one.
        for channel in list(self._channels.values()):
            channel.check_fork()
        if self.closed:
            raise EngineClosedError("the client was closed")

    def look(self, timeout: float) -> ServerStatus:
        """Look at all servers at the same time, whatever their breakers say; waits at most `timeout` seconds.

        Raises:
            EngineClosedError: after `close`.
        """
        if self._many:
            self._prober.used()
            self._prober.looked_up.wait(min(self._connect_timeout, timeout))
        found = [(address, self._places[address].access) for address in self.balancer.addresses]
        if len(found) == 1:
            ((address, access),) = found
            return look(access, self.channel(address), timeout)
        channels = [self.channel(address) for address, _ in found]
        with ThreadPoolExecutor(len(found), "crayon-look") as pool:
            looks = [
                pool.submit(look, access, channel, timeout, address)
                for (address, access), channel in zip(found, channels, strict=True)
            ]
            return together(tuple(each.result() for each in looks))

    def close(self) -> None:
        """Cancel what runs and disconnect. Safe to call twice, and in a forked process."""
        if any(channel.forked for channel in list(self._channels.values())):
            return
        with self._lock:
            self.closed = True
            channels = list(self._channels.values())
        for channel in channels:
            channel.close()
        self._prober.close()

    # -- inside

    def _breaker(self) -> Breaker:
        given, self._given = self._given, None
        return self._fresh() if given is None else given

    def _look_up(self) -> None:
        found: tuple[Endpoint, ...] = resolver.look_up(self._accesses)
        with self._lock:
            self._places.update({endpoint.target: endpoint for endpoint in found})
        self.balancer.update(endpoint.target for endpoint in found)

    def _drop_retired(self) -> None:
        for address in self.balancer.retired():
            with self._lock:
                channel = self._channels.pop(address, None)
            if channel is not None:
                channel.close()

    def _refusal(self) -> str:
        said = []
        for each in self.balancer.status():
            if each.health is Health.NOT_SERVING:
                said.append(f"{each.address} {_SAID[each.health]}")
            else:
                wait = each.retry_after_s
                said.append(f"{each.address} failed several times in a row and is left alone for {wait:.1f} s more")
        return "; ".join(said)
