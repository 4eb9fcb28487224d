"""Downloads from a server on this machine that does all that servers, and those between, may do."""

import hashlib
import http.server
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import torch
from fuzzed_files import other_weights, smallest
from outcomes import PATIENCE, Tally

import checkpoints
from checkpoints import load_state_dict

NAME, FILE = "ViT-B/32", "ViT-B-32.pt"


class Server(http.server.BaseHTTPRequestHandler):
    """Answers in the way that `way` names; `content` is what it should send."""

    content: bytes
    over: threading.Event
    way: str
    asked: int

    def do_GET(self):
        type(self).asked += 1
        getattr(self, self.way)()

    def send(self, body: bytes, length: int | None, status: int = 200) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Ways(Server):
    def whole(self):
        self.send(self.content, len(self.content))

    def whole_of_unknown_length(self):
        self.send(self.content, None)

    def cut_off_once(self):
        if self.asked > 1:
            return self.whole()
        self.send(self.content[: len(self.content) // 2], len(self.content))

    def cut_off(self):
        self.send(self.content[: len(self.content) * self.asked // 5], len(self.content))

    def cut_off_without_a_length(self):
        self.send(self.content[:-1], None)

    def longer_than_promised(self):
        self.send(self.content, len(self.content) - 1000)

    def shorter_than_promised_but_closed(self):
        self.send(self.content, len(self.content) + 1000)

    def another_file(self):
        self.send(bytes(len(self.content)), len(self.content))

    def a_page(self):
        self.send(b"<html>please log in</html>", 26)

    def nothing(self):
        self.send(b"", 0)

    def not_found(self):
        self.send(b"not here", 8, 404)

    def out_of_order(self):
        self.send(b"later", 5, 503)

    def round_and_round(self):
        self.send_response(302)
        self.send_header("Location", self.path)
        self.end_headers()

    def hangs_up(self):
        self.connection.close()

    def no_http(self):
        self.wfile.write(b"\0" * 1000)

    def slow(self):
        self.send(b"", len(self.content))
        for start in range(0, len(self.content), 2**16):
            self.wfile.write(self.content[start : start + 2**16])
            time.sleep(0.05)

    def stalls(self):
        self.send(self.content[:1000], len(self.content))
        self.over.wait()

    def trickles(self):
        self.send(b"", 10 * len(self.content))
        while not self.over.wait(0.5):
            self.wfile.write(b"x")


NEVER_ENDING = ("stalls", "trickles")
QUICK = [way for way in vars(Ways) if not way.startswith("_") and way not in NEVER_ENDING]


@contextmanager
def server() -> Iterator[type[Server]]:
    """Stands in for OpenAI's, with a small file for "ViT-B/32"."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(smallest(), Path(folder) / FILE)
        content = (Path(folder) / FILE).read_bytes()
    handler = type("Handler", (Ways,), {"content": content, "over": threading.Event()})
    entry = f"{hashlib.sha256(content).hexdigest()}/{FILE}"
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served,
        patch.dict(checkpoints.OFFICIAL, {NAME: entry}),
        patch.dict("os.environ", {"NO_PROXY": "127.0.0.1"}),
    ):
        served.daemon_threads, served.block_on_close = True, False
        served.handle_error = lambda *_: None  # a client that hangs up
        threading.Thread(target=served.serve_forever, args=[0.01], daemon=True).start()
        with patch.object(
            checkpoints.official, "OFFICIAL_SITE", f"http://127.0.0.1:{served.server_port}"
        ):
            yield handler
        handler.over.set()
        served.shutdown()


def unreliable_servers(tally: Tally, cases: int) -> None:
    """Every way to answer in turn: the right weights, or refused, and nothing half is left."""
    with server() as handler:
        for _, way in zip(range(cases), cycle(QUICK), strict=False):
            judge_download(tally, handler, way)


def servers_that_never_end(tally: Tally, cases: int) -> None:
    """A download that stalls, or comes a byte at a time for ever, ends."""
    with server() as handler:
        for _, way in zip(range(cases), cycle(NEVER_ENDING), strict=False):
            judge_download(tally, handler, way)


def judge_download(tally: Tally, handler: type[Server], way: str) -> None:
    handler.way, handler.asked = way, 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "cache"
        answer = partial(load_state_dict, NAME, folder)
        tally.judge(way, answer, partial(other_weights, smallest()), naming=NAME)
        left = [path.name for path in folder.glob("*")]
        if left not in ([], [FILE]):
            tally.wrong.append(f"{way}: leaves {left}")


def two_at_once(tally: Tally, cases: int) -> None:
    """Processes that download one file at the same time: each has it, and one file is there."""
    processes = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with server() as handler:
        at = checkpoints.official.OFFICIAL_SITE, checkpoints.OFFICIAL[NAME]
        for _, way in zip(range(cases), cycle(("whole", "slow")), strict=False):
            handler.way, handler.asked = way, 0
            with tempfile.TemporaryDirectory() as folder:
                both = [processes.Process(target=downloaded, args=(folder, *at)) for _ in range(2)]
                for one in both:
                    one.start()
                for one in both:
                    one.join(PATIENCE)
                    one.kill()
                    one.join()
                ends = [one.exitcode for one in both]
                left = [path.name for path in Path(folder).iterdir()]
                if ends == [0, 0] and left == [FILE]:
                    tally.right += 1
                else:
                    tally.wrong.append(f"{way}: processes end with {ends} and leave {left}")


def downloaded(folder: str, site: str, entry: str) -> None:
    """End with 0 if the weights are right."""
    checkpoints.official.OFFICIAL_SITE, checkpoints.OFFICIAL[NAME] = site, entry
    raise SystemExit(other_weights(smallest(), load_state_dict(NAME, folder)) or 0)
