"""The jail: a process that locks itself in for good, then runs one compiler at a time for whoever holds its socket.

Standard library only, one thread, started by sandbox.py. The kernel may refuse a layer; the first message says which ones hold.
Each layer would do alone for reading files:

    namespaces   a root of its own with the given paths read-only, no network
    landlock     the same paths, by the kernel's access rules
    user         an id that owns nothing (only when started as root)
    seccomp      no sockets, no new processes, no tracing, no mounts (per command)
    rlimits      CPU, memory, files, descriptors, core dumps (per command)

A message, both ways: 4 bytes (big-endian length of the header), the header as JSON, then the bytes that `sizes` counts.
"""

import ctypes
import errno
import functools
import gc
import json
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

UNPRIVILEGED = 65432
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    config = json.loads(sys.argv[1])
    control = socket.socket(fileno=0)
    _send(control, {"layers": lock_in(config["paths"], config["writable"], config["root"]), "sizes": []})
    gc.freeze()  # else each child would copy the pages that its collector touches
    while True:
        header, (data,) = receive(control)
        if found := _seccomp_arch():
            _filter(*found, header["processes"])  # made here, once, for the children
        _send(control, *_run(control, header, data))


def lock_in(paths: list[str], writable: list[str], root: str) -> dict[str, str]:
    """Confine this process and all that it will start. Each layer with "" where it holds, else why it does not."""
    os.umask(0o022)  # the folders of the new root are for the user that we become
    outer_uid, outer_gid = os.getuid(), os.getgid()
    layers = {"namespaces": _try(_new_root, paths, writable, root, outer_uid, outer_gid)}
    os.chdir("/")
    layers["user"] = _try(_drop_user) if outer_uid == 0 else ""
    LIBC.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    layers["landlock"] = _try(_landlock, paths, writable)
    layers["seccomp"] = "" if _seccomp_arch() else f"no table of system calls for {platform.machine()}"
    layers["rlimits"] = ""
    os.umask(0o077)
    return layers


def receive(control: socket.socket) -> tuple[dict[str, Any], list[bytes]]:
    """One message. Raises EOFError when the other side is gone."""
    header = json.loads(_read(control, struct.unpack(">I", _read(control, 4))[0]))
    return header, [_read(control, size) for size in header["sizes"]]


def _send(control: socket.socket, header: dict[str, Any], *parts: bytes) -> None:
    text = json.dumps({**header, "sizes": [len(part) for part in parts]}).encode()
    control.sendall(struct.pack(">I", len(text)) + text + b"".join(parts))


