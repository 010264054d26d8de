/*
 * microvm_kvm: one machine of KVM and its vCPUs. Knows nothing of threads, names or modes being changed;
 * microvm.c does. On a machine that is not x86-64 everything here fails with MICROVM_STEP_MACHINE.
 *
 * The functions that return a bool have written `failed` where they return false.
 */
#ifndef KVMAFF_MICROVM_KVM_H
#define KVMAFF_MICROVM_KVM_H

#include "microvm.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>

enum { MICROVM_KICK = SIGUSR1 };   /* makes a vCPU thread leave guest mode */

struct kvm_run;

struct kvm_machine {
    int    kvm_fd, vm_fd;   /* -1: not open */
    void  *ram;
    size_t run_bytes;
};

struct kvm_vcpu {
    struct kvm_run *run;    /* NULL: there is none */
    int32_t         number;
    int             fd;     /* -1: not open */
};

static inline bool microvm_fail(struct microvm_failure *failed, int step, int vcpu, int error)
{
    *failed = (struct microvm_failure){ .step = step, .vcpu = vcpu, .error = error };
    return false;
}

/* Create a machine whose memory holds the code of every mode. Descriptors must be -1 before. */
bool kvm_machine_open(struct kvm_machine *machine, const char *path, struct microvm_failure *failed);

/* Give back what kvm_machine_open() got, also where it failed half way. */
void kvm_machine_close(struct kvm_machine *machine);

/* Create the vCPU of the calling thread, which may be kicked from then on, and prove that it works. */
bool kvm_vcpu_create(const struct kvm_machine *machine, struct kvm_vcpu *vcpu,
                     struct microvm_failure *failed);

void kvm_vcpu_close(const struct kvm_machine *machine, struct kvm_vcpu *vcpu);

/* Put the vCPU at the start of a mode's code. Call kvm_vcpu_unkick() before entering it. */
bool kvm_vcpu_load(struct kvm_vcpu *vcpu, int32_t mode, struct microvm_failure *failed);

/* Forget the kicks so far: any later one makes kvm_vcpu_enter() return at once. */
void kvm_vcpu_unkick(struct kvm_vcpu *vcpu);

/* Run the guest until something happens. `halted`: it executed `hlt`. False: the vCPU cannot go on. */
bool kvm_vcpu_enter(struct kvm_vcpu *vcpu, bool *halted, struct microvm_failure *failed);

#endif
