/*
 * A host full of guests that are none: many processes called as a VMM is, with threads named as a VMM names its own,
 * among other processes. All of them sleep.
 *
 *     fakehost PARENT [VMMS [OTHERS [NAMES]]]
 *
 * Defaults: 200 VMMs, 500 others, names "CPU #/KVM:32,IO disk#:8,worker:8,call_rcu:1": 32 threads called CPU 0/KVM,
 * CPU 1/KVM and so on, and with the main thread 50 in all.
 *
 * In a new folder below PARENT, mode 0700, it puts two copies of itself and executes them: qemu-system-x86_64 and
 * idle. An executable's name is believed only where root alone could have put it there, so PARENT had better be
 * root's, up to the root folder, and nobody else's to write. When every thread sleeps under its name it prints
 *
 *     VMMS OTHERS
 *     PID …           one line of the VMMs
 *
 * and it ends when its standard input does, or when the thread that started it ends, or at SIGTERM, SIGINT or SIGHUP,
 * or when one of its processes does, which is an error. Then all its processes are killed and waited for, and the
 * folder is removed. They do not outlive it either where it is killed.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define VMM "qemu-system-x86_64"
#define OTHER "idle"
#define NAMES "CPU #/KVM:32,IO disk#:8,worker:8,call_rcu:1"
#define SELF "-fakehost" /* the first word of a copy's command line: which fakehost started it */

static char folder[PATH_MAX];
static pid_t *children;
static int started;

/* ---- in a copy ---- */

static sem_t named;

__attribute__((noreturn)) static void *sleeper(void *name)
{
	prctl(PR_SET_NAME, name);
	sem_post(&named);
	for (;;)
		pause();
}

static void start_threads(char *names)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int threads = 0;

	sem_init(&named, 0, 0);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN);
	pthread_attr_setguardsize(&attributes, 0);
	for (char *item = strtok(names, ","); item; item = strtok(NULL, ",")) {
		char *colon = strrchr(item, ':');
		int count = colon ? atoi(colon + 1) : 1;
		int length = colon ? (int)(colon - item) : (int)strlen(item);
		char *number = memchr(item, '#', length);

		for (int i = 0; i < count; i++, threads++) {
			char *name;
			int error;

			if (number)
				error = asprintf(&name, "%.*s%d%.*s", (int)(number - item), item, i,
						 (int)(item + length - number - 1), number + 1);
			else
				error = asprintf(&name, "%.*s", length, item);
			if (error < 0)
				err(1, "asprintf");
			error = pthread_create(&thread, &attributes, sleeper, name);
			if (error)
				errx(1, "pthread_create: %s", strerror(error));
		}
	}
	while (threads--)
		sem_wait(&named);
}

/* argv: NAME -fakehost PARENT_PID [-name guest=… NAMES]. Standard output is the pipe to the parent. */
static int be_copy(int argc, char **argv)
{
	int null;

	/* kept by execve; the second look is for a parent that ended before the first line */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != atoi(argv[2]))
		return 1;
	/* whatever the caller of the fakehost left open; fails before Linux 5.9, where there is more to read then */
	syscall(SYS_close_range, 3, ~0U, 0);
	null = open("/dev/null", O_RDWR);
	/* some others have three descriptors, some four */
	if (getpid() % 2)
		eventfd(0, 0);
	if (argc > 5)
		start_threads(strdupa(argv[5]));
	if (write(STDOUT_FILENO, ".", 1) != 1)
		return 1;
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	close(null);
	for (;;)
		pause();
}

/* ---- in the parent of all ---- */

static char *below(const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		err(1, "asprintf");
	return path;
}

/* End everything that was started, and leave. */
__attribute__((noreturn, format(printf, 2, 3))) static void leave(int status, const char *why, ...)
{
	va_list words;

	for (int i = 0; i < started; i++)
		if (children[i])
			kill(children[i], SIGKILL);
	while (wait(NULL) > 0 || errno == EINTR)
		;
	if (*folder) {
		unlink(below(VMM));
		unlink(below(OTHER));
		rmdir(folder);
	}
	if (why) {
		va_start(words, why);
		fputs("fakehost: ", stderr);
		vfprintf(stderr, why, words);
		fputc('\n', stderr);
		va_end(words);
	}
	exit(status);
}