def _read(control: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = control.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


# One command


def _run(control: socket.socket, job: dict[str, Any], stdin: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Run job["argv"] until it ends, or passes its time or its output. Its whole process group is gone afterwards."""
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    read_err, write_err = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(job, read_in, write_out, write_err)
    for fd in (read_in, write_out, write_err):
        os.close(fd)
    try:
        out, err, killed = _exchange(control, job, stdin, write_in, read_out, read_err, started + job["wall_seconds"])
    finally:
        _kill_group(child)
        _, status, usage = os.wait4(child, 0)
        _kill_group(child)
    if not killed and os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        killed = "time"
    reply = {
        "status": os.waitstatus_to_exitcode(status),
        "killed": killed,
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_kb": usage.ru_maxrss,
    }
    return reply, out, err


def _become(job: dict[str, Any], read_in: int, write_out: int, write_err: int) -> None:
    """In the child: take the pipes, the limits and the filter, then become the command."""
    try:
        os.setsid()
        LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        for fd, target in ((read_in, 0), (write_out, 1), (write_err, 2)):
            os.dup2(fd, target)
        os.closerange(3, 256)
        if job["folder"]:
            os.chdir(job["folder"])
        cpu, memory, file = job["cpu_seconds"], job["memory_mb"] << 20, job["file_mb"] << 20
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _seccomp(job["processes"])
        os.execve(job["argv"][0], job["argv"], {"PATH": "/usr/bin", "LC_ALL": "C"})  # noqa: S606 there is to be no shell
    except OSError as error:
        os.write(2, f"jail: {error}".encode())
    finally:
        os._exit(127)


def _exchange(
    control: socket.socket, job: dict[str, Any], stdin: bytes, write_in: int, read_out: int, read_err: int, deadline: float
) -> tuple[bytes, bytes, str]:
    """Feed stdin, collect both outputs; why the command must be killed, if it must."""
    os.set_blocking(write_in, False)
    outputs = {read_out: bytearray(), read_err: bytearray()}
    pending = memoryview(stdin)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(write_in, select.POLLOUT)
    for fd in outputs:
        poll.register(fd, select.POLLIN)
    open_fds = {write_in, *outputs}
    killed = ""
    while not killed and open_fds - {write_in}:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            killed = "time"
        for fd, event in ready:
            if fd == control.fileno():
                raise EOFError
            if fd == write_in:
                pending = _feed(fd, pending, event)
                done = not pending
            else:
                part = os.read(fd, 65536)
                outputs[fd] += part
                done = not part
                if sum(map(len, outputs.values())) > job["output_bytes"]:
                    killed = "output"
            if done:
                poll.unregister(fd)
                os.close(fd)
                open_fds.discard(fd)
    for fd in open_fds:
        os.close(fd)
    limit = job["output_bytes"]
    return bytes(outputs[read_out][:limit]), bytes(outputs[read_err][:limit]), killed


def _feed(fd: int, pending: memoryview, event: int) -> memoryview:
    if event & (select.POLLERR | select.POLLHUP):
        return pending[:0]
    try:
        return pending[os.write(fd, pending[:65536]) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:
        return pending[:0]


def _kill_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # gone already, or not yet a group of its own: then it dies with its pipes


# The layers


def _try(layer: Any, *arguments: Any) -> str:
    try:
        layer(*arguments)
    except OSError as error:
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    return ""


def _call(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _new_root(paths: list[str], writable: list[str], root: str, uid: int, gid: int) -> None:
    """Namespaces of our own, with an empty root that holds only `paths`. `root` is an empty folder to mount it on."""
    user, mount, uts, ipc, net = 0x10000000, 0x00020000, 0x04000000, 0x08000000, 0x40000000
    _call(LIBC.unshare(mount | uts | ipc | net | (0 if uid == 0 else user)), "unshare")
    if uid != 0:
        for file, text in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
            with open(f"/proc/self/{file}", "w") as out:
                out.write(text)
    _mount(None, "/", 0x44000)  # MS_REC | MS_PRIVATE
    _mount("tmpfs", root, 0x6, "tmpfs", "size=1m,mode=755")  # MS_NOSUID | MS_NODEV
    for path in [*paths, *writable, "/dev/null"]:
        _bind(path, root + path, read_only=path not in (*writable, "/dev/null"))
    os.chdir(root)
    _call(LIBC.syscall(155 if platform.machine() == "x86_64" else 41, b".", b"."), "pivot_root")
    _call(LIBC.umount2(b".", 2), "umount")  # MNT_DETACH
    os.chdir("/")
    _mount(None, "/", 0x27)  # MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV


def _bind(source: str, target: str, read_only: bool) -> None:
    if os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.mkdir(target, 0o755)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source, target, 0x5000)  # MS_BIND | MS_REC
    if read_only:
        kept = os.statvfs(target).f_flag & (os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME)
        flags = {os.ST_NOEXEC: 0x8, os.ST_NOATIME: 0x400, os.ST_NODIRATIME: 0x800, os.ST_RELATIME: 0x200000}
        extra = sum(flag for bit, flag in flags.items() if kept & bit)
        _mount(None, target, 0x1027 | extra)  # MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV


def _mount(source: str | None, target: str, flags: int, kind: str = "", options: str = "") -> None:
    arguments = [part.encode() if part else None for part in (source, target, kind)]
    _call(LIBC.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def _drop_user() -> None:
    os.setgroups([])
    os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)


def _landlock(paths: list[str], writable: list[str]) -> None:
    """Nothing may be read or run but below `paths`, nothing written but below `writable`, no TCP, no signals to others."""
    abi = LIBC.syscall(444, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        raise OSError(errno.ENOSYS, "the kernel has no Landlock")
    bits = 13 if abi == 1 else 14 if abi == 2 else 15 if abi < 5 else 16
    everything = (1 << bits) - 1
    attributes = struct.pack("QQQ", everything, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = _call(LIBC.syscall(444, attributes, ctypes.c_size_t(size), 0), "landlock_create_ruleset")
    read, execute, read_dir, write, truncate = 1 << 2, 1 << 0, 1 << 3, 1 << 1, (1 << 14) & everything
    for path in [*paths, *writable, "/dev/null"]:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        folder = os.path.isdir(path)
        access = read | execute | (read_dir if folder else 0)
        if path == "/dev/null":
            access = read | write | truncate
        elif path in writable:
            access = everything & ~execute
        rule = struct.pack("=Qi", access, fd)
        _call(LIBC.syscall(445, rules, 1, rule, 0), f"landlock_add_rule {path}")
        os.close(fd)
    _call(LIBC.syscall(446, rules, 0), "landlock_restrict_self")
    os.close(rules)


# name: (x86_64, aarch64); None where the architecture has no such call
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    "memfd_create": (319, 279),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
}
_DENIED_TO_ONE_PROCESS: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
}


def _seccomp_arch() -> tuple[int, int] | None:
    """The column of the tables, and the kernel's name for the architecture."""
    return {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}.get(platform.machine())


def _seccomp(processes: bool) -> None:
    """Refuse (EPERM) the calls of the tables from now on; the second table too unless the command may start processes."""
    found = _seccomp_arch()
    if found:
        count, program = _filter(*found, processes)
        filter_program = struct.pack("HxxxxxxP", count, ctypes.addressof(program))
        _call(LIBC.prctl(22, 2, filter_program, 0, 0), "seccomp")  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


@functools.cache
def _filter(column: int, arch: int, processes: bool) -> tuple[int, ctypes.Array[ctypes.c_char]]:
    """The number of steps of the filter, and the steps."""
    tables = _DENIED if processes else {**_DENIED, **_DENIED_TO_ONE_PROCESS}
    numbers = [number for row in tables.values() if (number := row[column]) is not None]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    deny, allow, kill = 0x00050000 | errno.EPERM, 0x7FFF0000, 0x80000000
    steps = [
        (load, 0, 0, 4),
        (equal, 1, 0, arch),
        (give, 0, 0, kill),
        (load, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),
        (give, 0, 0, kill),
    ]
    for number in numbers:
        steps += [(equal, 0, 1, number), (give, 0, 0, deny)]
    steps.append((give, 0, 0, allow))
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    return len(steps), ctypes.create_string_buffer(program, len(program))


if __name__ == "__main__":
    try:
        main()
    except (EOFError, ConnectionError):
        os._exit(0)
