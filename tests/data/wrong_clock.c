/*
 * Adds the seconds in the file $NEUROBRIDGE_TEST_CLOCK to the system clock of the program that loads this library. The
 * monotonic clock is unchanged, as when the clock of a machine is set.
 *
 * A wait until a time of the system clock ends when the changed clock reaches this time. A step of the clock therefore
 * shortens or lengthens the wait, as in the kernel.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>

static long offset(void) {
    /* Opening a file may read the clock. */
    static __thread int is_reading;
    long seconds = 0;
    if (is_reading) return 0;
    is_reading = 1;
    const char *path = getenv("NEUROBRIDGE_TEST_CLOCK");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    is_reading = 0;
    return seconds;
}

static int real_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return real(clock, time);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = real_gettime(clock, time);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

/* A fiftieth of a second of the real clock from now, or the end of the wait if it is earlier; returns whether it is. */
static int slice(const struct timespec *until, struct timespec *end) {
    const long length = 20000000;
    long ahead = offset();
    struct timespec last = {until->tv_sec - ahead, until->tv_nsec};
    real_gettime(CLOCK_REALTIME, end);
    end->tv_nsec += length;
    if (end->tv_nsec >= 1000000000) {
        end->tv_nsec -= 1000000000;
        end->tv_sec++;
    }
    if (last.tv_sec > end->tv_sec || (last.tv_sec == end->tv_sec && last.tv_nsec > end->tv_nsec)) return 0;
    *end = last;
    return 1;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real)
        real = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlsym(RTLD_NEXT,
                                                                                           "pthread_cond_timedwait");
    for (;;) {
        struct timespec end;
        int is_last = slice(until, &end);
        int result = real(condition, mutex, &end);
        if (result != ETIMEDOUT || is_last) return result;
    }
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    static int (*real)(cnd_t *, mtx_t *, const struct timespec *);
    if (!real) real = (int (*)(cnd_t *, mtx_t *, const struct timespec *))dlsym(RTLD_NEXT, "cnd_timedwait");
    for (;;) {
        struct timespec end;
        int is_last = slice(until, &end);
        int result = real(condition, mutex, &end);
        if (result != thrd_timedout || is_last) return result;
    }
}