static void copy_self(const char *name)
{
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int to = open(below(name), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
	struct stat info;

	if (from < 0 || to < 0 || fstat(from, &info) < 0)
		leave(1, "%s/%s: %s", folder, name, strerror(errno));
	for (off_t at = 0; at < info.st_size;)
		if (sendfile(to, from, &at, info.st_size - at) <= 0)
			leave(1, "%s/%s: %s", folder, name, strerror(errno));
	close(from);
	close(to);
}

static void start(const char *program, char **words, int output)
{
	pid_t pid = fork();
	sigset_t none;

	if (pid < 0)
		leave(1, "fork: %s", strerror(errno));
	if (pid) {
		children[started++] = pid;
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
	dup2(output, STDOUT_FILENO);
	execv(program, words);
	_exit(127);
}

/* Whether something says that this is the end: standard input, a signal, or a child that ended. */
static int ends(struct pollfd *watched)
{
	struct signalfd_siginfo got;
	char byte[64];

	if (watched[0].revents && read(STDIN_FILENO, byte, sizeof(byte)) <= 0)
		return 1;
	if (!watched[1].revents || read(watched[1].fd, &got, sizeof(got)) != sizeof(got))
		return 0;
	if (got.ssi_signo == SIGCHLD)
		leave(1, "process %u ended by itself (code %d, status %d)", got.ssi_pid, got.ssi_code,
		      got.ssi_status);
	return 1;
}

int main(int argc, char **argv)
{
	int vmms = argc > 2 ? atoi(argv[2]) : 200, others = argc > 3 ? atoi(argv[3]) : 500, up = 0;
	char *names = argc > 4 ? argv[4] : NAMES;
	struct pollfd watched[3] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.events = POLLIN}, {.events = POLLIN}};
	int pipes[2];
	char self[16];
	sigset_t signals;

	if (argc > 2 && !strcmp(argv[1], SELF))
		return be_copy(argc, argv);
	if (argc < 2 || argc > 5 || vmms < 0 || others < 0)
		errx(2, "usage: fakehost PARENT [VMMS [OTHERS [NAMES]]]");
	sigemptyset(&signals);
	for (const int *each = (int[]){SIGTERM, SIGINT, SIGHUP, SIGCHLD, 0}; *each; each++)
		sigaddset(&signals, *each);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	watched[1].fd = signalfd(-1, &signals, SFD_CLOEXEC);
	/* standard input says the same, but a process that was forked meanwhile may hold it open */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	snprintf(self, sizeof(self), "%d", getpid());
	children = calloc(vmms + others + 1, sizeof(*children));
	if (watched[1].fd < 0 || !children || pipe2(pipes, O_CLOEXEC) < 0)
		err(1, "fakehost");
	watched[2].fd = pipes[0];
	snprintf(folder, sizeof(folder), "%s/kvmaff-fakehost-XXXXXX", argv[1]);
	if (!mkdtemp(folder))
		err(1, "%s", folder);
	copy_self(VMM);
	copy_self(OTHER);
	for (int i = 0; i < vmms; i++) {
		char guest[64];

		snprintf(guest, sizeof(guest), "guest=fake%d,debug-threads=on", i);
		start(below(VMM), (char *[]){VMM, SELF, self, "-name", guest, names, NULL}, pipes[1]);
	}
	for (int i = 0; i < others; i++)
		start(below(OTHER), (char *[]){OTHER, SELF, self, NULL}, pipes[1]);
	close(pipes[1]);
	while (up < started) {
		char bytes[256];

		if (poll(watched, 3, -1) < 0)
			leave(1, "poll: %s", strerror(errno));
		if (ends(watched))
			leave(1, "told to end before all were up");
		if (watched[2].revents) {
			ssize_t got = read(pipes[0], bytes, sizeof(bytes));

			if (got <= 0)
				leave(1, "not all of them came up");
			up += (int)got;
		}
	}
	printf("%d %d\n", vmms, others);
	for (int i = 0; i < vmms; i++)
		printf("%d%c", children[i], i + 1 < vmms ? ' ' : '\n');
	if (!vmms)
		putchar('\n');
	fflush(stdout);
	while (poll(watched, 2, -1) >= 0 && !ends(watched))
		;
	leave(0, NULL);
}
