/* See microvm.h for the rules.
 *
 * How a vCPU thread is told something: the new mode is written to `wanted` under the lock, then the thread
 * is woken (its condition variable, should it sleep) and kicked (SIGUSR1, should it be in guest mode).
 * No kick is lost: the thread first clears immediate_exit, then looks at `wanted`, then enters the guest.
 * A kick that comes earlier than the clearing finds `wanted` written; one that comes later sets
 * immediate_exit, and KVM_RUN returns at once.
 */
#define _GNU_SOURCE 1   /* as pyconfig.h has it, in whose company this is compiled */
#include "microvm_kvm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    NAP_MS      = 50,
    STACK_BYTES = 256 << 10,   /* 512 threads of the usual 8 MiB would look like a leak to people */
    ENDED       = -1           /* as `wanted`: leave; as `mode`: none yet */
};

enum state { BORN = 0, READY, FAILED };

/* A thread of the machine. */
struct row {
    struct vm             *vm;
    pthread_t              handle;
    pthread_cond_t         wake;
    _Atomic int32_t        wanted;    /* written under the lock, read without */
    int32_t                mode;      /* in effect; under the lock */
    int32_t                state;     /* under the lock */
    int32_t                tid;
    struct kvm_vcpu        vcpu;      /* number -1: an IOThread */
    struct microvm_failure failure;
    char                   name[MICROVM_NAME_BYTES];
};

struct vm {
    pthread_mutex_t    lock;
    pthread_cond_t     changed;   /* a row's mode or state */
    pthread_cond_t     release;
    struct kvm_machine machine;
    bool               alive, released, named;
    int32_t            n_vcpus, n_rows, n_begun;
    struct row         rows[];    /* the vCPUs first */
};

static struct timespec after_ms(int32_t ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000L;
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    return at;
}

/* Sleep for a moment, or until something is wanted of this thread. */
static void nap(struct row *row, int32_t mode)
{
    struct timespec until = after_ms(NAP_MS);

    pthread_mutex_lock(&row->vm->lock);
    if (atomic_load(&row->wanted) == mode)
        pthread_cond_timedwait(&row->wake, &row->vm->lock, &until);
    pthread_mutex_unlock(&row->vm->lock);
}

static void took(struct row *row, int32_t mode)
{
    pthread_mutex_lock(&row->vm->lock);
    row->mode = mode;
    pthread_cond_signal(&row->vm->changed);
    pthread_mutex_unlock(&row->vm->lock);
}

/* Run the vCPU until it shall end. False: it cannot go on. */
static bool kvm_run(struct row *row)
{
    int32_t mode = ENDED, wanted;
    bool halted;

    for (;;) {
        kvm_vcpu_unkick(&row->vcpu);
        wanted = atomic_load(&row->wanted);
        if (wanted == ENDED)
            return true;
        if (wanted != mode) {
            if (!kvm_vcpu_load(&row->vcpu, wanted, &row->failure))
                return false;
            mode = wanted;
            took(row, mode);
            continue;
        }
        if (!kvm_vcpu_enter(&row->vcpu, &halted, &row->failure))
            return false;
        if (halted)
            nap(row, mode);
    }
}

/* What stands in for a vCPU where there is no KVM. */
static bool plain_run(struct row *row)
{
    int32_t mode = ENDED, wanted;

    while ((wanted = atomic_load(&row->wanted)) != ENDED) {
        if (wanted != mode) {
            mode = wanted;
            took(row, mode);
        }
        if (mode == MICROVM_HALT)
            nap(row, mode);
        else if (mode == MICROVM_EXIT)
            syscall(SYS_getppid);
    }
    return true;
}

static bool iothread_run(struct row *row)
{
    pthread_mutex_lock(&row->vm->lock);
    while (atomic_load(&row->wanted) != ENDED)
        pthread_cond_wait(&row->wake, &row->vm->lock);
    pthread_mutex_unlock(&row->vm->lock);
    return true;
}

