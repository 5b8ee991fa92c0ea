// How long a CUDA program takes to start: natively, with an empty library preloaded, and with libcuota.so, in random order.
//
//     cc -O2 -o start scripts/gpu/start.c -ldl -lm
//     CUOTA_DIR=DIR CUOTA_TENANT=NAME ./start TURNS EMPTY.so LIBCUOTA.so      (the tenant exists: cuota run made it)
//
// Prints, for each phase, the quartile and the median of each system in µs, and the median of the differences to native of the
// same turn with its 95 % interval (order statistics). CPU time stands beside wall time: a start that waits shows in one only.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NATIVE, EMPTY, CUOTA, SYSTEMS };
enum { MAIN, OPEN, INIT, CONTEXT, MEMORY, CPU, DONE, LIFE, PHASES };
#define TURNS_MAX 400
static const char *const system_names[] = {"native", "empty", "cuota"};
static const char *const phase_names[] = {"exec to main", "open+dlsym", "cuInit", "primary ctx", "set+alloc+sync",
                                          "cpu at end", "exec to done", "cpu whole life"};
static double samples[SYSTEMS][PHASES][TURNS_MAX];
extern char **environ;

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static double cpu_us(const struct rusage *use) {
    return (use->ru_utime.tv_sec + use->ru_stime.tv_sec) * 1e6 + use->ru_utime.tv_usec + use->ru_stime.tv_usec;
}

// The program that is started: prints when it reached main, how long each phase took, and its CPU time.
static int child(void) {
    double main_us = now_us();
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver)
        return 1;
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(driver, "cuInit");
    int (*retain)(void **, int) = (int (*)(void **, int))dlsym(driver, "cuDevicePrimaryCtxRetain");
    int (*set)(void *) = (int (*)(void *))dlsym(driver, "cuCtxSetCurrent");
    int (*allocate)(unsigned long long *, size_t) = (int (*)(unsigned long long *, size_t))dlsym(driver, "cuMemAlloc_v2");
    int (*synchronize)(void) = (int (*)(void))dlsym(driver, "cuCtxSynchronize");
    void *context;
    unsigned long long memory;
    double opened = now_us();
    if (init(0))
        return 1;
    double inited = now_us();
    if (retain(&context, 0))
        return 1;
    double retained = now_us();
    if (set(context) || allocate(&memory, 1 << 20) || synchronize())
        return 1;
    double done = now_us();
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    printf("%.1f %.1f %.1f %.1f %.1f %.1f\n", main_us, opened - main_us, inited - opened, retained - inited,
           done - retained, cpu_us(&use));
    fflush(stdout);
    _exit(0); // The driver's own end is not part of a start.
}

// Starts one program with `library` preloaded ("": none) and keeps its phases as sample `turn` of `system`.
static void start(char *self, int system, const char *library, int turn) {
    char preload[4096], text[300] = "";
    snprintf(preload, sizeof preload, "LD_PRELOAD=%s", library);
    char *environment[256];
    int count = 0;
    for (char **entry = environ; *entry && count < 250; entry++)
        environment[count++] = *entry;
    if (*library)
        environment[count++] = preload;
    environment[count] = NULL;
    int out[2];
    if (pipe(out))
        exit(1);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addclose(&actions, out[0]);
    char *arguments[] = {self, "child", NULL};
    pid_t pid;
    double exec = now_us();
    if (posix_spawn(&pid, self, &actions, NULL, arguments, environment))
        exit(1);
    close(out[1]);
    ssize_t got = read(out[0], text, sizeof text - 1);
    double done = now_us();
    close(out[0]);
    struct rusage use;
    wait4(pid, NULL, 0, &use);
    double main_us, phases[5];
    if (got <= 0 || sscanf(text, "%lf %lf %lf %lf %lf %lf", &main_us, phases, phases + 1, phases + 2, phases + 3, phases + 4) != 6) {
        fprintf(stderr, "a program under '%s' failed: is there a GPU, and is CUOTA_TENANT's quota large enough?\n", library);
        exit(1);
    }
    samples[system][MAIN][turn] = main_us - exec;
    for (int phase = 0; phase < 5; phase++)
        samples[system][OPEN + phase][turn] = phases[phase];
    samples[system][DONE][turn] = done - exec;
    samples[system][LIFE][turn] = cpu_us(&use);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(int phase, int turns) {
    double sorted[TURNS_MAX];
    printf("%-16s", phase_names[phase]);
    for (int system = 0; system < SYSTEMS; system++) {
        memcpy(sorted, samples[system][phase], turns * sizeof *sorted);
        qsort(sorted, turns, sizeof *sorted, ascending);
        printf(" | %s p25 %.0f p50 %.0f", system_names[system], sorted[turns / 4], sorted[turns / 2]);
    }
    int half = (int)(0.98 * sqrt(turns)); // 1.96 standard deviations of Binomial(turns, 1/2)
    for (int system = EMPTY; system < SYSTEMS; system++) {
        for (int turn = 0; turn < turns; turn++)
            sorted[turn] = samples[system][phase][turn] - samples[NATIVE][phase][turn];
        qsort(sorted, turns, sizeof *sorted, ascending);
        int middle = turns / 2;
        printf(" | %s-native %+.0f [%+.0f, %+.0f]", system_names[system], sorted[middle], sorted[middle - half],
               sorted[middle + half < turns ? middle + half : turns - 1]);
    }
    puts("");
}

int main(int count, char **arguments) {
    if (count == 2 && strcmp(arguments[1], "child") == 0)
        return child();
    int turns = count == 4 ? atoi(arguments[1]) : 0;
    if (turns < 8 || turns > TURNS_MAX)
        return fprintf(stderr, "usage: start TURNS EMPTY.so LIBCUOTA.so   (8 to %d turns)\n", TURNS_MAX), 2;
    const char *libraries[] = {"", arguments[2], arguments[3]};
    for (int turn = 0; turn < turns; turn++) {
        int order[] = {NATIVE, EMPTY, CUOTA};
        for (int i = SYSTEMS - 1; i > 0; i--) {
            int other = rand() % (i + 1), kept = order[i];
            order[i] = order[other], order[other] = kept;
        }
        for (int i = 0; i < SYSTEMS; i++) {
            start(arguments[0], order[i], libraries[order[i]], turn);
            usleep(20000); // The driver ends the last program's context meanwhile.
        }
    }
    for (int phase = 0; phase < PHASES; phase++)
        report(phase, turns);
    return 0;
}
