"""Open streams of events and read them: `python -m bench.watch URL STREAMS`, until its input ends.

Then prints how many inspections all streams were told of. Imports next to nothing, so that it costs
the server beside it little.
"""

import contextlib
import selectors
import socket
import sys

READY = "ready"
_EVENT = b"event: inspection"


def main() -> None:
    """Say that the streams are open; count until the input ends."""
    url, streams = sys.argv[1:]
    host, _, port = url.rpartition("/")[2].partition(":")
    request = f"GET /v1/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    with contextlib.ExitStack() as open_now, selectors.DefaultSelector() as selector:
        for _ in range(int(streams)):
            stream = open_now.enter_context(socket.create_connection((host, int(port)), 10))
            stream.sendall(request)
            if not stream.recv(65536).startswith(b"HTTP/1.1 200"):
                raise SystemExit("a stream was refused")
            selector.register(stream, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print(READY, flush=True)
        print(_count(selector))


def _count(selector: selectors.BaseSelector) -> int:
    events = 0
    while True:
        for key, _ in selector.select():
            if not isinstance(key.fileobj, socket.socket):
                return events
            if not (data := key.fileobj.recv(1_000_000)):
                raise SystemExit("a stream ended")
            events += data.count(_EVENT)


if __name__ == "__main__":
    main()