static void *row_main(void *argument)
{
    struct row *row = argument;
    struct vm *vm = row->vm;
    const bool kvm = vm->machine.vm_fd >= 0 && row->vcpu.number >= 0;
    bool well;

    row->tid = (int32_t)syscall(SYS_gettid);
    if (vm->named)
        pthread_setname_np(pthread_self(), row->name);
    well = !kvm || kvm_vcpu_create(&vm->machine, &row->vcpu, &row->failure);

    pthread_mutex_lock(&vm->lock);
    row->state = well ? READY : FAILED;
    pthread_cond_signal(&vm->changed);
    /* no vCPU runs before the last one is there: spinning ones would hold up the birth of the others */
    while (well && !vm->released)
        pthread_cond_wait(&vm->release, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
    if (!well)
        return NULL;

    if (row->vcpu.number < 0)
        well = iothread_run(row);
    else if (kvm)
        well = kvm_run(row);
    else
        well = plain_run(row);
    if (!well) {
        pthread_mutex_lock(&vm->lock);
        row->state = FAILED;
        pthread_cond_signal(&vm->changed);
        pthread_mutex_unlock(&vm->lock);
    }
    return NULL;
}

/* Start one thread and wait until it is ready. */
static bool row_start(struct row *row, struct microvm_failure *failed)
{
    struct vm *vm = row->vm;
    pthread_attr_t attributes;
    sigset_t all, before;
    bool ready;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    rc = pthread_create(&row->handle, &attributes, row_main, row);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc)
        return microvm_fail(failed, MICROVM_STEP_THREAD, row->vcpu.number, rc);
    vm->n_begun++;

    pthread_mutex_lock(&vm->lock);
    while (row->state == BORN)
        pthread_cond_wait(&vm->changed, &vm->lock);
    ready = row->state == READY;
    if (!ready)
        *failed = row->failure;
    pthread_mutex_unlock(&vm->lock);
    return ready;
}

/* Write what is wanted of a row, and see that its thread notices. */
static void tell(struct row *row, int32_t wanted)
{
    pthread_mutex_lock(&row->vm->lock);
    atomic_store(&row->wanted, wanted);
    pthread_cond_signal(&row->wake);
    pthread_mutex_unlock(&row->vm->lock);
    if (row->vcpu.run)
        pthread_kill(row->handle, MICROVM_KICK);
}

static bool prepare(struct vm *vm, const struct microvm_plan *plan)
{
    pthread_condattr_t monotonic;

    *vm = (struct vm){ .alive = true, .named = plan->named, .machine = { .kvm_fd = -1, .vm_fd = -1 } };
    vm->n_vcpus = plan->n_vcpus;
    vm->n_rows = plan->n_vcpus + plan->n_iothreads;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&vm->changed, &monotonic);
    pthread_cond_init(&vm->release, NULL);
    for (int32_t i = 0; i < vm->n_rows; i++) {
        struct row *row = &vm->rows[i];

        memset(row, 0, sizeof *row);
        row->vm = vm;
        row->mode = ENDED;
        row->vcpu.fd = -1;
        row->vcpu.number = i < vm->n_vcpus ? i : -1;
        pthread_cond_init(&row->wake, &monotonic);
        atomic_init(&row->wanted, plan->mode);
    }
    pthread_condattr_destroy(&monotonic);
    for (int32_t i = 0; i < plan->n_iothreads; i++) {
        struct row *row = &vm->rows[vm->n_vcpus + i];
        const char *id = plan->iothreads[i];

        if (!*id || snprintf(row->name, sizeof row->name, "IO %s", id) >= (int)sizeof row->name)
            return false;
    }
    for (int32_t i = 0; i < vm->n_vcpus; i++)
        snprintf(vm->rows[i].name, sizeof vm->rows[i].name, "CPU %d/%s",
                 i % MICROVM_MAX_VCPUS,   /* the compiler sees that it fits */
                 plan->kvm ? "KVM" : "TCG");
    return true;
}

int64_t microvm_bytes(int32_t n_vcpus, int32_t n_iothreads)
{
    if (n_vcpus < 1 || n_vcpus > MICROVM_MAX_VCPUS || n_iothreads < 0 ||
        n_iothreads > MICROVM_MAX_IOTHREADS)
        return -EINVAL;
    return (int64_t)(sizeof(struct vm) + (size_t)(n_vcpus + n_iothreads) * sizeof(struct row));
}

