/* A wall clock that can be set wrong for one program and all below it: preloaded by chaos.py.

   The file that CHAOS_CLOCK names holds seconds to add to the true time, read again every half second. Only the time
   of day changes: monotonic clocks and sleeps stay as they are, as they would on a host whose clock is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*true_clock)(clockid_t, struct timespec *);
static long offset;
static time_t looked = -1;
static long looked_part;

static long seconds_wrong(void)
{
    struct timespec now;
    const char *path = getenv("CHAOS_CLOCK");
    if (path == NULL || true_clock(CLOCK_MONOTONIC, &now) != 0)
        return 0;
    if (now.tv_sec != looked || now.tv_nsec / 500000000 != looked_part) {
        char text[32];
        int file = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t length = file < 0 ? 0 : read(file, text, sizeof text - 1);
        if (file >= 0)
            close(file);
        if (length > 0) {
            text[length] = 0;
            offset = strtol(text, NULL, 10);
        }
        looked = now.tv_sec;
        looked_part = now.tv_nsec / 500000000;
    }
    return offset;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    if (true_clock == NULL)
        true_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = true_clock(clock, time);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += seconds_wrong();
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return (time_t)-1;
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}
