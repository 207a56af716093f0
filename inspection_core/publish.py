"""Results told to others: JSON Lines, a folder, a webhook, MQTT.

A message is written to the run's database together with its result, and dropped once its receiver has it. So a receiver
that is away, or a process that dies, costs no message; one may come twice. ``path`` and ``sha256`` say which it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Self

from inspection_core.errors import UsageError
from inspection_core.io.atomic import write_text
from inspection_core.io.store import RunStore

SECONDS = 10.0
"""How long a receiver may take."""

WAITS = (0.5, 30.0)
"""Seconds before a message is sent again: at first, and at most."""

GRACE = 5.0
"""Seconds for what is left when a run ends; the rest is sent by the next."""


class Sink(ABC):
    """A receiver of messages; `name` says which, without a password."""

    name: str

    @abstractmethod
    def send(self, messages: Sequence[str]) -> None:
        """Send JSON texts; return once the receiver has all of them.

        Raises
        ------
        Exception
            If it has not; they are sent again later.
        """

    def close(self) -> None:
        """Let go of the receiver."""
        return


class JsonLines(Sink):
    """Appends to a file, one line a message."""

    def __init__(self, path: Path) -> None:
        self.name = f"jsonl:{path}"
        self.path = path

    def send(self, messages: Sequence[str]) -> None:
        """Append, and wait until it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that a crash cut off stays a line of its own
                    file.write(b"\n")
            file.write("".join(f"{text}\n" for text in messages).encode())
            file.flush()
            os.fsync(file.fileno())


class Folder(Sink):
    """Writes one JSON file an image, whole or not at all; a second message of an image replaces the first."""

    def __init__(self, path: Path) -> None:
        self.name = f"folder:{path}"
        self.path = path

    def send(self, messages: Sequence[str]) -> None:
        """Write the files."""
        for text in messages:
            path = str(json.loads(text)["path"])
            mark = hashlib.sha256(path.encode()).hexdigest()[:8]
            write_text(self.path / f"{PurePosixPath(path).stem[:60].strip('. ') or 'image'}-{mark}.json", f"{text}\n")


class Webhook(Sink):
    """POSTs each message; a bearer token comes from ``INSPECTION_WEBHOOK_TOKEN``."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.url = url
        self.name = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        self.headers = {"Content-Type": "application/json", "User-Agent": "inspection-suite"}
        if token := os.environ.get("INSPECTION_WEBHOOK_TOKEN"):
            self.headers["Authorization"] = f"Bearer {token}"

    def send(self, messages: Sequence[str]) -> None:
        """Send, and wait for a status of 2xx."""
        for text in messages:
            request = urllib.request.Request(self.url, text.encode(), self.headers, method="POST")  # noqa: S310 - http
            with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310 - `sink` lets http and https pass
                pass


class Mqtt(Sink):
    """Publishes to a topic, at least once (QoS 1); a password comes from the URL or ``INSPECTION_MQTT_PASSWORD``."""

    def __init__(self, url: urllib.parse.SplitResult) -> None:
        from paho.mqtt.client import Client, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        if not url.hostname or not url.path.strip("/"):
            raise UsageError(
                "--publish to MQTT takes mqtt://HOST[:PORT]/TOPIC, such as mqtt://localhost/line3/results."
            )
        self.topic = url.path.strip("/")
        self.name = f"{url.scheme}://{url.hostname}:{url.port or 1883}/{self.topic}"
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv311)
        password = url.password or os.environ.get("INSPECTION_MQTT_PASSWORD")
        if url.username:
            self.client.username_pw_set(urllib.parse.unquote(url.username), password)
        if url.scheme == "mqtts":
            self.client.tls_set()
        self.place = (url.hostname, url.port or (8883 if url.scheme == "mqtts" else 1883))
        self.started = False

    def send(self, messages: Sequence[str]) -> None:
        """Publish, and wait for the broker's confirmation."""
        if not self.started:
            self.client.connect(*self.place)
            self.client.loop_start()
            self.started = True  # from here on it connects again by itself
        for text in messages:
            sent = self.client.publish(self.topic, text, qos=1)
            sent.wait_for_publish(SECONDS)
            if not sent.is_published():
                raise TimeoutError("the broker does not confirm")

    def close(self) -> None:
        """Disconnect."""
        if self.started:
            self.client.disconnect()
            self.client.loop_stop()


def sink(text: str) -> Sink:
    """Return the receiver that a text names.

    Parameters
    ----------
    text
        ``jsonl:FILE``, ``folder:DIR``, ``http://...``, ``https://...``, ``mqtt://HOST[:PORT]/TOPIC`` or ``mqtts://``.

    Raises
    ------
    UsageError
        If it is none of these.
    """
    kind, _, rest = text.partition(":")
    if kind == "jsonl" and rest:
        return JsonLines(Path(rest).absolute())
    if kind == "folder" and rest:
        return Folder(Path(rest).absolute())
    url = urllib.parse.urlsplit(text)
    if url.scheme in ("http", "https") and url.hostname:
        return Webhook(text)
    if url.scheme in ("mqtt", "mqtts"):
        if "#" in text or "+" in url.path:  # wildcards are for who listens
            raise UsageError("--publish to MQTT takes a topic without + and #, such as mqtt://localhost/line3/results.")
        return Mqtt(url)
    raise UsageError(f"--publish takes jsonl:FILE, folder:DIR, http(s)://URL or mqtt://HOST/TOPIC. Got {text!r}.")


class Publisher:
    """Sends what waits in a run's database to receivers, each in a thread of its own.

    Parameters
    ----------
    store
        Of the run.
    sinks
        Receivers.
    say
        Told in one line when a receiver is away, and when it is back.
    """

    def __init__(self, store: RunStore, sinks: Sequence[Sink], say: Callable[[str], None]) -> None:
        self.store = store
        self.sinks = sinks
        self.say = say
        self._ending = threading.Event()
        self._news = {one.name: threading.Event() for one in sinks}
        self._threads = [threading.Thread(target=self._send, args=(one,), daemon=True) for one in sinks]

    def wrap(self, text: str) -> list[tuple[str, str]]:
        """Return a message for every receiver, as `inspection_core.io.store.RunStore.put` takes them."""
        return [(one.name, text) for one in self.sinks]

    def wake(self) -> None:
        """Say that there is something to send."""
        for event in self._news.values():
            event.set()

    def left(self) -> dict[str, int]:
        """Return how many messages wait, at least, by receiver."""
        return {one.name: len(self.store.waiting(one.name, 1000)) for one in self.sinks}

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.wake()
        for thread in self._threads:
            thread.join(GRACE)
        for one in self.sinks:
            one.close()

    def _send(self, one: Sink) -> None:
        news, wait = self._news[one.name], WAITS[0]
        while True:
            ending = self._ending.is_set()  # before looking: what comes after is the next run's
            news.clear()
            try:
                waiting = self.store.waiting(one.name)
                if waiting:
                    one.send([text for _, text in waiting])
                    self.store.confirmed([number for number, _ in waiting])
                if wait > WAITS[0]:
                    self.say(f"{one.name} takes messages again.")
                wait = WAITS[0]
            except Exception as error:  # noqa: BLE001 - whatever a receiver's library raises: it is tried again
                if wait == WAITS[0]:
                    self.say(f"{one.name} takes no messages ({_why(error)}); they are kept, and sent when it does.")
                if ending:
                    return
                self._ending.wait(wait)
                wait = min(2 * wait, WAITS[1])
                continue
            if not waiting:
                if ending:
                    return
                news.wait(1.0)


def _why(error: Any) -> str:
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__)
