/*
 * What binding threads costs at least: for each thread get its mask, set another, prove that its number still named
 * that very thread, read the mask back.
 *
 *     set_floor CPU_A CPU_B PID...
 *
 * All threads of these processes are bound to one CPU by each letter on standard input: `a` and `b` go the four steps
 * to CPU_A or CPU_B, `A` and `B` only set. The nanoseconds that took and the number of threads that were set, proved
 * and read back are a line on standard output. Let the letters alternate: to set the mask that a thread has is cheaper.
 *
 * The proof is one listing of each process's threads after they were set: an entry's inode number is that of the
 * first listing, before the clock ran. For 50 threads that is half of what fstatat takes for each of them.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WORDS 1024

struct thread {
	uint64_t ino;
	int tid;
	int set;
};

struct process {
	char path[32];
	struct thread *threads;
	size_t count;
};

static char buffer[1 << 15] __attribute__((aligned(8)));
static uint64_t mask[WORDS], want[WORDS];
static size_t bytes;

static int open_task(const struct process *process)
{
	return open(process->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

/* List the threads anew, in the folder's order, which is that of their age: those that are known stay in place. */
static size_t list(int task, struct thread *threads, size_t room)
{
	size_t count = 0;
	ssize_t got;

	while ((got = getdents64(task, buffer, sizeof(buffer))) > 0)
		for (const char *at = buffer; at < buffer + got;) {
			const struct dirent64 *entry = (const void *)at;

			at += entry->d_reclen;
			if (*entry->d_name == '.' || count++ >= room)
				continue;
			threads[count - 1] = (struct thread){entry->d_ino, atoi(entry->d_name), 0};
		}
	return count;
}

static void remember(struct process *process)
{
	size_t room = 0;

	do {
		int task = open_task(process);

		room = room ? 2 * room : 64;
		process->threads = reallocarray(process->threads, room, sizeof(*process->threads));
		if (task < 0 || !process->threads)
			err(1, "%s", process->path);
		process->count = list(task, process->threads, room);
		close(task);
	} while (process->count > room);
}

static int get(int tid)
{
	return syscall(SYS_sched_getaffinity, tid, bytes, mask) >= 0;
}

static int set(int tid)
{
	return syscall(SYS_sched_setaffinity, tid, bytes, want) == 0;
}

/* Of the threads that were set, forget those that are no longer in the folder as they were; both listings are in order
 * of age. */
static void prove(int task, const struct process *process)
{
	size_t next = 0;
	ssize_t got;

	while ((got = getdents64(task, buffer, sizeof(buffer))) > 0)
		for (const char *at = buffer; at < buffer + got;) {
			const struct dirent64 *entry = (const void *)at;

			at += entry->d_reclen;
			if (*entry->d_name == '.')
				continue;
			while (next < process->count && process->threads[next].ino != entry->d_ino)
				process->threads[next++].set = 0;
			if (next < process->count) {
				process->threads[next].set &= process->threads[next].tid == atoi(entry->d_name);
				next++;
			}
		}
	while (next < process->count)
		process->threads[next++].set = 0;
}

static size_t four_steps(const struct process *process)
{
	int task = open_task(process);
	size_t done = 0;

	if (task < 0)
		return 0;
	for (size_t i = 0; i < process->count; i++) {
		struct thread *thread = &process->threads[i];

		thread->set = get(thread->tid) && memcmp(mask, want, bytes) && set(thread->tid);
	}
	prove(task, process);
	for (size_t i = 0; i < process->count; i++) {
		const struct thread *thread = &process->threads[i];

		done += thread->set && get(thread->tid) && !memcmp(mask, want, bytes);
	}
	close(task);
	return done;
}

static size_t only_set(const struct process *process)
{
	size_t done = 0;

	for (size_t i = 0; i < process->count; i++)
		done += set(process->threads[i].tid);
	return done;
}

int main(int argc, char **argv)
{
	struct process *processes;
	size_t count = argc > 3 ? argc - 3 : 0;
	struct timespec start, end;

	if (!count)
		errx(2, "usage: set_floor CPU_A CPU_B PID...");
	for (bytes = sizeof(*mask); bytes <= sizeof(mask) && !get(0); bytes *= 2)
		if (errno != EINVAL)
			err(1, "sched_getaffinity");
	processes = calloc(count, sizeof(*processes));
	if (!processes)
		err(1, "calloc");
	for (size_t i = 0; i < count; i++) {
		snprintf(processes[i].path, sizeof(processes[i].path), "/proc/%s/task", argv[3 + i]);
		remember(&processes[i]);
	}
	for (int letter; (letter = getchar()) != EOF;) {
		int cpu = atoi(argv[letter == 'a' || letter == 'A' ? 1 : 2]);
		int steps = letter == 'a' || letter == 'b';
		size_t done = 0, all = 0;

		memset(want, 0, sizeof(want));
		want[cpu / 64] |= 1ULL << cpu % 64;
		clock_gettime(CLOCK_MONOTONIC, &start);
		for (size_t i = 0; i < count; i++) {
			done += steps ? four_steps(&processes[i]) : only_set(&processes[i]);
			all += processes[i].count;
		}
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("%lld %zu\n", (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec, done);
		fflush(stdout);
		/* numbers change where the kernel gave back what it had cached: not a stranger, but no proof */
		if (done < all)
			for (size_t i = 0; i < count; i++)
				remember(&processes[i]);
	}
	return 0;
}