int32_t microvm_start(void *memory, int64_t bytes, const struct microvm_plan *plan,
                      int32_t *tids, struct microvm_failure *failed)
{
    struct vm *vm = memory;
    const int64_t need = microvm_bytes(plan->n_vcpus, plan->n_iothreads);
    bool well;

    microvm_fail(failed, MICROVM_STEP_ARGUMENTS, -1, EINVAL);
    if (need < 0 || bytes < need || (uintptr_t)memory % _Alignof(struct vm) || plan->mode < 0 ||
        plan->mode >= MICROVM_MODES)
        return -EINVAL;
    well = prepare(vm, plan) && (!plan->kvm || kvm_machine_open(&vm->machine, plan->kvm, failed));
    for (int32_t i = 0; well && i < vm->n_rows; i++)
        well = row_start(&vm->rows[i], failed);
    if (!well) {
        microvm_stop(vm);
        return failed->error ? -failed->error : -EIO;
    }
    *failed = (struct microvm_failure){ .vcpu = -1 };
    for (int32_t i = 0; i < vm->n_rows; i++)
        tids[i] = vm->rows[i].tid;
    pthread_mutex_lock(&vm->lock);
    vm->released = true;
    pthread_cond_broadcast(&vm->release);
    pthread_mutex_unlock(&vm->lock);
    return vm->n_rows;
}

int32_t microvm_mode(void *memory, int32_t mode, int32_t vcpu, int32_t wait_ms,
                     struct microvm_failure *failed)
{
    struct vm *vm = memory;
    const struct timespec until = after_ms(wait_ms);
    int32_t first, end, rc = 0;

    microvm_fail(failed, MICROVM_STEP_ARGUMENTS, vcpu, EINVAL);
    if (mode < 0 || mode >= MICROVM_MODES || vcpu < -1 || vcpu >= vm->n_vcpus || wait_ms < 0)
        return -EINVAL;
    first = vcpu < 0 ? 0 : vcpu;
    end = vcpu < 0 ? vm->n_vcpus : vcpu + 1;
    for (int32_t i = first; i < end; i++)
        tell(&vm->rows[i], mode);

    pthread_mutex_lock(&vm->lock);
    for (int32_t i = first; i < end && !rc; i++) {
        struct row *row = &vm->rows[i];

        while (row->mode != mode && row->state != FAILED && !rc)
            rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
        if (row->state == FAILED) {
            *failed = row->failure;
            rc = failed->error ? failed->error : EIO;
        } else if (row->mode == mode) {
            rc = 0;
        } else {
            microvm_fail(failed, MICROVM_STEP_MODE, i, rc);
        }
    }
    pthread_mutex_unlock(&vm->lock);
    return rc ? -rc : end - first;
}

int32_t microvm_stopped(void *memory, struct microvm_failure *failed)
{
    struct vm *vm = memory;
    int32_t count = 0;

    pthread_mutex_lock(&vm->lock);
    for (int32_t i = 0; i < vm->n_vcpus; i++)
        if (vm->rows[i].state == FAILED && !count++)
            *failed = vm->rows[i].failure;
    pthread_mutex_unlock(&vm->lock);
    return count;
}

int32_t microvm_stop(void *memory)
{
    struct vm *vm = memory;

    if (!vm->alive)
        return 0;
    vm->alive = false;
    pthread_mutex_lock(&vm->lock);
    vm->released = true;
    pthread_cond_broadcast(&vm->release);
    pthread_mutex_unlock(&vm->lock);
    for (int32_t i = 0; i < vm->n_begun; i++)
        tell(&vm->rows[i], ENDED);
    for (int32_t i = 0; i < vm->n_begun; i++)
        pthread_join(vm->rows[i].handle, NULL);

    for (int32_t i = 0; i < vm->n_rows; i++) {
        kvm_vcpu_close(&vm->machine, &vm->rows[i].vcpu);
        pthread_cond_destroy(&vm->rows[i].wake);
    }
    kvm_machine_close(&vm->machine);
    pthread_cond_destroy(&vm->release);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
    return vm->n_begun;
}
