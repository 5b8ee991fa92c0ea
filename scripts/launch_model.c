// A driver with a card's costs, and threads on virtual time: for scripts/launch_model, which says what it is for. Compiled four times:
// TIME (preloaded before libcuota.so), DRIVER (libcuda.so.1), NVML (libnvidia-ml.so.1) and GUEST.
//
// One thread runs at a time, the one whose clock is least; so there are as many processors as threads, and a run is hardly moved by the machine.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

double v_now(void);               // the calling thread's clock, ns
void v_advance(double ns);        // it computes
void v_block_until(double at);    // it sleeps
void v_enter(void), v_leave(void); // it takes part, or waits for what does not
void v_barrier(int threads);

#ifdef TIME
enum { OUT, READY, BLOCKED };
static const double SLACK = 55000, WAKE = 8000, CLOCK = 25, NEVER = 1e299;
static struct thread {
    int state;
    double at, deadline;
    const void *key; // what it waits for
    pthread_cond_t cond;
} threads[80];
static int count, running = -1;
static __thread int me = -1;
static pthread_mutex_t big = PTHREAD_MUTEX_INITIALIZER;

static void pick(void) {
    double least = NEVER;
    running = -1;
    for (int i = 0; i < count; i++) {
        struct thread *t = &threads[i];
        double at = t->state == READY ? t->at : t->state == BLOCKED ? t->deadline : NEVER;
        if (at < least) least = at, running = i;
    }
    if (running < 0) return;
    struct thread *next = &threads[running];
    if (next->state == BLOCKED) next->state = READY, next->at = next->deadline, next->key = NULL;
    if (running != me) pthread_cond_signal(&next->cond);
}
static void reschedule(void) {
    pick();
    while (running != me) pthread_cond_wait(&threads[me].cond, &big);
}
void v_enter(void) {
    pthread_mutex_lock(&big);
    if (me < 0) {
        me = count++;
        pthread_cond_init(&threads[me].cond, NULL);
        threads[me].at = 1e12;
    }
    if (running >= 0 && threads[running].at > threads[me].at) threads[me].at = threads[running].at;
    threads[me].state = READY;
    if (running < 0) pick();
    while (running != me) pthread_cond_wait(&threads[me].cond, &big);
    pthread_mutex_unlock(&big);
}
void v_leave(void) {
    pthread_mutex_lock(&big);
    threads[me].state = OUT;
    pick();
    pthread_mutex_unlock(&big);
}
// The helper thread of the library comes by itself.
static void lock(void) {
    if (me < 0) v_enter();
    pthread_mutex_lock(&big);
}
double v_now(void) {
    if (me < 0) v_enter();
    return threads[me].at;
}
void v_advance(double ns) {
    lock();
    threads[me].at += ns;
    reschedule();
    pthread_mutex_unlock(&big);
}
static void block(const void *key, double deadline) {
    threads[me].state = BLOCKED, threads[me].key = key, threads[me].deadline = deadline;
    reschedule();
}
void v_block_until(double at) {
    lock();
    if (at > threads[me].at) block(NULL, at);
    pthread_mutex_unlock(&big);
}
static void ready(struct thread *t, double at) {
    t->state = READY, t->key = NULL;
    if (at > t->at) t->at = at;
}
void v_wait(uint32_t *word, uint32_t expected, uint64_t deadline_ns) {
    v_advance(300);
    lock();
    double now = threads[me].at, deadline = deadline_ns == UINT64_MAX ? NEVER : deadline_ns > now ? deadline_ns + SLACK : now;
    if (__atomic_load_n(word, __ATOMIC_SEQ_CST) == expected) block(word, deadline);
    pthread_mutex_unlock(&big);
}
void v_wake(uint32_t *word) {
    v_advance(1500);
    lock();
    for (int i = 0; i < count; i++)
        if (threads[i].state == BLOCKED && threads[i].key == word) ready(&threads[i], threads[me].at + WAKE);
    reschedule();
    pthread_mutex_unlock(&big);
}
void v_yield(void) { v_advance(700); }
void v_sleep(uint64_t ns) { v_block_until(v_now() + ns + SLACK); }
void v_barrier(int of) {
    static int arrived;
    static double latest;
    lock();
    if (threads[me].at > latest) latest = threads[me].at;
    if (++arrived < of) {
        block(&arrived, NEVER);
    } else {
        arrived = 0;
        double at = latest + 5000;
        for (int i = 0; i < count; i++)
            if (i == me || (threads[i].state == BLOCKED && threads[i].key == &arrived)) ready(&threads[i], at += 700);
        reschedule();
    }
    pthread_mutex_unlock(&big);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    if (clock != CLOCK_MONOTONIC && clock != CLOCK_MONOTONIC_COARSE) return syscall(SYS_clock_gettime, clock, time);
    v_advance(CLOCK);
    uint64_t ns = (uint64_t)v_now();
    if (clock == CLOCK_MONOTONIC_COARSE) ns -= ns % 1000000;
    time->tv_sec = ns / 1000000000, time->tv_nsec = ns % 1000000000;
    return 0;
}
#endif

