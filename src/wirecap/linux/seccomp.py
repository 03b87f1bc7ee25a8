"""Refusing system calls that a capture never makes (seccomp(2)): a classic BPF program for the calling thread.

A refused call fails with EPERM.  Threads that are started later have the filter of the one that starts them.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Iterable

from wirecap.errors import UsageError
from wirecap.linux.syscall import call, libc

_GET_SECCOMP, _SET_SECCOMP, _FILTER = 21, 22, 2  # linux/prctl.h, linux/seccomp.h
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
_NUMBER_AT, _MACHINE_AT = 0, 4  # struct seccomp_data
_X32 = 0x40000000  # x86-64's numbers for 32-bit pointers: the same calls by other numbers

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*, linux/audit.h
_NUMBERS: dict[str, tuple[int | None, int | None]] = {  # asm/unistd_64.h, asm-generic/unistd.h
    "accept": (43, 202), "accept4": (288, 242), "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171),
    "bind": (49, 200), "bpf": (321, 280), "chmod": (90, None), "chown": (92, None), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "connect": (42, 203), "delete_module": (176, 106),
    "execve": (59, 221), "execveat": (322, 281), "fchmod": (91, 52), "fchmodat": (268, 53), "fchown": (93, 55),
    "fchownat": (260, 54), "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "link": (86, None), "linkat": (265, 37), "listen": (50, 201), "mknod": (133, None), "mknodat": (259, 33),
    "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pivot_root": (155, 41),
    "process_madvise": (440, 440), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "request_key": (249, 218), "setdomainname": (171, 162), "setfsgid": (123, 152),
    "setfsuid": (122, 151), "setgid": (106, 144), "setgroups": (116, 159), "sethostname": (170, 161),
    "setns": (308, 268),
    "setregid": (114, 143), "setresgid": (119, 149), "setresuid": (117, 147), "setreuid": (113, 145),
    "settimeofday": (164, 170), "setuid": (105, 146), "socket": (41, 198), "swapoff": (168, 225), "swapon": (167, 224),
    "symlink": (88, None), "symlinkat": (266, 36), "syslog": (103, 116), "umount2": (166, 39), "unlink": (87, None),
    "unlinkat": (263, 35), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip

NEVER = frozenset(
    """
acct add_key adjtimex chroot clock_adjtime clock_settime delete_module execve execveat finit_module fsconfig fsmount
fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load
keyctl mknod mknodat modify_ldt mount_setattr move_mount name_to_handle_at open_by_handle_at open_tree personality
pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev ptrace quotactl reboot request_key
setdomainname setfsgid setfsuid setgid setgroups sethostname setregid setresgid setresuid setreuid settimeofday setuid
swapoff swapon syslog umount2 userfaultfd vhangup
""".split()
)
"""What no thread does once packets are captured: programs, mounts, modules, keys, clocks, users, other processes."""
ENTERING = frozenset({"setns", "unshare", "mount"})
"""What entering a network namespace takes, which is done for the main thread with ``--netns``."""
BY_OTHERS = NEVER | ENTERING | {"perf_event_open"}
"""What threads beside the main one do not do either."""
BY_CAPTURE_THREADS = BY_OTHERS | frozenset(
    """
accept accept4 bind bpf chmod chown connect fchmod fchmodat fchown fchownat link linkat listen rename renameat renameat2
socket symlink symlinkat unlink unlinkat
""".split()
)
"""A thread that takes packets from a NIC has its sockets, and leaves files alone."""


def require() -> None:
    """Raise UsageError where no filter can be set."""
    if platform.machine() not in _MACHINES:
        raise UsageError(f"--seccomp supports x86_64 and aarch64, not {platform.machine()}", "leave --seccomp out")
    if libc.prctl(_GET_SECCOMP, 0, 0, 0, 0) < 0:
        raise UsageError("--seccomp: this kernel is built without seccomp filters", "leave --seccomp out")


def program(refused: Iterable[str], machine: str) -> bytes:
    """The filter: these calls fail, and those of another instruction set end the process."""
    column = list(_MACHINES).index(machine)
    numbers = sorted(number for name in set(refused) if (number := _NUMBERS[name][column]) is not None)
    tests = [(_AT_LEAST, _X32)] if machine == "x86_64" else []
    tests += [(_EQUAL, number) for number in numbers]
    rows = [(_LOAD, 0, 0, _MACHINE_AT), (_EQUAL, 1, 0, _MACHINES[machine]), (_RETURN, 0, 0, _KILL),
            (_LOAD, 0, 0, _NUMBER_AT)]  # fmt: skip
    rows += [(code, len(tests) - place, 0, value) for place, (code, value) in enumerate(tests)]
    rows += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(struct.pack("HBBI", *row) for row in rows)


def refuse(names: Iterable[str]) -> None:
    """Have these calls refused to the calling thread, for good; it must have no way to new privileges.

    Raises SystemCallError if the kernel does not take the filter.
    """
    code = program(names, platform.machine())
    rows = ctypes.create_string_buffer(code, len(code))
    whole = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(rows)))
    call("setting a seccomp filter", libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(whole), 0, 0))
