// Work of fixed size on the GPU, and how much of it gets done: for scripts/gpu/limiter and scripts/gpu/turns. The driver's API only; no toolkit.
//
//     limiter_guest rate WORKLOAD SECONDS [SCALE]     groups and seconds from the first to the last completed one; with its own clock
//     limiter_guest occupied WORKLOAD SECONDS         the part of the time in which its work is on the GPU, gaps below 50 us too, by timing events
//     limiter_guest series WORKLOAD SECONDS           CLOCK_MONOTONIC, ns, at which each group had ended
//     limiter_guest between WORKLOAD FROM SCALE TO    as series, from now until TO, and the ends from FROM on: both by CLOCK_MONOTONIC, s
//     limiter_guest bursts WORKLOAD FROM SCALE TO     25 graphs of 0.13 ms, each waited for, then 3 ms of nothing: us of each; "first" before a burst's first
//     limiter_guest launches STRETCHES THREADS ...    ns of a launch of an empty kernel, median over so many stretches of 200 without the first tenth; in the second
//                                                     half every other stretch goes past a preloaded library: the median of those, and of the ones between. Pairs
//                                                     of numbers give a line each; threads keep to a processor each, where there are as many
//
// SCALE is how many rounds of its loop a kernel of 1 us makes; `limiter_guest scale` measures it. Kernels are work and not time: one
// that spins on a clock would end on time while its program is held back.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef uint64_t u64;
#define DRIVER(X) \
    X(cuInit, (unsigned)) X(cuDevicePrimaryCtxRetain, (void **, int)) X(cuCtxSetCurrent, (void *)) \
    X(cuModuleLoadData, (void **, const void *)) X(cuModuleGetFunction, (void **, void *, const char *)) \
    X(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **)) \
    X(cuStreamCreate, (void **, unsigned)) X(cuStreamSynchronize, (void *)) X(cuStreamBeginCapture_v2, (void *, int)) \
    X(cuStreamEndCapture, (void *, void **)) X(cuGraphInstantiateWithFlags, (void **, void *, u64)) X(cuGraphLaunch, (void *, void *)) \
    X(cuEventCreate, (void **, unsigned)) X(cuEventRecord, (void *, void *)) X(cuEventSynchronize, (void *)) \
    X(cuEventElapsedTime, (float *, void *, void *)) X(cuMemAlloc_v2, (u64 *, size_t)) X(cuMemAllocHost_v2, (void **, size_t)) \
    X(cuMemcpyHtoDAsync_v2, (u64, const void *, size_t, void *)) X(cuMemcpyDtoHAsync_v2, (void *, u64, size_t, void *)) \
    X(cuCtxSynchronize, (void))
#define X(name, arguments) static int(*name) arguments;
DRIVER(X)
#undef X

