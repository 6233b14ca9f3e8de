"""JSON, rows and folders, on a directory and on a real S3 server alike."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from reflux.artifacts import (
    Artifacts,
    attempt_folder,
    pieces_folder,
    run_folder,
    teacher_answer_path,
    translated,
)
from reflux.errors import RefluxError, Retriable
from reflux.records import Answer
from tests.s3 import BUCKET, S3


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifacts:
    """An empty store of each kind."""
    if request.param == "file":
        return Artifacts(f"file://{tmp_path}/not/yet/there")
    server: S3 = request.getfixturevalue("s3")
    use(server, monkeypatch)
    return Artifacts(f"s3://{BUCKET}/{tmp_path.name}")


def use(server: S3, monkeypatch: pytest.MonkeyPatch, **other: str) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (server.environment | other).items():
        monkeypatch.setenv(name, value)


def answer(text: str, prompt_id: str = "p1") -> Answer:
    return Answer(prompt_id=prompt_id, prompt="Write …", text=text)


# Both stores


def test_what_is_put_is_got_and_listed_and_gone_when_deleted(store: Artifacts) -> None:
    store.put("runs/b/2", b"two")
    store.put("runs/a/1", b"one")
    store.put("runs/ab", b"not below runs/a")
    assert store.get("runs/a/1") == b"one"
    assert store.paths("runs/a") == store.paths("runs/a/") == ["runs/a/1"]
    assert store.sizes() == {"runs/a/1": 3, "runs/ab": 16, "runs/b/2": 3}
    assert store.paths("runs/none") == []
    store.delete("runs/a/1")
    store.delete("runs/a/1")
    assert not store.exists("runs/a/1")
    assert store.exists("runs/b/2")


def test_what_is_missing_is_a_file_not_found(store: Artifacts, tmp_path: Path) -> None:
    for read in (store.get, store.get_json, lambda path: list(store.read_rows(path, Answer))):
        with pytest.raises(FileNotFoundError):
            read("nothing/here")
    with pytest.raises(FileNotFoundError):
        store.copy("nothing/here", "there")
    with pytest.raises(FileNotFoundError, match="nothing below empty"):
        store.download("empty", tmp_path / "target")


def test_create_only_refuses_the_second(store: Artifacts) -> None:
    assert store.create("answers/1", b"first")
    assert not store.create("answers/1", b"second")
    assert store.get("answers/1") == b"first"


def test_of_many_who_create_at_once_one_succeeds(store: Artifacts) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def create(who: int) -> None:
        barrier.wait()
        if store.create("answers/raced", str(who).encode()):
            won.append(who)

    threads = [threading.Thread(target=create, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("answers/raced") == str(won[0]).encode()


def test_a_reader_sees_the_old_object_or_the_new_one(store: Artifacts) -> None:
    written = [bytes([letter]) * 200_000 for letter in b"ab"]
    store.put("state.json", written[0])
    done = threading.Event()

    def write() -> None:
        for i in range(40):
            store.put("state.json", written[i % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(store.get("state.json"))
    writer.join()
    assert seen <= set(written)
    assert seen


@pytest.mark.parametrize("text", ["plain", "a\u2028b\u2029c\x85d", "line\r\nbreaks\n", '"quoted" \\ and ünïcode 🚗', ""])
def test_rows_come_back_as_they_were(store: Artifacts, text: str) -> None:
    rows = [answer(text), answer(text * 2, "p2")]
    assert store.write_rows("rows.jsonl", rows) == 2
    assert list(store.read_rows("rows.jsonl", Answer)) == rows
    assert store.get("rows.jsonl").count(b"\n") == 2


def test_no_rows_are_an_empty_file(store: Artifacts) -> None:
    assert store.write_rows("none.jsonl", []) == 0
    assert list(store.read_rows("none.jsonl", Answer)) == []


def test_json_comes_back_as_it_was(store: Artifacts) -> None:
    store.put_json("a.json", {"x": [1, None, "ü"]})
    store.put_json("b.json", answer("text"))
    assert store.get_json("a.json") == {"x": [1, None, "ü"]}
    assert Answer.model_validate(store.get_json("b.json")) == answer("text")


@pytest.mark.parametrize("path", ["../outside", "runs/../../outside", "runs/./x"])
def test_a_path_cannot_leave_the_root(store: Artifacts, path: str) -> None:
    with pytest.raises(RefluxError, match="not a place"):
        store.put(path, b"x")
    with pytest.raises(RefluxError, match="not a place"):
        store.get(path)


def test_a_leading_slash_is_the_root_of_the_store(store: Artifacts) -> None:
    store.put("/etc/passwd", b"x")
    assert store.sizes() == {"etc/passwd": 1}


def test_folders_go_up_and_come_down(store: Artifacts, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "weights.bin").write_bytes(os.urandom(11_000_000))
    (source / "deep" / "er" / "config.json").write_text("{}")
    (source / "empty").write_bytes(b"")
    paths = store.upload(source, "adapter/")
    assert paths == ["adapter/deep/er/config.json", "adapter/empty", "adapter/weights.bin"]
    target = store.download("adapter", tmp_path / "target")
    for file in ("weights.bin", "deep/er/config.json", "empty"):
        assert (target / file).read_bytes() == (source / file).read_bytes()
    store.copy("adapter/deep/er/config.json", "copy.json")
    assert store.get("copy.json") == b"{}"


TREE = ("a.c", "a/x.c", "a-b/y.c", "z.c", "z/q/r.c", "Z.c", "\u00e4/\u00f6#1.c", "a b/c?.c", "50%/a*.c", "runs/1.json")


def test_a_walk_is_in_path_order_on_every_store(store: Artifacts) -> None:
    for path in TREE:
        store.put(path, b"x" * len(path))
    assert list(store.walk()) == [(path, len(path)) for path in sorted(TREE)]
    assert list(store.walk("z")) == list(store.walk("z/")) == [("z/q/r.c", 7)]
    assert list(store.walk("none")) == []


def test_a_walk_begins_before_all_is_listed(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02d}").mkdir()
        (tmp_path / f"{i:02d}" / "a").write_bytes(b"")
    walk = Artifacts(f"file://{tmp_path}").walk()
    assert next(walk)[0] == "00/a"
    (tmp_path / "39" / "b").write_bytes(b"late")
    assert [path for path, _ in walk][-2:] == ["39/a", "39/b"]


def test_links_that_go_round_and_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a").write_bytes(b"1")
    (tmp_path / "in" / "deep" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "there").symlink_to(tmp_path / "in" / "deep")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / os.fsdecode(b"\xff.c")).write_bytes(b"1")
    store = Artifacts(f"file://{tmp_path}")
    paths = [path for path, _ in store.walk()]
    assert [path for path in paths if path.endswith("a")] == ["in/deep/a", "there/a", "there/up/deep/a"]
    with pytest.raises(RefluxError, match="not a place"):
        store.get(next(path for path in paths if path.endswith(".c")))


# What goes wrong on S3


def test_a_wrong_secret_is_access_denied(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    use(s3, monkeypatch, AWS_SECRET_ACCESS_KEY="wrong")
    store = Artifacts(f"s3://{BUCKET}")
    for use_it in (lambda: store.get("x"), lambda: store.put("x", b""), lambda: store.exists("x"), lambda: store.paths("x")):
        with pytest.raises(RefluxError) as raised:
            use_it()
        assert raised.value.code == "access_denied"
        assert "wrong" not in str(raised.value)


def test_a_secret_may_be_in_a_file(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(s3, monkeypatch)
    (tmp_path / "secret").write_text(s3.environment["AWS_SECRET_ACCESS_KEY"] + "\n")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(tmp_path / "secret"))
    Artifacts(f"s3://{BUCKET}").put("by-file", b"x")


def test_a_missing_bucket_is_said_to_be_missing(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    use(s3, monkeypatch)
    store = Artifacts("s3://no-such-bucket-here")
    for use_it in (lambda: store.get("x"), lambda: store.put("x", b""), lambda: store.paths("x")):
        with pytest.raises(RefluxError) as raised:
            use_it()
        assert raised.value.code == "no_such_bucket"


def test_a_closed_port_is_a_timeout_that_may_be_tried_again(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    use(s3, monkeypatch, AWS_ENDPOINT="http://127.0.0.1:9")
    with pytest.raises(RefluxError) as raised:
        Artifacts(f"s3://{BUCKET}").get("x")
    assert raised.value.code == "s3_timeout"


@pytest.mark.parametrize(
    ("status", "code"), [(503, "s3_throttled"), (429, "s3_throttled"), (500, "s3_timeout"), (401, "access_denied")]
)
def test_what_the_server_refuses(status: int, code: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing(status) as endpoint:
        use(s3, monkeypatch, AWS_ENDPOINT=endpoint)
        there = Artifacts(f"s3://{BUCKET}")
        for use_it in (lambda: there.get("x"), lambda: there.paths("x"), lambda: list(there.walk("x"))):
            with pytest.raises(RefluxError) as raised:
                use_it()
            assert raised.value.code == code


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://somewhere/x", "http://127.0.0.1:9/x", "s3://", "file://relative/path"])
def test_an_address_that_is_none_is_said_so(url: str) -> None:
    with pytest.raises(RefluxError) as raised:
        Artifacts(url).put("x", b"")
    assert raised.value.code == "access_denied"
    assert "s3://" in raised.value.hint


def test_a_folder_that_may_not_be_written_is_access_denied(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RefluxError):
        Artifacts(f"file://{tmp_path}/file/below").put("x", b"")


@contextmanager
def refusing(status: int) -> Iterator[str]:
    """A server that answers every request with this status."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# Where things lie


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    """The reader's own by the system; the store's by obstore, whose words these are."""
    store = Artifacts(f"file://{tmp_path}")
    store.put("a", bytes(1 << 20))
    with pytest.raises(Retriable) as reader:
        store.fetch("a", Path("/dev/full"))
    assert reader.value.code == "disk_low"
    told = GenericError("Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)")
    assert translated(told, store.url).code == "s3_timeout"
    assert translated(told, store.url).hint.startswith("Free space")


def test_the_folders_of_a_run() -> None:
    assert attempt_folder("r1", "train-001", 2) == "runs/r1/tasks/train-001/attempt-2"
    assert pieces_folder("r1", "train-001") == "runs/r1/pieces/train-001"
    assert teacher_answer_path("r1", "correct-001", "p9", 2) == "runs/r1/pieces/teacher/correct-001/p9-2.json"
    places = (attempt_folder("r1", "k", 1), pieces_folder("r1", "k"), teacher_answer_path("r1", "teach", "p", 1))
    assert all(path.startswith(run_folder("r1") + "/") for path in places)
