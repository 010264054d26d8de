/*
 * What reading a machine's files costs at least: open, read and close each, in order, and understand nothing.
 *
 *     topology_floor ROOT LIST
 *
 * LIST has a line for each: "r PATH" is a file, "d PATH" a folder whose names are listed; PATH is relative to ROOT and
 * may be missing, which is tried all the same. For each byte on standard input all of LIST is gone through once, and
 * the nanoseconds that it took are a line on standard output.
 *
 * Flags, sizes and the rule when to read once more are those of kvmaff/host/tree.py: a short read ends a file of
 * sysfs, only an empty one ends a file of procfs.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
#define PAGE 4096
#define MOST (1 << 23)

static char buffer[MOST];

static void read_file(int root, const char *path)
{
	int fd = openat(root, path, FLAGS);
	ssize_t got;

	if (fd < 0)
		return;
	got = read(fd, buffer, PAGE);
	if (got == PAGE || strncmp(path, "sys/", 4) != 0)
		while (got > 0)
			got = read(fd, buffer, MOST);
	close(fd);
}

static void list_folder(int root, const char *path)
{
	int fd = openat(root, path, FLAGS | O_DIRECTORY);

	if (fd < 0)
		return;
	while (getdents64(fd, buffer, 1 << 15) > 0)
		;
	close(fd);
}

int main(int argc, char **argv)
{
	char **lines = NULL;
	size_t count = 0, room = 0, size = 0;
	struct timespec start, end;
	FILE *list;
	int root;

	if (argc != 3)
		errx(2, "usage: topology_floor ROOT LIST");
	root = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	list = fopen(argv[2], "re");
	if (root < 0 || !list)
		err(1, "%s", root < 0 ? argv[1] : argv[2]);
	for (char *line = NULL;; line = NULL) {
		ssize_t length = getline(&line, &size, list);

		if (length < 3)
			break;
		line[length - 1] = '\0';
		if (count == room) {
			room = room ? 2 * room : 1024;
			lines = reallocarray(lines, room, sizeof(*lines));
			if (!lines)
				err(1, "reallocarray");
		}
		lines[count++] = line;
		size = 0;
	}
	while (getchar() != EOF) {
		clock_gettime(CLOCK_MONOTONIC, &start);
		for (size_t i = 0; i < count; i++)
			(lines[i][0] == 'd' ? list_folder : read_file)(root, lines[i] + 2);
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("%lld\n", (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec);
		fflush(stdout);
	}
	return 0;
}
