/* See procscan.h for the rules. One translation unit, so that what its parts share stays private. */
#define _GNU_SOURCE
#include "procscan.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "procscan_files.c"
#include "procscan_masks.c"
#include "procscan_sweep.c"
#include "procscan_bind.c"
#include "procscan_pages.c"
