/*
 * microvm: a virtual machine without a guest system, so that vCPU threads are real and cost nothing else.
 *
 * The rules of this file:
 *  - The caller owns all memory. A machine lives in one block of microvm_bytes() bytes, aligned to 8,
 *    from microvm_start() until microvm_stop() has returned; nobody else writes there.
 *  - Functions return a count, or -errno. Out parameters come last.
 *  - Where microvm_start() fails, nothing is left: no thread, no descriptor, no mapping.
 *  - One machine is driven by one thread at a time. Several machines may stand in one process.
 *  - Threads are named as QEMU names them ("CPU 0/KVM", "CPU 0/TCG", "IO <id>") and block every signal,
 *    except that a vCPU thread of KVM takes SIGUSR1, which makes it leave guest mode. The handler is
 *    installed by microvm_start() and stays.
 *  - No policy: whether plain threads may stand in for KVM is the caller's to say.
 *
 * cffi reads this file without its lines that begin with '#'.
 */
#ifndef KVMAFF_MICROVM_H
#define KVMAFF_MICROVM_H

#include <stddef.h>
#include <stdint.h>

enum {
    MICROVM_MAX_VCPUS     = 256,
    MICROVM_MAX_IOTHREADS = 256,
    MICROVM_NAME_BYTES    = 16    /* a thread's name with its closing NUL: the kernel's TASK_COMM_LEN */
};

/* What a vCPU does. */
enum microvm_mode {
    MICROVM_SPIN = 0,   /* `jmp` to itself at CPL 3 in long mode: all its time is guest time */
    MICROVM_HALT,       /* `hlt`, then 50 ms asleep in userland, again and again: next to no time */
    MICROVM_EXIT,       /* `out` to a port nobody listens on, again and again: the time is the kernel's */
    MICROVM_MODES       /* how many there are */
};

/* What was being done when something failed. */
enum microvm_step {
    MICROVM_STEP_ARGUMENTS = 0,
    MICROVM_STEP_MACHINE,         /* KVM on a machine that is not x86-64 */
    MICROVM_STEP_OPEN,
    MICROVM_STEP_GET_API_VERSION, /* error 0: it is another version */
    MICROVM_STEP_IMMEDIATE_EXIT,  /* error 0: this KVM lacks it */
    MICROVM_STEP_CREATE_VM,
    MICROVM_STEP_SET_TSS_ADDR,
    MICROVM_STEP_GUEST_MEMORY,    /* to map it here */
    MICROVM_STEP_SET_MEMORY,      /* to give it to the guest */
    MICROVM_STEP_THREAD,
    MICROVM_STEP_CREATE_VCPU,
    MICROVM_STEP_MAP_VCPU,
    MICROVM_STEP_REGISTERS,
    MICROVM_STEP_RUN,             /* error 0: the guest stopped for `exit_reason` */
    MICROVM_STEP_MODE             /* the vCPU did not take a new mode in time */
};

struct microvm_failure {
    int32_t step;         /* enum microvm_step */
    int32_t vcpu;         /* its number; -1: the failure is no vCPU's */
    int32_t error;        /* an errno, positive; 0: see the step */
    int32_t exit_reason;  /* KVM_EXIT_*, for MICROVM_STEP_RUN */
};

/* What shall run. Strings need to live only as long as microvm_start() runs. */
struct microvm_plan {
    const char        *kvm;        /* path of the KVM device; NULL: plain threads, no KVM at all */
    const char *const *iothreads;  /* their ids; with "IO " in front at most 15 bytes */
    int32_t            n_iothreads;
    int32_t            n_vcpus;
    int32_t            mode;       /* enum microvm_mode, for all vCPUs */
    int32_t            named;      /* 0: leave the threads' names alone (QEMU's debug-threads=off) */
};

/* How many bytes a machine needs, or -EINVAL: 1 to 256 vCPUs, 0 to 256 IOThreads. */
int64_t microvm_bytes(int32_t n_vcpus, int32_t n_iothreads);

/* Start a machine in `memory`. When it returns, every thread is up, named and released, and every vCPU of
 * KVM has proved that it executes guest code.
 * Fills tids with the thread ids, vCPUs first, and returns how many they are; or -errno, and `failed` says
 * at what. */
int32_t microvm_start(void *memory, int64_t bytes, const struct microvm_plan *plan,
                      int32_t *tids, struct microvm_failure *failed);

/* Give vCPU number `vcpu`, or all for -1, another mode and wait at most `wait_ms` until it is in effect.
 * Returns how many vCPUs were told, or -errno; `failed` names the first that did not follow. */
int32_t microvm_mode(void *memory, int32_t mode, int32_t vcpu, int32_t wait_ms,
                     struct microvm_failure *failed);

/* How many vCPUs stopped because they could not go on; `failed` describes the first of them. */
int32_t microvm_stopped(void *memory, struct microvm_failure *failed);

/* End all threads and give everything back but the memory. Returns how many threads ended. */
int32_t microvm_stop(void *memory);

#endif
