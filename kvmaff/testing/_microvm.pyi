from typing import Any

ffi: Any  # _cffi_backend.FFI, which has no types

class _Lib:
    MICROVM_MAX_VCPUS: int
    MICROVM_MAX_IOTHREADS: int
    MICROVM_NAME_BYTES: int

    MICROVM_SPIN: int
    MICROVM_HALT: int
    MICROVM_EXIT: int
    MICROVM_MODES: int

    MICROVM_STEP_ARGUMENTS: int
    MICROVM_STEP_MACHINE: int
    MICROVM_STEP_OPEN: int
    MICROVM_STEP_GET_API_VERSION: int
    MICROVM_STEP_IMMEDIATE_EXIT: int
    MICROVM_STEP_CREATE_VM: int
    MICROVM_STEP_SET_TSS_ADDR: int
    MICROVM_STEP_GUEST_MEMORY: int
    MICROVM_STEP_SET_MEMORY: int
    MICROVM_STEP_THREAD: int
    MICROVM_STEP_CREATE_VCPU: int
    MICROVM_STEP_MAP_VCPU: int
    MICROVM_STEP_REGISTERS: int
    MICROVM_STEP_RUN: int
    MICROVM_STEP_MODE: int

    # Any stands for a cdata pointer throughout.
    def microvm_bytes(self, n_vcpus: int, n_iothreads: int, /) -> int: ...
    def microvm_start(
        self, memory: Any, bytes: int, plan: Any, tids: Any, failed: Any, /
    ) -> int: ...
    def microvm_mode(
        self, memory: Any, mode: int, vcpu: int, wait_ms: int, failed: Any, /
    ) -> int: ...
    def microvm_stopped(self, memory: Any, failed: Any, /) -> int: ...
    def microvm_stop(self, memory: Any, /) -> int: ...

lib: _Lib
