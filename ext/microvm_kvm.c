/* See microvm_kvm.h for the rules. */
#define _GNU_SOURCE 1   /* as pyconfig.h has it, in whose company this is compiled */
#include "microvm_kvm.h"

#if defined(__x86_64__)

#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The guest's 64 KiB: code and page tables; the first 2 MiB are mapped onto themselves. */
enum {
    CODE = 0x1000, PML4 = 0x2000, PDPT = 0x3000, PD = 0x4000, RAM_BYTES = 0x10000,
    MODE_BYTES = 16,         /* between the code of two modes */
    PORT = 0x80,
    PAGE_USER = 0x7,         /* present, writable, user */
    PAGE_LARGE_USER = 0x87,
    CR4_PAE = 0x20,
    EFER_LMA_LME = 0x500,
    RFLAGS_IOPL3 = 0x3002    /* `out` is allowed at CPL 3 */
};
static const uint64_t CR0_BITS = 0x80050033;        /* PG AM WP NE ET MP PE */
static const unsigned long TSS_ADDR = 0xfffbd000;   /* 3 pages that Intel's KVM wants, off the memory */

static const uint8_t code[MICROVM_MODES][MODE_BYTES] = {
    [MICROVM_SPIN] = { 0xeb, 0xfe },               /* jmp . */
    [MICROVM_HALT] = { 0xf4, 0xeb, 0xfd },         /* hlt; jmp .-1 */
    [MICROVM_EXIT] = { 0xe6, PORT, 0xeb, 0xfc },   /* out PORT, al; jmp .-2 */
};

/* What this thread runs, for its signal handler. */
static __thread struct kvm_run *volatile running;

static void on_kick(int number)
{
    struct kvm_run *run = running;

    (void)number;
    if (run)
        *(volatile uint8_t *)&run->immediate_exit = 1;
}

bool kvm_machine_open(struct kvm_machine *machine, const char *path, struct microvm_failure *failed)
{
    struct kvm_userspace_memory_region region = { .memory_size = RAM_BYTES };
    struct sigaction kick = { .sa_handler = on_kick };
    const uint64_t entries[][2] = {
        { PML4, PDPT | PAGE_USER }, { PDPT, PD | PAGE_USER }, { PD, PAGE_LARGE_USER },
    };
    int rc;

    machine->kvm_fd = open(path, O_RDWR | O_CLOEXEC);
    if (machine->kvm_fd < 0)
        return microvm_fail(failed, MICROVM_STEP_OPEN, -1, errno);
    rc = ioctl(machine->kvm_fd, KVM_GET_API_VERSION, 0);
    if (rc != KVM_API_VERSION)
        return microvm_fail(failed, MICROVM_STEP_GET_API_VERSION, -1, rc < 0 ? errno : 0);
    rc = ioctl(machine->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT);
    if (rc <= 0)
        return microvm_fail(failed, MICROVM_STEP_IMMEDIATE_EXIT, -1, rc < 0 ? errno : 0);
    rc = ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (rc < (int)sizeof(struct kvm_run))
        return microvm_fail(failed, MICROVM_STEP_MAP_VCPU, -1, rc < 0 ? errno : 0);
    machine->run_bytes = (size_t)rc;
    machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0);
    if (machine->vm_fd < 0)
        return microvm_fail(failed, MICROVM_STEP_CREATE_VM, -1, errno);
    if (ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDR) < 0)
        return microvm_fail(failed, MICROVM_STEP_SET_TSS_ADDR, -1, errno);

    machine->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (machine->ram == MAP_FAILED) {
        machine->ram = NULL;
        return microvm_fail(failed, MICROVM_STEP_GUEST_MEMORY, -1, errno);
    }
    memcpy((uint8_t *)machine->ram + CODE, code, sizeof code);
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        memcpy((uint8_t *)machine->ram + entries[i][0], &entries[i][1], sizeof entries[i][1]);
    region.userspace_addr = (uintptr_t)machine->ram;
    if (ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return microvm_fail(failed, MICROVM_STEP_SET_MEMORY, -1, errno);

    sigemptyset(&kick.sa_mask);
    if (sigaction(MICROVM_KICK, &kick, NULL) < 0)
        return microvm_fail(failed, MICROVM_STEP_THREAD, -1, errno);
    return true;
}

void kvm_machine_close(struct kvm_machine *machine)
{
    if (machine->vm_fd >= 0)
        close(machine->vm_fd);
    if (machine->kvm_fd >= 0)
        close(machine->kvm_fd);
    if (machine->ram)
        munmap(machine->ram, RAM_BYTES);
    *machine = (struct kvm_machine){ .kvm_fd = -1, .vm_fd = -1 };
}

/* `hlt` is for CPL 0 only; all else runs at CPL 3, where even a KVM that itself runs in a guest executes
 * code rather than emulating it. */
