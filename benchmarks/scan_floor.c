/*
 * What looking at every guest's threads costs at least: the system calls, and what they say put away.
 *
 *     scan_floor [--descriptors]
 *
 * For each byte on standard input /proc is scanned once; the nanoseconds that took and the number of threads found are
 * a line on standard output. A scan: list /proc; of each process read the link exe; where its file's name begins with
 * qemu-system- ask whose file it is, list its threads, and of each read the name and the CPU mask. With --descriptors
 * all other processes' descriptors are gone through for a KVM VM, and the threads of those that hold one are read
 * likewise; that is work only where nothing else tells that no such process exists.
 *
 * Nothing is proved, sorted, compared with an earlier scan or looked up by anyone: kvmaff does all that on top.
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FLAGS (O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
#define VMM "qemu-system-"
#define VM "anon_inode:kvm-vm"

struct row {
	uint64_t ino;
	int pid, tid, length, root;
	char name[64];
};

static struct row *rows;
static uint64_t *masks;
static size_t count, room, words;

/* The next numeric entry of a folder, from what getdents put at *at; NULL at the end of that. */
static const struct dirent64 *next_number(const char **at, const char *end)
{
	while (*at < end) {
		const struct dirent64 *entry = (const void *)*at;

		*at += entry->d_reclen;
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
			return entry;
	}
	return NULL;
}

static void look_at_thread(int task, const struct dirent64 *entry, int pid, int root)
{
	struct row *row;
	char path[32];
	int fd;

	if (count == room) {
		room = room ? 2 * room : 1 << 14;
		rows = reallocarray(rows, room, sizeof(*rows));
		masks = reallocarray(masks, room, words * sizeof(*masks));
		if (!rows || !masks)
			err(1, "reallocarray");
	}
	row = &rows[count];
	row->pid = pid;
	row->tid = atoi(entry->d_name);
	row->ino = entry->d_ino;
	row->root = root;
	strcpy(stpcpy(path, entry->d_name), "/comm");
	fd = openat(task, path, FLAGS);
	if (fd < 0)
		return;
	row->length = (int)read(fd, row->name, sizeof(row->name));
	close(fd);
	if (syscall(SYS_sched_getaffinity, row->tid, words * sizeof(*masks), masks + count * words) >= 0)
		count++;
}

static void look_at_threads(int proc, const char *process, int root)
{
	char buffer[1 << 15] __attribute__((aligned(8))), path[32];
	int pid = atoi(process), task;
	ssize_t got;

	strcpy(stpcpy(path, process), "/task");
	task = openat(proc, path, FLAGS | O_DIRECTORY);
	if (task < 0)
		return;
	while ((got = getdents64(task, buffer, sizeof(buffer))) > 0) {
		const char *at = buffer;
		const struct dirent64 *entry;

		while ((entry = next_number(&at, buffer + got)))
			look_at_thread(task, entry, pid, root);
	}
	close(task);
}

static int holds_vm(int proc, const char *process)
{
	char buffer[1 << 12] __attribute__((aligned(8))), path[32], link[64];
	int folder, found = 0;
	ssize_t got;

	strcpy(stpcpy(path, process), "/fd");
	folder = openat(proc, path, FLAGS | O_DIRECTORY);
	if (folder < 0)
		return 0;
	while (!found && (got = getdents64(folder, buffer, sizeof(buffer))) > 0) {
		const char *at = buffer;
		const struct dirent64 *entry;

		while (!found && (entry = next_number(&at, buffer + got)))
			found = readlinkat(folder, entry->d_name, link, sizeof(link)) == strlen(VM) &&
				!memcmp(link, VM, strlen(VM));
	}
	close(folder);
	return found;
}

static void look_at_process(int proc, const char *process, int descriptors)
{
	char link[4096], path[32], *name;
	struct stat info;
	ssize_t length;

	strcpy(stpcpy(path, process), "/exe");
	length = readlinkat(proc, path, link, sizeof(link) - 1);
	if (length < 0)
		return; /* a kernel thread, a zombie, gone, or nothing we may look at */
	link[length] = '\0';
	name = strrchr(link, '/');
	if (name && !strncmp(name + 1, VMM, strlen(VMM)))
		look_at_threads(proc, process, fstatat(proc, path, &info, 0) == 0 && info.st_uid == 0);
	else if (descriptors && holds_vm(proc, process))
		look_at_threads(proc, process, 0);
}

static void scan(int descriptors)
{
	char buffer[1 << 15] __attribute__((aligned(8)));
	int proc = open("/proc", FLAGS | O_DIRECTORY);
	ssize_t got;

	if (proc < 0)
		err(1, "/proc");
	count = 0;
	while ((got = getdents64(proc, buffer, sizeof(buffer))) > 0) {
		const char *at = buffer;
		const struct dirent64 *entry;

		while ((entry = next_number(&at, buffer + got)))
			look_at_process(proc, entry->d_name, descriptors);
	}
	close(proc);
}

int main(int argc, char **argv)
{
	int descriptors = argc == 2 && !strcmp(argv[1], "--descriptors");
	struct timespec start, end;
	uint64_t probe[1024];

	if (argc > 2 || (argc == 2 && !descriptors))
		errx(2, "usage: scan_floor [--descriptors]");
	for (words = 1; words < 1024; words *= 2)
		if (syscall(SYS_sched_getaffinity, 0, words * sizeof(*probe), probe) >= 0 || errno != EINVAL)
			break;
	while (getchar() != EOF) {
		clock_gettime(CLOCK_MONOTONIC, &start);
		scan(descriptors);
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("%lld %zu\n", (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec, count);
		fflush(stdout);
	}
	return 0;
}
