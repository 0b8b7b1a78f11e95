"""A foreign S3 server on loopback, for tests: prints its port, has one bucket, ends with its standard input.

Its conditional writes are check-then-write in many threads; here one request runs at a time, so that it may judge races.
"""

import sys
import threading
import urllib.request

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

BUCKET = "reprise"


class OneAtATime:
    """Calls an application under a lock; its answer is whole before the lock is let go."""

    def __init__(self, application):
        self.application = application
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        # What urllib calls a form, moto reads as one and then waits for the body that it has read.
        if environ["REQUEST_METHOD"] == "PUT":
            environ["CONTENT_TYPE"] = "application/octet-stream"
        with self.lock:
            answer = self.application(environ, start_response)
            try:
                return list(answer)
            finally:
                if hasattr(answer, "close"):
                    answer.close()


def main():
    application = OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server(
        "127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
    urllib.request.urlopen(request, timeout=60).close()
    print(port, flush=True)
    # Whoever started it has gone, or wants it to.
    sys.stdin.read()


main()