bool kvm_vcpu_load(struct kvm_vcpu *vcpu, int32_t mode, struct microvm_failure *failed)
{
    const uint8_t cpl = mode == MICROVM_HALT ? 0 : 3;
    const struct kvm_segment cs = {
        .limit = 0xffffffff, .selector = 0x8 | cpl, .type = 11, .present = 1, .dpl = cpl, .s = 1,
        .l = 1, .g = 1,
    };
    const struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x10 | cpl, .type = 3, .present = 1, .dpl = cpl, .s = 1,
        .db = 1, .g = 1,
    };
    const struct kvm_regs regs = {
        .rip = (uint64_t)CODE + (uint64_t)mode * MODE_BYTES, .rflags = RFLAGS_IOPL3,
    };
    struct kvm_sregs sregs;

    /* KVM finishes an `out` on the next entry: let it now, not with the new registers in place */
    vcpu->run->immediate_exit = 1;
    if (ioctl(vcpu->fd, KVM_RUN, 0) < 0 && errno != EINTR)
        return microvm_fail(failed, MICROVM_STEP_RUN, vcpu->number, errno);

    if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
        return microvm_fail(failed, MICROVM_STEP_REGISTERS, vcpu->number, errno);
    sregs.cr0 = CR0_BITS;
    sregs.cr3 = PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LMA_LME;
    sregs.cs = cs;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
        return microvm_fail(failed, MICROVM_STEP_REGISTERS, vcpu->number, errno);
    return true;
}

void kvm_vcpu_unkick(struct kvm_vcpu *vcpu)
{
    *(volatile uint8_t *)&vcpu->run->immediate_exit = 0;
    /* what the caller reads afterwards must not be read before: the handler runs in this thread */
    atomic_signal_fence(memory_order_seq_cst);
}

bool kvm_vcpu_enter(struct kvm_vcpu *vcpu, bool *halted, struct microvm_failure *failed)
{
    *halted = false;
    if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
        if (errno == EINTR || errno == EAGAIN) {
            vcpu->run->exit_reason = KVM_EXIT_INTR;
            return true;
        }
        return microvm_fail(failed, MICROVM_STEP_RUN, vcpu->number, errno);
    }
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_HLT:
        *halted = true;
        return true;
    case KVM_EXIT_INTR:
        return true;
    case KVM_EXIT_IO:
        if (vcpu->run->io.port == PORT)
            return true;
    }
    microvm_fail(failed, MICROVM_STEP_RUN, vcpu->number, 0);
    failed->exit_reason = (int32_t)vcpu->run->exit_reason;
    return false;
}

bool kvm_vcpu_create(const struct kvm_machine *machine, struct kvm_vcpu *vcpu,
                     struct microvm_failure *failed)
{
    sigset_t kick;
    void *run;
    bool halted;

    vcpu->fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, (unsigned long)vcpu->number);
    if (vcpu->fd < 0)
        return microvm_fail(failed, MICROVM_STEP_CREATE_VCPU, vcpu->number, errno);
    run = mmap(NULL, machine->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return microvm_fail(failed, MICROVM_STEP_MAP_VCPU, vcpu->number, errno);
    vcpu->run = run;

    running = run;   /* before the first kick: a handler must not be the first to touch a __thread */
    sigemptyset(&kick);
    sigaddset(&kick, MICROVM_KICK);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);

    /* the proof: one `out` must arrive */
    if (!kvm_vcpu_load(vcpu, MICROVM_EXIT, failed))
        return false;
    do {
        kvm_vcpu_unkick(vcpu);
        if (!kvm_vcpu_enter(vcpu, &halted, failed))
            return false;
    } while (vcpu->run->exit_reason == KVM_EXIT_INTR);
    if (vcpu->run->exit_reason == KVM_EXIT_IO)
        return true;
    microvm_fail(failed, MICROVM_STEP_RUN, vcpu->number, 0);
    failed->exit_reason = (int32_t)vcpu->run->exit_reason;
    return false;
}

void kvm_vcpu_close(const struct kvm_machine *machine, struct kvm_vcpu *vcpu)
{
    if (vcpu->run)
        munmap(vcpu->run, machine->run_bytes);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    vcpu->run = NULL;
    vcpu->fd = -1;
}

#else

static bool no_kvm(struct microvm_failure *failed)
{
    return microvm_fail(failed, MICROVM_STEP_MACHINE, -1, ENOTSUP);
}

bool kvm_machine_open(struct kvm_machine *machine, const char *path, struct microvm_failure *failed)
{
    (void)machine, (void)path;
    return no_kvm(failed);
}

void kvm_machine_close(struct kvm_machine *machine)
{
    (void)machine;
}

bool kvm_vcpu_create(const struct kvm_machine *machine, struct kvm_vcpu *vcpu,
                     struct microvm_failure *failed)
{
    (void)machine, (void)vcpu;
    return no_kvm(failed);
}

void kvm_vcpu_close(const struct kvm_machine *machine, struct kvm_vcpu *vcpu)
{
    (void)machine, (void)vcpu;
}

bool kvm_vcpu_load(struct kvm_vcpu *vcpu, int32_t mode, struct microvm_failure *failed)
{
    (void)vcpu, (void)mode;
    return no_kvm(failed);
}

void kvm_vcpu_unkick(struct kvm_vcpu *vcpu)
{
    (void)vcpu;
}

bool kvm_vcpu_enter(struct kvm_vcpu *vcpu, bool *halted, struct microvm_failure *failed)
{
    (void)vcpu, (void)halted;
    return no_kvm(failed);
}

#endif