#ifdef DRIVER
// What the calls take on an H100, ns; and the part of it that is under the driver's lock.
static const double LAUNCH_LOCKED = 1250, RECORD = 1900, QUERY = 1500, ELAPSED = 2500, KERNEL = 1340, MARK = 1900, LATENCY = 2000;
static double launch = 3600, locked = 0.6, jitter, lock_free, kernel = KERNEL;
// Who has made no stream is the library's helper: its calls, and its rounds. (The guest's beginning, some calls, counts as its own.)
static __thread int is_guest;
static long helper_calls, helper_modes;
// The calls in each stretch: between the times that all streams were waited for.
enum { LAUNCHES, RECORDS, QUERIES, TIMES, KINDS, STRETCHES = 1000 };
static long calls[STRETCHES + 1][KINDS], syncs;
static struct stream { double until, speed; long launches; } streams[1024], *last = streams;
static double events[65536], *next_event = events;
static char context[64];

__attribute__((constructor)) static void begin(void) {
    if (getenv("MODEL_LOCKED")) locked = atof(getenv("MODEL_LOCKED"));
    if (getenv("MODEL_LAUNCH")) launch = atof(getenv("MODEL_LAUNCH"));
    if (getenv("MODEL_KERNEL")) kernel = atof(getenv("MODEL_KERNEL"));
    if (getenv("MODEL_JITTER")) jitter = atof(getenv("MODEL_JITTER"));
}
__attribute__((destructor)) static void end(void) {
    if (calls[0][LAUNCHES] && getenv("MODEL_COUNTS")) {
        FILE *out = fopen(getenv("MODEL_COUNTS"), "w");
        for (long(*of)[KINDS] = calls; (*of)[LAUNCHES]; of++)
            fprintf(out, "%ld %ld %ld %ld\n", (*of)[LAUNCHES], (*of)[RECORDS], (*of)[QUERIES], (*of)[TIMES]);
        // Its capture mode is exchanged before each round and after it.
        fprintf(out, "helper %ld %ld\n", helper_calls, helper_modes / 2);
        fclose(out);
    }
}
static double random_part(void) {
    static unsigned long long state = 88172645463325252ull;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (state >> 11) * 0x1p-53;
}
static void call(int kind, double ns, double under_lock) {
    helper_calls += !is_guest;
    long stretch = last > streams ? syncs / (last - streams) : 0;
    calls[stretch < STRETCHES ? stretch : STRETCHES - 1][kind]++;
    v_advance(ns - under_lock);
    double now = v_now();
    lock_free = (lock_free > now ? lock_free : now) + under_lock;
    v_block_until(lock_free);
}
static struct stream *of(void *stream) {
    return stream >= (void *)streams && stream < (void *)(streams + 1024) ? stream : streams;
}
static double put(void *stream, double ns) {
    double begins = v_now() + LATENCY, *until = &of(stream)->until;
    return *until = (*until > begins ? *until : begins) + ns;
}
int cuLaunchKernel(void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned h, void *stream, void **k, void **x) {
    struct stream *on = of(stream);
    // The processor is faster and slower for a millisecond, and now and then away for a tenth of one.
    if (on->launches++ % 256 == 0) on->speed = 1 + jitter * (2 * random_part() - 1);
    double away = jitter > 0 && random_part() < 0.0005 ? 150000 * random_part() : 0;
    call(LAUNCHES, launch * on->speed + away, LAUNCH_LOCKED);
    put(stream, kernel);
    return 0;
}
int cuEventRecord(double *event, void *stream) {
    *event = put(stream, MARK);
    call(RECORDS, RECORD, RECORD * locked);
    return 0;
}
int cuEventQuery(double *event) {
    call(QUERIES, QUERY, QUERY * locked);
    return v_now() < *event ? 600 : 0;
}
int cuStreamQuery(void *stream) { return cuEventQuery(&of(stream)->until); }
int cuEventElapsedTime(float *ms, double *from, double *to) {
    int is_early = v_now() < *to || v_now() < *from;
    call(TIMES, is_early ? QUERY : ELAPSED, (is_early ? QUERY : ELAPSED) * locked);
    *ms = (float)((*to - *from) * 1e-6);
    return is_early ? 600 : 0;
}
int cuStreamSynchronize(void *stream) {
    v_block_until(of(stream)->until + 5000);
    syncs++;
    return 0;
}
int cuStreamCreate(void **stream, unsigned flags) { return is_guest = 1, *stream = __atomic_add_fetch(&last, sizeof *last, __ATOMIC_RELAXED), 0; }
int cuEventCreate(void **event, unsigned flags) { return *event = __atomic_fetch_add(&next_event, sizeof *events, __ATOMIC_RELAXED), 0; }
int cuEventDestroy_v2(void *event) { return 0; }
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuCtxGetDevice(int *device) { return *device = 0; }
int cuCtxGetCurrent(void **current) { return *current = context, 0; }
int cuCtxSetCurrent(void *current) { return 0; }
int cuDevicePrimaryCtxRetain(void **retained, int device) { return *retained = context, 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return *flags = 0, *active = 1, 0; }
int cuDeviceGetCount(int *devices) { return *devices = 1, 0; }
int cuDeviceGetUuid_v2(char *uuid, int device) { return memcpy(uuid, "the model driver", 16), 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = 16ul << 30, 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { return *value = which == 16 ? 132 : which == 39 ? 2048 : 1, 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = 16ul << 30, 0; }
int cuThreadExchangeStreamCaptureMode(int *mode) { return helper_modes += !is_guest, 0; }
int cuStreamIsCapturing(void *stream, int *is) { return *is = 0; }
int cuStreamGetCtx(void *stream, void **of) { return *of = context, 0; }
int cuFuncGetAttribute(int *value, int which, void *function) { return *value = 0; }
int cuCtxGetLimit(size_t *value, int which) { return *value = 1024, 0; }
int cuModuleLoadData(void **module, const void *image) { return *module = context, 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { return *function = context + 8, 0; }
#endif

#ifdef NVML
struct info { unsigned pid, pad; unsigned long long bytes; unsigned instances[2]; };
static int device;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { return *handle = &device, 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) { return *handle = &device, 0; }
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned room) { return strcpy(uuid, "GPU-74686520-6d6f-6465-6c20-647269766572"), 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, struct info *infos) {
    if (*count) infos[0] = (struct info){.pid = getpid(), .bytes = 500 << 20};
    return *count = 1, 0;
}
#endif

#ifdef GUEST
// As `launches` of scripts/gpu/limiter_guest.c: stretches of launches of an empty kernel by each thread on a stream of its own. With a rest each thread goes its
// own way, and rests so long after each; a negative one is a period, and nothing is waited for.
typedef int (*function)();
static function cuInit, cuDevicePrimaryCtxRetain, cuCtxSetCurrent, cuModuleLoadData, cuModuleGetFunction, cuStreamCreate, cuStreamSynchronize;
static int (*cuLaunchKernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
static void *context, *kernel;
static long stretches, each;
static double rest;
static int threads;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static void *launch_many(void *median) {
    void *stream;
    double *ns = malloc(sizeof *ns * stretches);
    v_enter();
    cuCtxSetCurrent(context);
    cuStreamCreate(&stream, 1);
    for (long i = 0; i < stretches; i++) {
        if (rest == 0) v_barrier(threads);
        double begin = v_now();
        for (int j = 0; j < each; j++) cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
        ns[i] = (v_now() - begin) / each;
        if (rest >= 0) cuStreamSynchronize(stream);
        if (rest == 0) v_barrier(threads);
        v_block_until(rest < 0 ? begin - rest : v_now() + (rest > 0 ? rest : ns[i] * each + 100000));
    }
    v_leave();
    qsort(ns, stretches, sizeof *ns, by_value);
    *(double *)median = ns[stretches / 2];
    return NULL;
}
int main(int argc, char **argv) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *module;
    if (argc != 5 || !driver) return fprintf(stderr, "%s\n", driver ? "launch_model STRETCHES THREADS EACH REST" : dlerror()), 2;
#define FIND(name) name = (void *)dlsym(driver, #name)
    FIND(cuInit), FIND(cuDevicePrimaryCtxRetain), FIND(cuCtxSetCurrent), FIND(cuModuleLoadData), FIND(cuModuleGetFunction);
    FIND(cuStreamCreate), FIND(cuStreamSynchronize), FIND(cuLaunchKernel);
    stretches = atol(argv[1]), threads = atoi(argv[2]), each = atol(argv[3]), rest = atof(argv[4]);
    v_enter();
    cuInit(0), cuDevicePrimaryCtxRetain(&context, 0), cuCtxSetCurrent(context);
    cuModuleLoadData(&module, ""), cuModuleGetFunction(&kernel, module, "empty");
    v_leave();
    pthread_t ids[64];
    double medians[64];
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, launch_many, &medians[i]);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    v_enter();
    qsort(medians, threads, sizeof *medians, by_value);
    printf("%.0f\n", medians[threads / 2]);
    return 0;
}
#endif