static void check(int status, const char *what) {
    if (status) {
        fprintf(stderr, "%s: CUDA error %d\n", what, status);
        exit(1);
    }
}
#define OK(call) check(call, #call)

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// A chain of multiplications that nothing can shorten: as many rounds as asked, in each of so many threads.
static const char ptx[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    "// cuota-sim: spin_arg=1 sms=132\n"
    ".visible .entry work(.param .u64 rounds, .param .u64 sim_ns, .param .u64 out)\n{\n"
    " .reg .b64 %rd<4>;\n .reg .f32 %f<3>;\n .reg .pred %p<2>;\n ld.param.u64 %rd1, [rounds];\n mov.f32 %f1, 0f3F800000;\n"
    " mov.f32 %f2, 0f3F800001;\nLOOP:\n fma.rn.f32 %f1, %f1, %f2, %f2;\n fma.rn.f32 %f1, %f1, %f2, %f2;\n"
    " fma.rn.f32 %f1, %f1, %f2, %f2;\n fma.rn.f32 %f1, %f1, %f2, %f2;\n sub.u64 %rd1, %rd1, 1;\n setp.ne.u64 %p1, %rd1, 0;\n"
    " @%p1 bra LOOP;\n ld.param.u64 %rd2, [out];\n setp.eq.u64 %p1, %rd2, 0;\n @%p1 bra END;\n st.global.f32 [%rd2], %f1;\nEND:\n ret;\n}\n"
    "// cuota-sim: cost_ns=2000 sms=1\n.visible .entry empty()\n{\n ret;\n}\n";

static void *work, *empty_kernel, *streams[4], *graph;
static double scale = 100; // rounds of a microsecond
static u64 memory;
static void *host;

static void launch(void *stream, double us, unsigned blocks) {
    u64 rounds = (u64)(us * scale) + 1, sim_ns = (u64)(us * 1000), out = 0;
    void *parameters[] = {&rounds, &sim_ns, &out};
    OK(cuLaunchKernel(work, blocks, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
}

static void capture(int kernels, double us) {
    void *captured;
    OK(cuStreamBeginCapture_v2(streams[0], 2));
    for (int i = 0; i < kernels; i++) launch(streams[0], us, 264);
    OK(cuStreamEndCapture(streams[0], &captured));
    OK(cuGraphInstantiateWithFlags(&graph, captured, 0));
}

static void pause_us(double us) {
    double until = now() + us / 1e6;
    while (now() < until) {}
}

// One group of a workload; whether it is waited for.
typedef struct {
    const char *name;
    int waited;
    double us; // of a group, about
} Workload;
static const Workload workloads[] = {{"5us", 0, 500},     {"100us", 0, 500},   {"1ms", 0, 1000},      {"20ms", 0, 20000}, {"graph", 0, 400},
                                     {"sync", 1, 100},    {"streams", 0, 800}, {"training", 1, 1300}, {"decode", 1, 350}};

static void group(int kind) {
    switch (kind) {
    case 0: for (int i = 0; i < 100; i++) launch(streams[0], 5, 264); break;
    case 1: for (int i = 0; i < 5; i++) launch(streams[0], 100, 264); break;
    case 2: launch(streams[0], 1000, 264); break;
    case 3: launch(streams[0], 20000, 264); break;
    case 4: for (int i = 0; i < 4; i++) OK(cuGraphLaunch(graph, streams[0])); break;
    case 5: launch(streams[0], 100, 264); break;
    case 6: for (int i = 0; i < 16; i++) launch(streams[i % 4], 200, 66); break;
    case 7:
        pause_us(300);
        OK(cuMemcpyHtoDAsync_v2(memory, host, 4 << 20, streams[0]));
        for (int i = 0; i < 6; i++) launch(streams[0], 150, 264);
        OK(cuMemcpyDtoHAsync_v2(host, memory, 4, streams[0]));
        break;
    default: OK(cuGraphLaunch(graph, streams[0])); break;
    }
    if (workloads[kind].waited) OK(cuStreamSynchronize(streams[0]));
}

static int find(const char *name) {
    for (int i = 0; i < 9; i++)
        if (strcmp(workloads[i].name, name) == 0) return i;
    fprintf(stderr, "%s is no workload\n", name);
    exit(2);
}

enum { DEPTH = 64 };
static void *marks[4][DEPTH];

// Runs groups for so many seconds with about 8 ms of them in the queue; calls `ended` with the time at which each had ended.
static long run(int kind, double seconds, void (*ended)(long, double)) {
    int depth = (int)(8000 / workloads[kind].us) + 2, several = kind == 6;
    if (depth > DEPTH) depth = DEPTH;
    double until = now() + seconds;
    long started = 0, done = 0;
    for (;;) {
        int goes_on = now() < until;
        if (goes_on) {
            group(kind);
            if (workloads[kind].waited) {
                ended(done++, now());
                started++;
                continue;
            }
            for (int s = 0; s < (several ? 4 : 1); s++) OK(cuEventRecord(marks[s][started % depth], streams[s]));
            started++;
        }
        if (started - done == depth || (!goes_on && done < started)) {
            for (int s = 0; s < (several ? 4 : 1); s++) OK(cuEventSynchronize(marks[s][done % depth]));
            ended(done++, now());
        }
        if (!goes_on && done == started) return done;
    }
}

static double first_s, last_s, warm_until_s, until_s;
static long counted;
static void count(long index, double at) {
    (void)index;
    // A group is seen to have ended when the queue is full. What is drained at the end is seen sooner: those groups would count without
    // their time, 8 ms of work in a window of seconds.
    if (at < warm_until_s || at > until_s) return;
    if (counted++ == 0) first_s = at;
    last_s = at;
}
static void print(long index, double at) {
    (void)index;
    printf("%.0f\n", at * 1e9);
}

static void print_between(long index, double at) {
    if (at >= warm_until_s && at <= until_s) print(index, at);
}

static void bursts(void) {
    enum { STEPS = 25 };
    while (now() < until_s) {
        double us[STEPS], begun = now();
        for (int i = 0; i < STEPS; i++) {
            double begin = now();
            OK(cuGraphLaunch(graph, streams[0]));
            OK(cuStreamSynchronize(streams[0]));
            us[i] = (now() - begin) * 1e6;
        }
        for (int i = 0; i < STEPS && begun >= warm_until_s; i++) printf(i ? "%.1f\n" : "first %.1f\n", us[i]);
        struct timespec idle = {0, 3000000};
        nanosleep(&idle, NULL);
    }
}

static double occupied(int kind, double seconds) {
    void *starts[2], *ends[2];
    for (int i = 0; i < 2; i++) {
        OK(cuEventCreate(&starts[i], 0));
        OK(cuEventCreate(&ends[i], 0));
    }
    double busy = 0, begin = now();
    for (long turn = 0; now() < begin + seconds; turn++) {
        void *start = starts[turn % 2], *end = ends[turn % 2];
        // The pauses and the copies of a training step are the host's and the bus's.
        if (kind == 7) {
            pause_us(300);
            OK(cuMemcpyHtoDAsync_v2(memory, host, 4 << 20, streams[0]));
        }
        OK(cuEventRecord(start, streams[0]));
        if (kind == 7) for (int i = 0; i < 6; i++) launch(streams[0], 150, 264);
        else if (kind == 5) launch(streams[0], 100, 264);
        else OK(cuGraphLaunch(graph, streams[0]));
        OK(cuEventRecord(end, streams[0]));
        if (kind == 7) OK(cuMemcpyDtoHAsync_v2(host, memory, 4, streams[0]));
        OK(cuStreamSynchronize(streams[0]));
        float ms;
        OK(cuEventElapsedTime(&ms, start, end));
        busy += ms / 1e3;
        if (turn == 0) continue;
        // A gap that no neighbour could use counts.
        OK(cuEventElapsedTime(&ms, ends[(turn + 1) % 2], start));
        if (ms > 0 && ms < 0.05) busy += ms / 1e3;
    }
    return busy / (now() - begin);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// A function of a library by its own table: what a preloaded library answers to dlsym is its own.
static void *function_of(void *library, const char *name) {
    struct link_map *map;
    if (dlinfo(library, RTLD_DI_LINKMAP, &map)) return NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *strings = NULL;
    const uint32_t *table = NULL;
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag; entry++) {
        void *at = (void *)entry->d_un.d_ptr;
        if (entry->d_tag == DT_SYMTAB) symbols = at;
        if (entry->d_tag == DT_STRTAB) strings = at;
        if (entry->d_tag == DT_GNU_HASH) table = at;
    }
    if (!symbols || !strings || !table) return NULL;
    uint32_t hash = 5381, buckets = table[0], first = table[1];
    for (const char *c = name; *c; c++) hash = hash * 33 + (unsigned char)*c;
    const uint32_t *bucket = table + 4 + table[2] * (sizeof(size_t) / 4), *chain = bucket + buckets;
    for (uint32_t i = bucket[hash % buckets]; i >= first && i; i++) {
        uint32_t of = chain[i - first];
        if ((of | 1) == (hash | 1) && !strcmp(strings + symbols[i].st_name, name)) return (char *)map->l_addr + symbols[i].st_value;
        if (of & 1) break;
    }
    return NULL;
}

enum { STRETCH = 200, KINDS = 3 };
static void *context;
static long stretches;
static int thread_count, (*past_library)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
static pthread_barrier_t together;
struct launcher {
    int index;
    double ns[KINDS];
};

static double median(double *values, long count) {
    qsort(values, count, sizeof *values, by_value);
    return count ? values[count / 2] : 0;
}

// The scheduler may put a thread on the processors far from the GPU, in one process and not in the next.
static void keep_to_a_processor(int index) {
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) || CPU_COUNT(&all) <= thread_count) return;
    int left = (CPU_COUNT(&all) - 1) - index * ((CPU_COUNT(&all) - 1) / thread_count);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && left-- == 0) CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

static void *launch_many(void *argument) {
    struct launcher *me = argument;
    void *stream;
    keep_to_a_processor(me->index);
    OK(cuCtxSetCurrent(context));
    OK(cuStreamCreate(&stream, 1));
    double *ns[KINDS];
    long counts[KINDS] = {0};
    for (int kind = 0; kind < KINDS; kind++) ns[kind] = malloc(sizeof **ns * stretches);
    for (long i = 0; i < stretches; i++) {
        int is_late = i >= stretches / 2, goes_past = is_late && i % 2;
        pthread_barrier_wait(&together);
        double begin = now();
        for (int j = 0; j < STRETCH; j++) OK((goes_past ? past_library : cuLaunchKernel)(empty_kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
        double took = now() - begin, each = took * 1e9 / STRETCH;
        OK(cuStreamSynchronize(stream));
        if (i >= stretches / 10 && !goes_past) ns[0][counts[0]++] = each;
        if (is_late) ns[1 + !goes_past][counts[1 + !goes_past]++] = each;
        // Launches without pause occupy the GPU, since gaps below 50 us count: a cap of 99 % would hold them. Half of the time is enough.
        pthread_barrier_wait(&together);
        pause_us(took * 1e6 + 100);
    }
    for (int kind = 0; kind < KINDS; kind++) me->ns[kind] = median(ns[kind], counts[kind]);
    return NULL;
}

static void launches(void) {
    enum { MOST = 64 };
    pthread_t ids[MOST];
    struct launcher launchers[MOST];
    if (thread_count < 1 || thread_count > MOST || stretches < 10) exit(2);
    pthread_barrier_init(&together, NULL, thread_count);
    for (int i = 0; i < thread_count; i++) {
        launchers[i].index = i;
        pthread_create(&ids[i], NULL, launch_many, &launchers[i]);
    }
    for (int i = 0; i < thread_count; i++) pthread_join(ids[i], NULL);
    for (int kind = 0; kind < KINDS; kind++) {
        double of[MOST];
        for (int i = 0; i < thread_count; i++) of[i] = launchers[i].ns[kind];
        printf(kind < KINDS - 1 ? "%.1f " : "%.1f\n", median(of, thread_count));
    }
    pthread_barrier_destroy(&together);
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: see the first lines of limiter_guest.c\n"), 2;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return fprintf(stderr, "%s\n", dlerror()), 1;
#define X(name, arguments) if (!(name = (int(*) arguments)dlsym(driver, #name))) return fprintf(stderr, #name " is missing\n"), 1;
    DRIVER(X)
#undef X
    void *module;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, ptx));
    OK(cuModuleGetFunction(&work, module, "work"));
    OK(cuModuleGetFunction(&empty_kernel, module, "empty"));
    OK(cuMemAlloc_v2(&memory, 4 << 20));
    OK(cuMemAllocHost_v2(&host, 4 << 20));
    for (int s = 0; s < 4; s++) {
        OK(cuStreamCreate(&streams[s], 1));
        for (int i = 0; i < DEPTH; i++) OK(cuEventCreate(&marks[s][i], 2));
    }
    const char *mode = argv[1];
    if (strcmp(mode, "launches") == 0) {
        if (!(past_library = (int(*)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **))function_of(driver, "cuLaunchKernel")))
            return fprintf(stderr, "libcuda.so.1 has no cuLaunchKernel in its table\n"), 1;
        // What a library starts at the first launch, threads of its own, is to keep to no processor.
        OK(cuLaunchKernel(empty_kernel, 1, 1, 1, 1, 1, 1, 0, streams[0], NULL, NULL));
        OK(cuStreamSynchronize(streams[0]));
        for (int i = 2; i + 1 < argc; i += 2) {
            stretches = atol(argv[i]), thread_count = atoi(argv[i + 1]);
            launches();
        }
        return 0;
    }
    if (strcmp(mode, "scale") == 0) {
        scale = 1;
        double best = 1e9;
        for (int i = 0; i < 7; i++) {
            double begin = now();
            launch(streams[0], 1e6, 264);
            OK(cuStreamSynchronize(streams[0]));
            double took = now() - begin;
            if (took < best) best = took;
        }
        printf("%.3f\n", 1 / best);
        return 0;
    }
    if (argc < 4) return 2;
    int kind = find(argv[2]);
    double seconds = atof(argv[3]);
    if (argc > 4) scale = atof(argv[4]);
    int is_burst = strcmp(mode, "bursts") == 0;
    if (is_burst) capture(26, 5);
    else if (kind == 4) capture(20, 5);
    else if (kind == 8) capture(40, 8);
    if (strcmp(mode, "occupied") == 0) {
        printf("%.6f\n", occupied(kind, seconds));
    } else if (strcmp(mode, "series") == 0) {
        setvbuf(stdout, NULL, _IOLBF, 0);
        run(kind, seconds, print);
    } else if (argc > 5) {
        warm_until_s = seconds;
        until_s = atof(argv[5]);
        if (is_burst) bursts();
        else run(kind, until_s - now(), print_between);
    } else {
        warm_until_s = now() + 0.5;
        until_s = warm_until_s + seconds;
        run(kind, seconds + 0.5, count);
        printf("%ld %.6f\n", counted - 1, last_s - first_s);
    }
    return 0;
}
